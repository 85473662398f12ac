import numpy as np
import pytest
import torch
from torch import Tensor

from samsdk_training.interaction import InteractionConfig, interactive_loss
from samsdk_training.losses import binary_iou, dice_loss, focal_loss
from samsdk_training.models import SamConfig, StudentEncoderConfig, build_sam
from samsdk_training.models.sam import Sam
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.simulate import centre_point


@pytest.fixture
def model() -> Sam:
    torch.manual_seed(0)
    encoder = StudentEncoderConfig(64, stem_channels=8, widths=(8, 16, 16, 24), depths=(1, 1, 1, 1), out_channels=32)
    return build_sam(SamConfig(encoder, DecoderConfig(num_heads=2, mlp_dim=64, iou_head_hidden_dim=32)))


@pytest.fixture
def objects() -> tuple[Tensor, Tensor]:
    """Bright discs on a dark ground, and their masks."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    centres = rng.integers(16, 48, (8, 2))
    masks = np.stack([(rows - y) ** 2 + (columns - x) ** 2 < 100 for y, x in centres])
    images = masks * 0.8 + rng.normal(0, 0.02, masks.shape)
    return torch.tensor(np.repeat(images[:, None], 3, 1), dtype=torch.float32), torch.from_numpy(masks)


class Recorder:
    """Answers with fixed logits, and keeps what it was asked."""

    def __init__(self, logits: Tensor, score: float = 0.5) -> None:
        self.logits, self.score, self.calls = logits, score, []

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        return {"image_embeddings": images[:, :1]}

    def decode(self, embeddings, *, points, boxes, masks, multimask_output):
        count = len(embeddings["image_embeddings"])
        self.calls.append({"points": points, "boxes": boxes, "masks": masks, "multimask": multimask_output})
        masks = 3 if multimask_output else 1
        return self.logits.expand(count, masks, -1, -1), torch.full((count, masks), self.score)


def only(kind: str, **others: float) -> InteractionConfig:
    odds = {"box": 0.0, "point": 0.0, "both": 0.0, kind: 1.0}
    fixed = {"multimask": 0.0, "mask_feedback": 1.0, "fewest_rounds": others.get("rounds", 3)}
    return InteractionConfig(**odds, **{**fixed, **others})


def test_the_loss_is_the_weighted_sum_of_its_parts_over_rounds(objects) -> None:
    images, masks = objects
    logits = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    parts = interactive_loss(Recorder(logits, 0.25), images, masks, torch.Generator(), only("box", iou=3.0))
    wanted = masks[:, None].float()
    full = logits.expand(8, 1, -1, -1)
    iou = binary_iou(full, wanted)
    # The same answer in every round: the mean over rounds is the mean of one.
    assert parts["focal"].item() == pytest.approx(focal_loss(full, wanted).mean().item(), rel=1e-5)
    assert parts["dice_loss"].item() == pytest.approx(dice_loss(full, wanted).mean().item(), rel=1e-5)
    assert parts["iou_error"].item() == pytest.approx((0.25 - iou).square().mean().item(), rel=1e-5)
    assert parts["iou"].item() == pytest.approx(iou.mean().item(), rel=1e-5)
    total = 20 * parts["focal"] + parts["dice_loss"] + 3 * parts["iou_error"]
    assert parts["loss"].item() == pytest.approx(total.item(), rel=1e-6)


def test_points_grow_by_a_correction_a_round_and_logits_are_fed_back(objects) -> None:
    images, masks = objects
    nothing = torch.full((1, 1, 16, 16), -3.0)  # an empty mask: all corrections are missed objects
    recorder = Recorder(nothing)
    interactive_loss(recorder, images, masks, torch.Generator(), only("point", rounds=4))
    assert [call["points"][0].shape for call in recorder.calls] == [(8, count, 2) for count in (1, 2, 3, 4)]
    assert recorder.calls[0]["masks"] is None
    for call in recorder.calls[1:]:
        assert torch.equal(call["masks"], nothing.expand(8, 1, -1, -1))
    coords, labels = recorder.calls[-1]["points"]
    assert (labels == 1).all()
    for index, clicked in enumerate(coords.long()):
        assert masks[index][clicked[:, 1], clicked[:, 0]].all()


def test_the_number_of_rounds_is_drawn_by_the_generator_within_its_bounds(objects) -> None:
    images, masks = objects

    def rounds(seed: int) -> int:
        recorder = Recorder(torch.full((1, 1, 16, 16), -3.0))
        config = only("point", rounds=4, fewest_rounds=2)
        interactive_loss(recorder, images, masks, torch.Generator().manual_seed(seed), config)
        return len(recorder.calls)

    drawn = [rounds(seed) for seed in range(25)]
    assert set(drawn) == {2, 3, 4}
    assert drawn == [rounds(seed) for seed in range(25)]


def test_answers_are_scored_against_the_share_of_the_object_in_each_of_their_cells(objects) -> None:
    images, masks = objects
    logits = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    parts = interactive_loss(Recorder(logits), images, masks, torch.Generator(), only("box", rounds=1))
    shares = masks.float().reshape(8, 1, 16, 4, 16, 4).mean((3, 5))
    full = logits.expand(8, 1, -1, -1)
    assert parts["focal"].item() == pytest.approx(focal_loss(full, shares).mean().item(), rel=1e-5)
    assert parts["dice_loss"].item() == pytest.approx(dice_loss(full, shares).mean().item(), rel=1e-5)
    assert parts["iou"].item() == pytest.approx(binary_iou(full, shares).mean().item(), rel=1e-5)


def test_spilled_masks_are_corrected_with_background_clicks(objects) -> None:
    images, masks = objects
    recorder = Recorder(torch.full((1, 1, 16, 16), 3.0))
    interactive_loss(recorder, images, masks, torch.Generator(), only("both", rounds=2, jitter=0.0))
    coords, labels = recorder.calls[1]["points"]
    assert labels.tolist() == [[1.0, 0.0]] * 8
    for index, clicked in enumerate(coords.long()):
        assert not masks[index][clicked[1, 1], clicked[1, 0]]
    rows, columns = (np.flatnonzero(masks[3].numpy().any(axis)) for axis in (1, 0))
    tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert recorder.calls[0]["boxes"][3].tolist() == tight


def test_of_the_masks_for_ambiguous_prompts_the_best_is_trained(objects) -> None:
    images, masks = objects
    right = (masks[:, None].float() * 2 - 1) * 20
    wrong = -right

    class Ambiguous(Recorder):
        def decode(self, embeddings, *, points, boxes, masks, multimask_output):
            super().decode(embeddings, points=points, boxes=boxes, masks=masks, multimask_output=multimask_output)
            answers = torch.cat([wrong, right, wrong], 1) if multimask_output else wrong
            return answers, torch.zeros(answers.shape[:2])

    recorder = Ambiguous(right)
    parts = interactive_loss(recorder, images, masks, torch.Generator(), only("point", rounds=1, multimask=1.0))
    assert [call["multimask"] for call in recorder.calls] == [True]
    assert parts["dice_loss"].item() < 1e-3
    assert parts["iou"].item() == 1.0
    # All three scores are trained: their IoU is 0, 1, 0.
    assert parts["iou_error"].item() == pytest.approx(1 / 3)


def test_chance_comes_from_the_generator_alone(model: Sam, objects) -> None:
    images, masks = objects
    config = InteractionConfig()
    first, again, other = (
        interactive_loss(model, images, masks, torch.Generator().manual_seed(seed), config)["loss"].item()
        for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_a_tiny_student_learns_discs_from_points_and_boxes(model: Sam, objects) -> None:
    images, masks = objects
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    history = []
    for _ in range(60):
        parts = interactive_loss(model, images, masks, generator, InteractionConfig(rounds=2))
        optimiser.zero_grad()
        parts["loss"].backward()
        optimiser.step()
        history.append(parts["iou"].item())
    assert np.mean(history[:3]) < 0.5
    assert np.mean(history[-5:]) > 0.85


def test_careful_users_click_on_the_middle_of_the_object_and_of_what_is_missing(objects) -> None:
    images, masks = objects
    recorder = Recorder(torch.full((1, 1, 16, 16), -3.0))  # all of the object is missing, in every round
    interactive_loss(recorder, images, masks, torch.Generator(), only("point", rounds=3, centred=1.0))
    coords, _ = recorder.calls[-1]["points"]
    for mask, clicked in zip(masks.numpy(), coords, strict=True):
        assert clicked.tolist() == [list(centre_point(mask))] * 3


def test_hasty_users_click_elsewhere(objects) -> None:
    images, masks = objects
    recorder = Recorder(torch.full((1, 1, 16, 16), -3.0))
    interactive_loss(recorder, images, masks, torch.Generator(), only("point", rounds=3, centred=0.0))
    coords, _ = recorder.calls[-1]["points"]
    middle = torch.tensor([centre_point(mask) for mask in masks.numpy()])[:, None]
    assert ((coords - middle).norm(dim=-1) > 1).float().mean() > 0.8


@pytest.mark.parametrize("fewest", [0, 4])
def test_rounds_that_cannot_be_drawn_are_refused(fewest: int) -> None:
    with pytest.raises(ValueError, match=r"fewest_rounds must be from 1 to rounds \(3\)"):
        InteractionConfig(rounds=3, fewest_rounds=fewest)
