"""The peers: one row of the table each, the environment that it runs in, and where that lies on this machine."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from samsdk.hub import cache_dir

HERE: Final = Path(__file__).parent
RECORD: Final = "installed.json"


@dataclass(frozen=True)
class EncoderCost:
    """What an encoder has to do for one image at least.

    Attributes:
        flops: operations.
        bytes: of its weights, its input and its output, each moved once, as float32.
    """

    flops: int
    bytes: int


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    Attributes:
        name: of the row.
        environment: its environment: a requirements file, and a folder once it is installed; rows may share one.
        worker: its script, in this folder.
        options: of its `load` request.
        checkpoint: the name under which `samsdk models pull` knows its published weights, if it does; without them
            they are random, and only latency and memory can be said of the row.
        random_only: whether its weights are random in any case.
        encoder: its operations and bytes, where they were counted.
    """

    name: str
    environment: str
    worker: str
    options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    random_only: bool = False
    encoder: EncoderCost | None = None


# Counted with torch's FlopCounterMode: two operations a multiplication and addition.
LITE_MEDSAM: Final = EncoderCost(74_948_705_280, 27_887_696)
VIT_B: Final = EncoderCost(742_316_113_920, 375_460_864)
PEERS: Final = (
    Peer("lite_medsam", "lite_medsam", "lite_medsam_worker.py", encoder=LITE_MEDSAM),
    Peer("lite_medsam_onnx", "lite_medsam_onnx", "lite_medsam_onnx_worker.py", encoder=LITE_MEDSAM),
    Peer(
        "lite_medsam_openvino",
        "lite_medsam_openvino",
        "lite_medsam_openvino_worker.py",
        {"precision": None},
        encoder=LITE_MEDSAM,
    ),
    Peer(
        "lite_medsam_openvino_f32",
        "lite_medsam_openvino",
        "lite_medsam_openvino_worker.py",
        {"precision": "f32"},
        encoder=LITE_MEDSAM,
    ),
    Peer("segment_anything", "segment_anything", "segment_anything_worker.py", checkpoint="sam-vit-b", encoder=VIT_B),
    Peer("mobile_sam", "mobile_sam", "mobile_sam_worker.py", checkpoint="mobile-sam"),
    Peer("efficientvit_sam", "efficientvit_sam", "efficientvit_sam_worker.py", random_only=True),
    Peer("osam", "osam", "osam_worker.py", random_only=True),
    Peer("micro_sam", "micro_sam", "micro_sam_worker.py", checkpoint="sam-vit-b", encoder=VIT_B),
)
# What has to be made in an environment's folder once it is installed: a script that is run in it, given the folder.
PREPARATIONS: Final = {
    "lite_medsam_onnx": "export_lite_medsam.py",
    "lite_medsam_openvino": "export_lite_medsam.py",
    "osam": "export_sam_vit_b.py",
}
ENVIRONMENTS: Final = tuple(dict.fromkeys(peer.environment for peer in PEERS))


@dataclass(frozen=True)
class Environment:
    """One environment: what it is made of and where it lies.

    Attributes:
        name: as in `Peer.environment`.
        requirements: a file of exact versions, all that is needed.
        preparation: the script that is run when all is installed, if any.
        folder: what belongs to it lies here.
    """

    name: str
    requirements: Path
    preparation: Path | None
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of what it is made of: another one of the packages, or of the preparation, means that it is made again."""
        files = {"packages": self.requirements, "preparation": self.preparation}
        return {what: hashlib.sha256(path.read_bytes()).hexdigest() for what, path in files.items() if path}

    @property
    def record(self) -> dict[str, Any]:
        """What installing it left: `versions`, or `error` with the reason; empty if nobody tried."""
        path = self.folder / RECORD
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def unavailable(self) -> str | None:
        """Why its peers cannot run, or None if they can."""
        record = self.record
        if not record:
            return "not installed: run benchmarks/peers/install.py"
        if record.get("error"):
            return str(record["error"])
        return None if self.python.exists() else f"its interpreter is gone from {self.folder.name}/env"


def peers_folder() -> Path:
    """Where environments lie if nobody says otherwise: in the user's cache, see `samsdk.hub.cache_dir`."""
    return cache_dir() / "peers"


def find_environment(name: str, folder: Path | None = None) -> Environment:
    """An environment of `ENVIRONMENTS` by its name, in a folder of environments."""
    script = PREPARATIONS.get(name)
    return Environment(
        name,
        HERE / "requirements" / f"{name}.txt",
        HERE / script if script else None,
        (peers_folder() if folder is None else folder) / name,
    )


def load_request(peer: Peer, environment: Environment) -> dict[str, Any]:
    """What a peer's `load` needs to know besides the threads; a checkpoint that was pulled is used."""
    request: dict[str, Any] = {"folder": str(environment.folder), **peer.options}
    if peer.checkpoint is not None:
        from samsdk.hub import weights_path

        weights = weights_path(peer.checkpoint)
        request["weights"] = str(weights) if weights.is_file() else None
    return request
