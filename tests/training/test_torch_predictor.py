import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk_training.checkpoints import Checkpoint
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
