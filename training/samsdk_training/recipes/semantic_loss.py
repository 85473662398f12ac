"""What semantic models are trained by: cross entropy and Dice, over all classes at once or for one class a pass."""

import torch
from torch import Tensor
from torch.nn import functional

from samsdk.prompts import FOREGROUND
from samsdk_training.class_points import ABSENT
from samsdk_training.label_samples import LabelBatch
from samsdk_training.losses import class_dice_loss, cross_entropy_loss, dice_loss
from samsdk_training.models.sam import Sam


def semantic_loss(
    model: Sam, batch: LabelBatch, ce_weight: float, dice_weight: float, *, prompted: bool
) -> dict[str, Tensor]:
    """Weighted sum of cross entropy, background included, and Dice over the batch (Zhang and Liu, 2023).

    Args:
        model: in training mode, with one mask for the background and one for each class.
        batch: images with their labels and points.
        ce_weight: of the cross entropy.
        dice_weight: of the Dice loss.
        prompted: whether the model is given the points.

    Returns:
        `loss`, and without gradient `cross_entropy` and `dice_loss`.
    """
    images, label, points, classes, _ = batch
    given = (points, classes) if prompted else None
    logits = model.decode_all(model.encode(images), class_points=given)[0]
    return _weighted(functional.cross_entropy(logits, label), class_dice_loss(logits, label), ce_weight, dice_weight)


def class_point_loss(model: Sam, batch: LabelBatch, ce_weight: float, dice_weight: float) -> dict[str, Tensor]:
    """One pass for each class that an image shows: its points as plain foreground, its pixels as the single mask.

    Args:
        model: in training mode.
        batch: images with their labels and points.
        ce_weight: of the binary cross entropy.
        dice_weight: of the Dice loss of each mask.

    Returns:
        As `semantic_loss`; 0 where no image shows a class.
    """
    images, label, points, classes, _ = batch
    embeddings = model.encode(images)
    # Whichever classes there are, each has as many points: the rows of one image are told apart by their classes.
    shown = [(index, one) for index, row in enumerate(classes) for one in row.unique().tolist() if one != ABSENT]
    if not shown:
        nothing = sum(one.sum() * 0 for one in embeddings.values())
        return _weighted(torch.as_tensor(nothing), torch.as_tensor(nothing), ce_weight, dice_weight)
    rows = torch.tensor([index for index, _ in shown], device=images.device)
    coords = torch.stack([points[index, classes[index] == one] for index, one in shown])
    labels = torch.full(coords.shape[:2], float(FOREGROUND), device=images.device)
    logits, _ = model.decode({name: one[rows] for name, one in embeddings.items()}, points=(coords, labels))
    target = torch.stack([label[index] == one for index, one in shown])[:, None].to(logits.dtype)
    return _weighted(
        cross_entropy_loss(logits, target).mean(), dice_loss(logits, target).mean(), ce_weight, dice_weight
    )


def _weighted(cross_entropy: Tensor, dice: Tensor, ce_weight: float, dice_weight: float) -> dict[str, Tensor]:
    return {
        "loss": ce_weight * cross_entropy + dice_weight * dice,
        "cross_entropy": cross_entropy.detach(),
        "dice_loss": dice.detach(),
    }
