"""A bundle whose network is one convolution: small enough for the runtime's tests, and easy to repeat with torch."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import samsdk
from samsdk.volumes import Volume
from samsdk.volumes.preprocessing import VolumePreprocessing

KERNEL = 5
CLASSES = ("background", "kidney", "tumour")
ZSCORE = {"rule": "zscore_nonzero"}


def geometry(**changes: Any) -> dict[str, Any]:
    given = {"crop": [16, 12, 20], "spacing": None, "orientation": None, "overlap": 0.5, "blending": "gaussian"}
    return {"rule": "sliding_window", **given, **changes}


def filters(classes: int = len(CLASSES)) -> np.ndarray:
    values = np.random.default_rng(4).normal(size=(classes, 1, KERNEL, KERNEL, KERNEL)) / KERNEL**1.5
    return values.astype(np.float32)


@pytest.fixture(scope="session")
def torch_network() -> Callable[[torch.Tensor], torch.Tensor]:
    """What the bundle's graph computes."""
    kernel = torch.from_numpy(filters())
    return lambda windows: torch.tanh(torch.nn.functional.conv3d(windows, kernel, padding=KERNEL // 2)) * 3


def write_graph(path: Path, crop: list[int], weights: np.ndarray) -> None:
    shape = ["N", 1, *crop]
    nodes = [
        helper.make_node("Conv", ["volume", "weights"], ["sums"], pads=[KERNEL // 2] * 6),
        helper.make_node("Tanh", ["sums"], ["small"]),
        helper.make_node("Mul", ["small", "three"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("volume", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(weights), *crop])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.float32(3), "three")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def volume_manifest(file: Path, rules: VolumePreprocessing, classes: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    content = file.read_bytes()
    return {
        "format": 1,
        "name": "organs3d",
        "version": "1",
        "task": "volume",
        "geometry": rules.geometry(),
        "intensity": rules.intensity.to_dict(),
        "normalisation": {"rule": "none"},
        "prompts": {"kinds": [], "trained": []},
        "classes": {str(number): name for number, name in enumerate(classes)},
        "flops": {"network": 1e6},
        "licence": {"id": "CC0-1.0"},
        "lineage": {},
        "files": {file.name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}},
        "tiers": {
            "exact": [{"engines": ["onnxruntime", "openvino"], "network": {"file": file.name, "precision": "float32"}}]
        },
        "parity": {},
        "accuracy": {},
    }


MakePredictor = Callable[..., samsdk.VolumePredictor]


@pytest.fixture
def make_predictor(tmp_path: Path) -> MakePredictor:
    """A predictor of a bundle with other geometry, intensity or filters than usual."""

    def make(
        intensity: dict[str, Any] = ZSCORE, weights: np.ndarray | None = None, **changes: Any
    ) -> samsdk.VolumePredictor:
        folder = tmp_path / f"bundle{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        rules = VolumePreprocessing.of(geometry(**changes), intensity)
        kernel = filters() if weights is None else weights
        write_graph(folder / "network.onnx", list(rules.crop), kernel)
        classes = CLASSES if len(kernel) == len(CLASSES) else tuple(f"class {number}" for number in range(len(kernel)))
        manifest = volume_manifest(folder / "network.onnx", rules, classes)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        predictor = samsdk.load(folder, device="cpu", threads=1, uncertified="onnxruntime-cpu")
        assert isinstance(predictor, samsdk.VolumePredictor)
        return predictor

    return make


@pytest.fixture
def volume() -> Volume:
    """Blobs of either sign on a ground of zeros, no side like another."""
    generator = np.random.default_rng(2)
    coarse = torch.from_numpy(generator.normal(size=(1, 1, 6, 8, 10)))
    smooth = torch.nn.functional.interpolate(coarse, size=(37, 41, 53), mode="trilinear")[0, 0].numpy()
    array = np.rint(smooth * 200).astype(np.int16)
    array[:, :6] = 0
    return Volume.of(array, spacing=(2.0, 1.0, 0.8))
