"""Losses of promptable segmentation, per mask, so that callers may choose and weight."""

import torch
from torch import Tensor
from torch.nn import functional

# SAM-Med2D's guard against masks without a pixel.
_TINY = 1e-7


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0, *, squared: bool = True) -> Tensor:
    """Soft Dice loss of each mask, `1 - (2 sum(p t) + s) / (sum(p^2) + sum(t^2) + s)`.

    Squared denominators after Milletari et al., V-Net, 2016, as LiteMedSAM and SAMed train with.

    Args:
        logits: [..., H, W].
        target: [..., H, W] in [0, 1].
        smooth: s; keeps the loss of tiny objects finite and smooth.
        squared: False takes `sum(p) + sum(t)` in the denominator, as SAM-Med2D trains with.

    Returns:
        [...], each in [0, 1].
    """
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum((-2, -1)) + smooth
    if not squared:
        return 1 - overlap / (probability.sum((-2, -1)) + target.sum((-2, -1)) + smooth)
    return 1 - overlap / (probability.square().sum((-2, -1)) + target.square().sum((-2, -1)) + smooth)


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Focal loss of each mask, averaged over its pixels (Lin et al., 2017).

    Args:
        logits: [..., H, W].
        target: [..., H, W] in [0, 1].
        gamma: how much pixels that are right already count less.
        alpha: weight of foreground; background has `1 - alpha`.

    Returns:
        [...].
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = (logits.sigmoid() - target).abs()
    weight = alpha * target + (1 - alpha) * (1 - target)
    return (weight * wrong.pow(gamma) * cross_entropy).mean((-2, -1))


def cross_entropy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of each mask, averaged over its pixels; arguments and result as `focal_loss`."""
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))


def binary_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of each thresholded mask with its thresholded target, the number that the quality head learns; no gradient.

    Args:
        logits: [..., H, W]; foreground above 0.
        target: [..., H, W]; foreground above 0.5.

    Returns:
        [...] in [0, 1]; 1 where both are empty.
    """
    with torch.no_grad():
        mine, theirs = logits > 0, target > 0.5
        union = (mine | theirs).sum((-2, -1))
        return torch.where(union > 0, (mine & theirs).sum((-2, -1)) / union.clamp(min=1), torch.ones_like(union))


def soft_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of each mask as probabilities, `sum(p t) / (sum(p) + sum(t) - sum(p t))`, with gradient.

    Args:
        logits: [..., H, W].
        target: [..., H, W] in [0, 1].

    Returns:
        [...] in [0, 1]; 1 where both are empty.
    """
    probability = logits.sigmoid()
    common = (probability * target).sum((-2, -1))
    union = probability.sum((-2, -1)) + target.sum((-2, -1)) - common
    return (common + _TINY) / (union + _TINY)


def class_dice_loss(logits: Tensor, label: Tensor, smooth: float = 1e-5) -> Tensor:
    """Soft Dice loss of a semantic model, the mean over its classes, background included.

    SAMed's (Zhang and Liu, 2023): softmax over the classes, sums over the whole batch, squared denominators.

    Args:
        logits: [N, 1 + K, H, W].
        label: [N, H, W] integers, 0 to K.
        smooth: added to numerator and denominator.

    Returns:
        A scalar in [0, 1].
    """
    probability = logits.softmax(1)
    target = functional.one_hot(label, logits.shape[1]).movedim(-1, 1).to(probability.dtype)
    over = (0, 2, 3)
    overlap = 2 * (probability * target).sum(over) + smooth
    return (1 - overlap / (probability.square().sum(over) + target.square().sum(over) + smooth)).mean()
