import monai.losses
import pytest
import torch

from samsdk.masks import mask_iou
from samsdk_training.losses import binary_iou, class_dice_loss, cross_entropy_loss, dice_loss, focal_loss, soft_iou


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 24, 32, generator=generator) * 3
    return logits, (torch.randn(5, 24, 32, generator=generator) > 0.5).float()


def test_dice_loss_is_monais(pair) -> None:
    logits, target = pair
    reference = monai.losses.DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=1, smooth_dr=1, reduction="none")
    expected = reference(logits[:, None], target[:, None]).flatten()
    torch.testing.assert_close(dice_loss(logits, target), expected, rtol=1e-5, atol=1e-6)


def test_focal_loss_is_monais(pair) -> None:
    logits, target = pair
    reference = monai.losses.FocalLoss(gamma=2.0, alpha=0.25, reduction="none")
    expected = reference(logits[:, None], target[:, None]).mean((1, 2, 3))
    torch.testing.assert_close(focal_loss(logits, target), expected, rtol=1e-5, atol=1e-6)


def test_cross_entropy_by_hand() -> None:
    logits, target = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[1.0, 0.0]]])
    # -log(1/2) and -log(1 - sigmoid(2)), averaged.
    assert cross_entropy_loss(logits, target).item() == pytest.approx((0.693147 + 2.126928) / 2, abs=1e-6)


def test_losses_of_a_perfect_and_of_an_inverted_mask(pair) -> None:
    _, target = pair
    sure = (target * 2 - 1) * 30
    assert dice_loss(sure, target).max() < 1e-6
    assert focal_loss(sure, target).max() < 1e-6
    assert dice_loss(-sure, target).min() > 0.99


def test_losses_are_finite_for_extreme_logits_and_their_gradients_too(pair) -> None:
    _, target = pair
    for loss in (dice_loss, focal_loss, cross_entropy_loss):
        logits = torch.full_like(target, -1e4).requires_grad_()
        loss(logits, target).sum().backward()
        assert torch.isfinite(logits.grad).all()


def test_binary_iou_is_the_runtime_s(pair) -> None:
    logits, target = pair
    expected = [mask_iou((a > 0).numpy(), (b > 0.5).numpy()) for a, b in zip(logits, target, strict=True)]
    assert binary_iou(logits, target).tolist() == pytest.approx(expected)
    empty = torch.zeros(1, 4, 4)
    assert binary_iou(empty - 1, empty).item() == 1.0
    assert binary_iou(empty + 1, empty).item() == 0.0


def test_dice_loss_with_plain_denominators_is_monais(pair) -> None:
    logits, target = pair
    reference = monai.losses.DiceLoss(sigmoid=True, smooth_nr=1, smooth_dr=1, reduction="none")
    expected = reference(logits[:, None], target[:, None]).flatten()
    torch.testing.assert_close(dice_loss(logits, target, squared=False), expected, rtol=1e-5, atol=1e-6)


def test_soft_iou_by_hand_and_with_gradient(pair) -> None:
    # Probabilities 1/2 and 3/4 against 1 and 0: 1/2 in common, 1.25 + 1 - 1/2 together.
    logits, target = torch.tensor([[[0.0, 1.0986123]]], requires_grad=True), torch.tensor([[[1.0, 0.0]]])
    iou = soft_iou(logits, target)
    assert iou.item() == pytest.approx(0.5 / 1.75, abs=1e-6)
    iou.sum().backward()
    assert logits.grad[0, 0, 0] > 0 > logits.grad[0, 0, 1]
    # Of sure masks it is the plain IoU.
    sure, wanted = (pair[0].sign() * 50), pair[1]
    torch.testing.assert_close(soft_iou(sure, wanted), binary_iou(sure, wanted), rtol=1e-5, atol=1e-6)
    empty = torch.zeros(1, 4, 4)
    assert soft_iou(empty - 50, empty).item() == pytest.approx(1.0)


def test_cross_entropy_and_dice_of_a_mask_together_are_monais(pair) -> None:
    logits, target = pair
    reference = monai.losses.DiceCELoss(sigmoid=True, squared_pred=True, smooth_nr=1, smooth_dr=1, lambda_ce=0.7)
    mine = 0.7 * cross_entropy_loss(logits, target).mean() + dice_loss(logits, target).mean()
    torch.testing.assert_close(mine, reference(logits[:, None], target[:, None]), rtol=1e-5, atol=1e-6)


def test_soft_iou_is_monais(pair) -> None:
    logits, target = pair
    reference = monai.losses.DiceLoss(sigmoid=True, jaccard=True, smooth_nr=0, smooth_dr=0, reduction="none")
    expected = 1 - reference(logits[:, None], target[:, None]).flatten()
    torch.testing.assert_close(soft_iou(logits, target), expected, rtol=1e-5, atol=1e-6)


def test_the_loss_of_classes_is_monais() -> None:
    """Dice over the batch, and with SAMed's weights the sum with the cross entropy; one class is not there at all."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, 24, 32, generator=generator) * 3
    label = torch.randint(3, (3, 24, 32), generator=generator)
    how = {"to_onehot_y": True, "softmax": True, "squared_pred": True, "batch": True}
    how |= {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
    expected = monai.losses.DiceLoss(**how)(logits, label[:, None])
    torch.testing.assert_close(class_dice_loss(logits, label), expected, rtol=1e-5, atol=1e-6)
    both = 0.2 * torch.nn.functional.cross_entropy(logits, label) + 0.8 * class_dice_loss(logits, label)
    expected = monai.losses.DiceCELoss(**how, lambda_ce=0.2, lambda_dice=0.8)(logits, label[:, None])
    torch.testing.assert_close(both, expected, rtol=1e-5, atol=1e-6)
