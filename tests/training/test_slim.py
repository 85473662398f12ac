"""A slim checkpoint is the same model, but for one rounding of its weights."""

from dataclasses import replace

import pytest
import torch

from samsdk_training.checkpoints import Checkpoint, CheckpointError
from samsdk_training.slim import slim


def test_every_weight_is_a_half_and_near_what_it_was(student_checkpoint: Checkpoint) -> None:
    slimmed = slim(student_checkpoint)
    for tensor in slimmed.checkpoint.state.values():
        assert torch.equal(tensor, tensor.half().to(tensor.dtype))
    # Half precision rounds to eleven bits.
    assert 0 < slimmed.largest_change <= 2**-11
    assert slimmed.checkpoint.lineage["slim"]["largest_relative_change"] == slimmed.largest_change


def test_batch_norms_are_gone_and_the_model_answers_nearly_the_same(student_checkpoint: Checkpoint) -> None:
    checkpoint = slim(student_checkpoint).checkpoint
    assert checkpoint.model["encoder"]["batch_norm"] is False
    assert not any("running_mean" in name for name in checkpoint.state)
    image, box = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([[9.0, 9, 50, 40]])
    with torch.no_grad():
        before, _ = student_checkpoint.build()(image, boxes=box)
        after, _ = checkpoint.build()(image, boxes=box)
    torch.testing.assert_close(after, before, rtol=0, atol=0.01 * before.abs().max().item())


def test_a_model_without_batch_norms_is_only_rounded(tiny_checkpoint: Checkpoint) -> None:
    checkpoint = slim(tiny_checkpoint).checkpoint
    assert checkpoint.model == tiny_checkpoint.model
    for name, tensor in tiny_checkpoint.state.items():
        expected = tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor
        assert torch.equal(checkpoint.state[name], expected)
    again = slim(checkpoint)
    assert again.largest_change == 0.0


def test_a_weight_beyond_half_precision_is_refused(tiny_checkpoint: Checkpoint) -> None:
    name = "mask_decoder.iou_token.weight"
    state = {**tiny_checkpoint.state, name: torch.full_like(tiny_checkpoint.state[name], 7e4)}
    with pytest.raises(CheckpointError, match=r"mask_decoder.iou_token.weight .* up to 7e\+04"):
        slim(replace(tiny_checkpoint, state=state))
