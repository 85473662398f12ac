"""Filling a bundle for volumes: one graph for a crop, golden crops, manifest and card."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from samsdk.bundle import GOLDEN, MANIFEST
from samsdk.errors import MissingExtraError
from samsdk.io.nifti import read_canonical
from samsdk.manifest import FORMAT
from samsdk.tiers import VOLUME_PARTS
from samsdk.volumes.golden import GoldenCrop, write_crops
from samsdk.volumes.grid import Sampler
from samsdk.volumes.intensity import VoxelIntensity, VoxelScale
from samsdk.volumes.predictor import INPUT, OUTPUT
from samsdk.volumes.preprocessing import VolumePreprocessing
from samsdk_export.manifest_writer import exporter, file_entry
from samsdk_export.model_card import CARD, model_card
from samsdk_export.onnx_export import FORBIDDEN_OPERATORS, export_graph
from samsdk_export.tier_writer import EXACT, Progress, TierRequest, add_tiers
from samsdk_training.checkpoints import Checkpoint

NETWORK = f"{VOLUME_PARTS[0]}.onnx"
# Trilinear enlarging has no other operator, and with static shapes engines build it.
_FORBIDDEN = tuple(name for name in FORBIDDEN_OPERATORS if name != "Resize")
_MOST_WINDOWS = 64
# nibabel's example data: an EPI of a head, and an anatomical scan.
_VOLUMES = ("example4d.nii.gz", "anatomical.nii")
_UNSCALED = VoxelScale(-np.inf, np.inf, 0.0, 1.0, keep_zeros=False)


class VolumeGraph(nn.Module):
    """A network for volumes under the names of the contract.

    Args:
        network: in evaluation mode; it is left as it is.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, volume: Tensor) -> Tensor:
        """Windows [N, 1, D, H, W] to logits [N, classes, D, H, W]."""
        logits: Tensor = self.network(volume)
        return logits


def fill_volume_bundle(
    staging: Path,
    checkpoint: Checkpoint,
    about: Mapping[str, Any],
    request: TierRequest,
    progress: Progress,
) -> None:
    """Write all files of a bundle for volumes, and prove it.

    Args:
        staging: an empty folder.
        checkpoint: of the task `volume`.
        about: `name`, `version` and `accuracy` of the manifest.
        request: engines beside full precision.
        progress: called with a line before each step.

    Raises:
        ExportError: the graph breaks the contract.
        ParityError: the bundle does not compute what the checkpoint computes.
        MissingExtraError: engines need TensorRT-RTX, the golden crops nibabel, which is not installed.
    """
    progress("building the model")
    network, rules = checkpoint.build_network(), checkpoint.volume
    progress("exporting the network")
    (staging / NETWORK).write_bytes(export_network(network, rules.crop))
    progress("asking the torch model the golden crops")
    (staging / GOLDEN).write_bytes(write_crops(golden_crops(network, rules)))
    manifest = {**_manifest(checkpoint), "flops": {VOLUME_PARTS[0]: _count_flops(network, rules.crop)}, **about}
    (staging / CARD).write_text(model_card(manifest), encoding="utf-8")
    manifest["files"] = {file.name: file_entry(file) for file in sorted(staging.iterdir())}
    add_tiers(staging / MANIFEST, manifest, request, None, progress)


def export_network(network: nn.Module, crop: tuple[int, int, int]) -> bytes:
    """A network for volumes as an ONNX file: `volume` [N, 1, D, H, W] to `logits`, N dynamic.

    Args:
        network: in evaluation mode.
        crop: (D, H, W), which are static.
    """
    example = torch.rand(2, 1, *crop, generator=torch.Generator().manual_seed(0))
    windows = torch.export.Dim("N", min=1, max=_MOST_WINDOWS)
    dynamic = {"volume": {0: windows}}
    return export_graph(VolumeGraph(network), (example,), (INPUT,), (OUTPUT,), dynamic, ("gelu",), _FORBIDDEN)


def golden_crops(network: nn.Module, rules: VolumePreprocessing) -> list[GoldenCrop]:
    """The torch model's answers to two real volumes, stretched to a crop.

    Args:
        network: in evaluation mode, float32.
        rules: the checkpoint's.
    """
    crops = []
    for voxels in golden_volumes(rules.crop, rules.intensity):
        given = torch.from_numpy(rules.intensity.apply(voxels))[None, None]
        with torch.inference_mode():
            crops.append(GoldenCrop.of(voxels, network(given)[0].numpy()))
    return crops


def golden_volumes(crop: tuple[int, int, int], intensity: VoxelIntensity) -> list[NDArray[np.int16]]:
    """Two real volumes of a head, [D, H, W] of a crop.

    Args:
        crop: (D, H, W).
        intensity: the checkpoint's. Where it has a window the numbers are stretched to it: these are MR, of which a
            window of Hounsfield units may show one value alone, and norms then divide by rounding errors.
    """
    found = []
    for name in _VOLUMES:
        values = read_canonical(_example(name)).values
        volume = np.ascontiguousarray((values if values.ndim == 3 else values[..., 0]).T)
        planes: NDArray[np.floating] = Sampler(volume, _UNSCALED, crop).planes(0, crop[0])
        if intensity.lowest is not None and intensity.highest is not None:
            planes = np.interp(planes, (planes.min(), planes.max()), (intensity.lowest, intensity.highest))
        found.append(np.rint(planes).astype(np.int16))
    return found


def _example(name: str) -> Path:
    package = find_spec("nibabel")
    if package is None or package.origin is None:
        raise MissingExtraError("exporting a model for volumes needs nibabel: pip install 'samsdk[export]'")
    return Path(package.origin).parent / "tests" / "data" / name


def _count_flops(network: Callable[[Tensor], Tensor], crop: tuple[int, int, int]) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, *crop))
    return int(counter.get_total_flops())


def _manifest(checkpoint: Checkpoint) -> dict[str, Any]:
    network = {"file": NETWORK, "precision": "float32"}
    return {
        "format": FORMAT,
        "name": "",
        "version": "",
        "task": checkpoint.task,
        "geometry": dict(checkpoint.geometry),
        "intensity": dict(checkpoint.intensity),
        "normalisation": dict(checkpoint.normalisation),
        "prompts": {"kinds": [], "trained": []},
        "classes": dict(checkpoint.classes),
        "flops": {},
        "licence": dict(checkpoint.licence),
        "lineage": {**checkpoint.lineage, "exporter": exporter()},
        "files": {},
        "tiers": {EXACT: [{"engines": ["onnxruntime", "openvino"], VOLUME_PARTS[0]: network}]},
        "parity": {},
        "accuracy": {},
    }
