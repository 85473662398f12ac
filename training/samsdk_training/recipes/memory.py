"""Memory: what a base answered before it was fine-tuned, asked again on the new images where they are not labelled.

After Li and Hoiem, Learning without forgetting, 2016: no old image is needed. A model that is fine-tuned on one kind of
object soon sees that object under every click; the base's own answers to clicks and boxes elsewhere keep it from that.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from samsdk.prompts import FOREGROUND
from samsdk_training.data import tight_box
from samsdk_training.losses import dice_loss
from samsdk_training.models.sam import Sam
from samsdk_training.simulate import Box

# Sides of a random box, as shares of the image's.
_SIDES: Final = (0.1, 0.7)


def memory_loss(
    model: Sam, base: Sam, images: Tensor, masks: Tensor, generator: torch.Generator, *, boxes: float = 0.5
) -> Tensor:
    """How far a model's answers to random prompts are from its base's.

    Args:
        model: in training mode.
        base: in evaluation mode, on the same device.
        images: [N, 3, S, S], preprocessed.
        masks: [N, S, S] bool, objects that are learned anew: no point falls on them.
        generator: the source of chance.
        boxes: probability that all are prompted by boxes instead of points.

    Returns:
        Scalar: cross entropy and Dice loss against the base's probabilities, and the squared difference of the
        predicted IoU, means over images.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
    # What is not padding, which is 0 in all channels.
    shown = (images != 0).any(1).cpu().numpy()
    points, corners = None, None
    if rng.random() < boxes:
        corners = torch.tensor([_random_box(one, rng) for one in shown], device=images.device)
    else:
        drawn = [_random_point(one, other, rng) for one, other in zip(shown, masks.cpu().numpy(), strict=True)]
        coords = torch.tensor(drawn, device=images.device)[:, None]
        points = coords, torch.full(coords.shape[:2], float(FOREGROUND), device=images.device)
    with torch.no_grad():
        wanted, believed = base.decode(base.encode(images), points=points, boxes=corners)
    logits, scores = model.decode(model.encode(images), points=points, boxes=corners)
    target = wanted.float().sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))
    return (entropy + dice_loss(logits, target) + (scores - believed).square()).mean()


def _random_point(shown: NDArray[np.bool_], mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """A pixel of the image outside of the object, or anywhere in the square if there is none."""
    outside = np.flatnonzero(shown & ~mask)
    y, x = divmod(int(rng.choice(outside) if outside.size else rng.integers(mask.size)), mask.shape[1])
    return float(x), float(y)


def _random_box(shown: NDArray[np.bool_], rng: np.random.Generator) -> Box:
    """A box of any place and shape in the image."""
    x0, y0, x1, y1 = tight_box(shown) if shown.any() else (0, 0, shown.shape[1], shown.shape[0])
    width, height = rng.uniform(*_SIDES, size=2) * (x1 - x0, y1 - y0)
    left, top = rng.uniform((x0, y0), (x1 - width, y1 - height))
    return float(left), float(top), float(left + width), float(top + height)
