from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import samsdk
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.class_points import joint_points
from samsdk_training.torch_predictor import TorchPredictor


@pytest.mark.parametrize(
    "prompt",
    [
        {"box": (355, 300, 490, 440)},
        {"points": [(400, 380)]},
        {"points": [(400, 380), (100, 90)], "labels": [1, 0]},
        {"points": [(400, 380)], "box": (355, 300, 490, 440)},
        {"mask": np.ones((660, 550), bool)},
    ],
)
def test_torch_answers_as_the_bundle_does(
    tiny_checkpoint: Checkpoint, predictor: samsdk.Predictor, cell: NDArray[np.uint8], prompt: dict
) -> None:
    theirs = TorchPredictor(tiny_checkpoint.build(), predictor.manifest.preprocessing)
    mine, reference = predictor.segment(cell, **prompt), theirs.decode(theirs.encode(cell), **prompt)
    np.testing.assert_allclose(reference.low_res_logits, mine.low_res_logits, atol=1e-4)
    np.testing.assert_allclose(reference.scores, mine.scores, atol=1e-4)
    assert np.count_nonzero(reference.mask != mine.mask) <= 20
    assert reference.provider == "torch"


@pytest.mark.parametrize("single", ["first", "best"])
def test_torch_chooses_the_mask_that_the_bundle_chooses(
    tiny_checkpoint: Checkpoint, predictor: samsdk.Predictor, cell: NDArray[np.uint8], single: str
) -> None:
    checkpoint = replace(tiny_checkpoint, prompts={**tiny_checkpoint.prompts, "single": single})
    theirs = TorchPredictor.of(checkpoint, checkpoint.build())
    box = (355, 300, 490, 440)
    answer = theirs.decode(theirs.encode(cell), box=box)
    offered = predictor.decode(predictor.encode(cell), box=box, multimask=single == "best")
    np.testing.assert_allclose(answer.low_res_logits[0], offered.low_res_logits[offered.best], atol=1e-4)
    assert answer.score == pytest.approx(offered.score, abs=1e-4)


def test_torch_names_classes_as_the_bundle_does(
    semantic_checkpoint: Checkpoint, semantic_bundle: Path, cell: NDArray[np.uint8]
) -> None:
    theirs = TorchPredictor.of(semantic_checkpoint, semantic_checkpoint.build())
    answer, mine = theirs.decode(theirs.encode(cell)), samsdk.load(semantic_bundle, device="cpu").segment(cell)
    np.testing.assert_allclose(answer.low_res_logits, mine.low_res_logits, atol=1e-4)
    assert answer.labels == mine.labels
    assert np.count_nonzero(answer.masks != mine.masks) <= 20
    with pytest.raises(samsdk.PromptError, match="this bundle takes no prompt, got box"):
        theirs.decode(theirs.encode(cell), box=(1, 2, 30, 40))


def test_torch_takes_points_that_name_classes_as_in_training(
    class_point_checkpoint: Checkpoint, semantic_checkpoint: Checkpoint, cell: NDArray[np.uint8]
) -> None:
    label = np.zeros(cell.shape, np.uint8)
    label[300:440, 355:490], label[20:90, 20:200] = 1, 3
    points = joint_points(label, 4, np.random.default_rng(0), 2)
    model = class_point_checkpoint.build()
    theirs = TorchPredictor.of(class_point_checkpoint, model)
    assert theirs.takes_class_points
    embedding = theirs.encode(cell)
    answer = theirs.decode_classes(embedding, points)
    # By hand: both sides of the input square are scaled alike, classes that are not shown pad the row.
    scale = theirs.preprocessing.input_size / max(cell.shape)
    coords = torch.tensor(points.points * scale)[None]
    with torch.inference_mode():
        image = {name: torch.tensor(tensor) for name, tensor in embedding.tensors.items()}
        logits = model.decode_all(image, class_points=(coords, torch.tensor(points.classes)[None]))[0][0]
    np.testing.assert_allclose(answer.low_res_logits, logits.numpy(), atol=1e-3)
    assert answer.label_map.shape == cell.shape
    alone = theirs.decode(embedding)
    assert np.abs(answer.low_res_logits - alone.low_res_logits).max() > 0.1
    plain = TorchPredictor.of(semantic_checkpoint, semantic_checkpoint.build())
    np.testing.assert_allclose(alone.low_res_logits, plain.decode(plain.encode(cell)).low_res_logits, atol=1e-5)
    with pytest.raises(samsdk.PromptError, match="was not trained with points that name classes"):
        plain.decode_classes(embedding, points)
