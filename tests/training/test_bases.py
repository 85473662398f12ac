"""Bases by name: the default model's own weights, known models, and folders."""

from pathlib import Path

import numpy as np
import pytest
from skimage import data

import samsdk
from samsdk_training.bases import PACKAGED, find_base
from samsdk_training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.torch_predictor import TorchPredictor


def test_the_packaged_base_is_what_the_default_bundle_runs() -> None:
    base = find_base("student")
    predictor = samsdk.load(device="cpu")
    checkpoint = load_checkpoint(PACKAGED["student"])
    torch_predictor = TorchPredictor.of(checkpoint, checkpoint.build())
    image = np.ascontiguousarray(data.astronaut()[:300, :400])
    answers = [
        one.decode(one.encode(image), box=(120, 20, 320, 280)).low_res_logits for one in (predictor, torch_predictor)
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-3)
    # What is trained on it is of 32 bits, and the same numbers.
    assert all(
        tensor.dtype == base.checkpoint.state[key].float().dtype for key, tensor in base.checkpoint.state.items()
    )
    assert base.checkpoint.model == checkpoint.model


def test_a_folder_is_a_base_too(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(PACKAGED["student"])
    save_checkpoint(checkpoint, tmp_path / "mine")
    assert find_base(tmp_path / "mine").sha256 == find_base("student").sha256


def test_who_asks_for_what_is_not_there_is_told_what_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMSDK_CACHE_DIR", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"no checkpoint at 'nothing': expected .*student, lite-medsam"):
        find_base("nothing")
    with pytest.raises(CheckpointError, match="run `samsdk models pull lite-medsam` first"):
        find_base("lite-medsam")
