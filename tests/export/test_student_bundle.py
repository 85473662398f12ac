"""A student, whose encoder has two outputs, goes the same way as every other model: checkpoint, bundle, mask."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

import samsdk
from samsdk_export.bundle_writer import write_bundle
from samsdk_training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def bundle(student_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    save_checkpoint(student_checkpoint, folder / "checkpoint")
    return write_bundle(load_checkpoint(folder / "checkpoint"), folder / "bundle", name="student")


def test_the_bundle_passed_parity_and_names_both_embeddings(bundle: Path) -> None:
    manifest = samsdk.Bundle.open(bundle).manifest
    assert manifest.embedding == {"image_embeddings": (32, 8, 8), "high_res_features": (8, 16, 16)}
    assert manifest.mask_side == 32
    certificate = manifest.parity["exact"]["onnxruntime-cpu"]
    assert certificate["passed"]
    assert certificate["max_logit_difference"] < 1e-4


def test_the_graphs_hand_both_embeddings_over(bundle: Path) -> None:
    encoder, decoder = onnx.load(bundle / "encoder.onnx"), onnx.load(bundle / "decoder.onnx")
    names = [output.name for output in encoder.graph.output]
    assert names == ["image_embeddings", "high_res_features"]
    assert set(names) <= {value.name for value in decoder.graph.input}
    assert "Resize" not in {node.op_type for node in encoder.graph.node}


def test_the_runtime_answers_as_torch_and_stores_both_embeddings(
    student_checkpoint: Checkpoint, bundle: Path, cell: NDArray[np.uint8], tmp_path: Path
) -> None:
    predictor = samsdk.load(bundle, device="cpu")
    embedding = predictor.encode(cell)
    result = predictor.decode(embedding, points=[(420, 370)])
    square, frame = predictor.manifest.preprocessing.apply_image(cell)
    model = student_checkpoint.build()
    points = torch.from_numpy(predictor.manifest.preprocessing.apply_coords(np.array([[[420.0, 370.0]]]), frame))
    with torch.inference_mode():
        logits, _ = model(torch.from_numpy(square), points=(points, torch.ones(1, 1)))
    np.testing.assert_allclose(result.low_res_logits, logits[0].numpy(), atol=1e-4)
    embedding.save(tmp_path / "cell.npz")
    again = predictor.decode(samsdk.Embedding.load(tmp_path / "cell.npz"), points=[(420, 370)])
    np.testing.assert_array_equal(again.low_res_logits, result.low_res_logits)
