"""What models for volumes are trained by: Dice and cross entropy, and a teacher's answers where there is one."""

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn
from torch.nn import functional

from samsdk_training.volume_samples import VolumeBatch


class VolumeLoss(nn.Module):
    """Weighted sum of Dice, MONAI's with a softmax over the classes, and cross entropy, as AutoProSAM has them.

    Args:
        dice_weight: of the Dice loss, the mean over crops and classes.
        ce_weight: of the cross entropy, the mean over voxels.
        background: whether the background counts as a class of the Dice loss; of the cross entropy it always does.
    """

    def __init__(self, dice_weight: float, ce_weight: float, *, background: bool = True) -> None:
        super().__init__()
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.dice = DiceLoss(include_background=background, to_onehot_y=True, softmax=True)

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compare logits with the truth.

        Args:
            logits: [N, K, D, H, W].
            labels: [N, D, H, W] int64.

        Returns:
            `loss`, and without gradient `dice_loss` and `cross_entropy`.
        """
        # Half precision has too few places for sums over a crop.
        logits = logits.float()
        dice, entropy = self.dice(logits, labels[:, None]), functional.cross_entropy(logits, labels)
        loss = self.dice_weight * dice + self.ce_weight * entropy
        return {"loss": loss, "dice_loss": dice.detach(), "cross_entropy": entropy.detach()}


def distillation_loss(
    student: nn.Module, teacher: nn.Module, batch: VolumeBatch, supervised: VolumeLoss, weight: float, space: str
) -> dict[str, Tensor]:
    """`(1 - w) L(student, truth) + w MSE(student, teacher)`, AutoProSAM's distillation (Lee et al., 2023).

    The publication does not say in which space the squared error is taken; that of logits can dwarf the other part,
    so both are returned.

    Args:
        student: in training mode.
        teacher: in evaluation mode; no gradient goes there.
        batch: what both see, with the truth.
        supervised: L.
        weight: w.
        space: of the squared error, `probabilities` after the softmax or `logits`.

    Returns:
        `loss`, and without gradient `supervised`, `distillation` (neither of them weighted), `dice_loss` and
        `cross_entropy`.
    """
    with torch.no_grad():
        taught = teacher(batch.crops).float()
    mine = student(batch.crops).float()
    losses = supervised(mine, batch.labels)
    if space == "probabilities":
        error = functional.mse_loss(mine.softmax(1), taught.softmax(1))
    else:
        error = functional.mse_loss(mine, taught)
    own = losses["loss"]
    parts = {"supervised": own.detach(), "distillation": error.detach()}
    return {**losses, **parts, "loss": (1 - weight) * own + weight * error}
