"""Slim checkpoints: the same model in half the bytes, for devices and for shipping inside a package.

Batch norms are folded into convolutions, then every weight is rounded to the nearest half-precision number. What comes
out is a checkpoint of its own, in float32 as every other: its certificate is made against these rounded weights, and
the export stores each of them in 16 bits without any further loss.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from samsdk_training.checkpoints import Checkpoint, CheckpointError
from samsdk_training.models.student import StudentEncoder, fold_batch_norms


@dataclass(frozen=True)
class Slimmed:
    """A slim checkpoint and what it cost.

    Attributes:
        checkpoint: the new one.
        largest_change: the largest change of a weight by the rounding, relative to the largest weight of its tensor.
    """

    checkpoint: Checkpoint
    largest_change: float


def slim(checkpoint: Checkpoint) -> Slimmed:
    """Fold batch norms and round all weights to half precision.

    Args:
        checkpoint: of any model; batch norms are folded where the encoder is a student with them.

    Raises:
        CheckpointError: a weight is too large for half precision.
    """
    model, config = checkpoint.build(), dict(checkpoint.model)
    if isinstance(model.image_encoder, StudentEncoder) and model.image_encoder.config.batch_norm:
        model.image_encoder = fold_batch_norms(model.image_encoder)
        config["encoder"] = {**config["encoder"], "batch_norm": False}
    state, largest = {}, 0.0
    for name, tensor in model.state_dict().items():
        state[name], change = _round(name, tensor)
        largest = max(largest, change)
    lineage = {**checkpoint.lineage, "slim": {"weights": "float16", "largest_relative_change": largest}}
    return Slimmed(replace(checkpoint, model=config, state=state, lineage=lineage), largest)


def _round(name: str, tensor: Tensor) -> tuple[Tensor, float]:
    if not tensor.is_floating_point():
        return tensor, 0.0
    rounded = tensor.to(torch.float16).to(tensor.dtype)
    if not torch.isfinite(rounded).all():
        raise CheckpointError(f"{name} holds weights beyond half precision: up to {tensor.abs().max().item():.3g}")
    scale = tensor.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return rounded, float(((rounded - tensor).abs().max() / scale).item())
