"""The nine steps of a batch, asked of a model that writes down its prompts and answers as it is told to."""

import math
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from samsdk_training.nine_step_config import NineStepConfig
from samsdk_training.nine_steps import NineSteps, StepBatch, error_points, shifted_box
from samsdk_training.train_state import TrainingError

SIDE = 64


class Recorder:
    """Three masks for any prompt; keeps every prompt and the embeddings that came with it."""

    def __init__(self, logits: Tensor, scores: Tensor) -> None:
        self.logits, self.scores, self.prompts, self.seen, self.encoded = logits, scores, [], [], 0
        self.prompt_encoder, self.mask_decoder = Prompts(self), self.decode

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        self.encoded += 1
        return {"image_embeddings": images[:, :1, :1, :1] * 1.0}

    def decode(self, image, positions, sparse, dense, multimask, skip):
        assert multimask
        assert skip is None
        self.seen.append(image.flatten().tolist())
        return self.logits.expand(len(image), -1, -1, -1), self.scores.expand(len(image), -1)


class Prompts:
    def __init__(self, owner: Recorder) -> None:
        self.owner = owner

    def __call__(self, points, boxes, masks):
        prompt = {"points": points, "boxes": boxes, "masks": masks, "gradient": torch.is_grad_enabled()}
        self.owner.prompts.append(prompt)
        return torch.zeros(1), torch.zeros(1)

    def get_dense_pe(self) -> Tensor:
        return torch.zeros(1)


@pytest.fixture
def batch() -> StepBatch:
    """Two images of three discs each; an image's first value is its number."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    masks = [[(rows - y) ** 2 + (columns - x) ** 2 < 150 for y, x in rng.integers(16, 48, (3, 2))] for _ in range(2)]
    images = torch.arange(2.0)[:, None, None, None].expand(2, 3, SIDE, SIDE)
    return StepBatch(0, images, torch.from_numpy(np.array(masks)))


def halves(low: float = -2.0, high: float = 3.0, side: int = SIDE) -> Tensor:
    """Logits [1, 1, side, side] of a mask that covers the left half."""
    logits = torch.full((1, 1, side, side), low)
    logits[..., : side // 2] = high
    return logits


def walk(model: Recorder, batch: StepBatch, config: NineStepConfig = NineStepConfig(), seed: int = 0):  # noqa: B008
    steps = NineSteps(config)
    return [
        steps.loss(model, batch._replace(number=number), torch.Generator().manual_seed(100 * seed + number))
        for number in range(config.steps)
    ]


def test_a_batch_is_encoded_once_and_each_object_has_its_image(batch: StepBatch) -> None:
    model = Recorder(torch.cat([halves()] * 3, 1), torch.tensor([0.1, 0.3, 0.2]))
    walk(model, batch)
    assert model.encoded == 1
    assert model.seen == [[0.0, 0, 0, 1, 1, 1]] * 9
    assert [prompt["gradient"] for prompt in model.prompts] == [True] + [False] * 8


def test_a_batch_begins_with_boxes_or_with_points_and_never_a_mask(batch: StepBatch) -> None:
    truth = batch.masks.flatten(0, 1).numpy()
    kinds = Counter()
    for seed in range(40):
        model = Recorder(torch.cat([halves()] * 3, 1), torch.tensor([0.1, 0.3, 0.2]))
        NineSteps(NineStepConfig()).loss(model, batch, torch.Generator().manual_seed(seed))
        first = model.prompts[0]
        assert first["masks"] is None
        assert (first["points"] is None) != (first["boxes"] is None)
        kinds["boxes" if first["points"] is None else "points"] += 1
        if first["points"] is not None:
            coords, labels = first["points"]
            assert labels.tolist() == [[1.0]] * 6
            assert all(mask[int(y), int(x)] for mask, (x, y) in zip(truth, coords[:, 0].tolist(), strict=True))
    # Of forty fair draws fewer than ten of a kind come once in a thousand; the seeds are fixed.
    assert min(kinds["boxes"], kinds["points"]) >= 10


def test_corrections_lie_in_the_error_with_its_label_and_replace_those_before(batch: StepBatch) -> None:
    truth, answer = batch.masks.flatten(0, 1).numpy(), halves()[0, 0].numpy() > 0
    sizes, missed = Counter(), Counter()
    for seed in range(12):
        model = Recorder(torch.cat([halves()] * 3, 1), torch.tensor([0.1, 0.3, 0.2]))
        walk(model, batch, seed=seed)
        for prompt in model.prompts[1:]:
            assert prompt["boxes"] is None
            if prompt["points"] is None:
                continue
            coords, labels = prompt["points"]
            assert coords.shape == (6, labels.shape[1], 2)
            sizes[labels.shape[1]] += 1
            for mask, clicked, kinds in zip(truth, coords.long().numpy(), labels.numpy(), strict=True):
                x, y = clicked.T
                assert (mask != answer)[y, x].all()
                assert np.array_equal(kinds, mask[y, x])
                missed.update(kinds.tolist())
    assert sizes.keys() == {1, 3, 5, 9}
    assert missed.keys() == {0.0, 1.0}


def test_one_inner_step_and_the_last_have_the_mask_alone(batch: StepBatch) -> None:
    inner = Counter()
    one = batch._replace(images=batch.images[:1], masks=batch.masks[:1, :1])
    for seed in range(60):
        model = Recorder(torch.cat([halves()] * 3, 1), torch.tensor([0.1, 0.3, 0.2]))
        walk(model, one, seed=seed)
        alone = [phase for phase, prompt in enumerate(model.prompts) if phase and prompt["points"] is None]
        assert len(alone) == 2
        assert alone[1] == 8
        inner[alone[0]] += 1
        assert all(prompt["masks"] is not None for prompt in model.prompts[1:])
    assert set(inner) == {2, 3, 4, 5, 6, 7}


def test_the_mask_of_the_highest_predicted_iou_is_scored_and_fed_back_as_its_sigmoid(batch: StepBatch) -> None:
    low = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 3
    model = Recorder(low, torch.tensor([0.2, 0.9, 0.5]))
    losses = walk(model, batch)
    wanted = (1 / (1 + np.exp(-low[0, 1].numpy().astype(np.float64))))[None, None].repeat(6, 0)
    for prompt in model.prompts[1:]:
        np.testing.assert_allclose(prompt["masks"].numpy(), wanted, rtol=1e-6)
    # cv2 enlarges with half-pixel centres too: an independent interpolation.
    full = cv2.resize(low[0, 1].numpy(), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    truth = batch.masks.flatten(0, 1).numpy()
    by_hand = np.mean([(mask & (full > 0)).sum() / (mask | (full > 0)).sum() for mask in truth])
    assert losses[3]["iou"].item() == pytest.approx(by_hand, abs=1e-3)


def test_without_an_error_there_are_points_that_are_none(batch: StepBatch) -> None:
    one = batch._replace(masks=batch.masks[:, :1])
    sure = (one.masks[:, 0].float() * 2 - 1)[:, None] * 20

    class Perfect(Recorder):
        def decode(self, image, positions, sparse, dense, multimask, skip):
            super().decode(image, positions, sparse, dense, multimask, skip)
            return sure.expand(-1, 3, -1, -1), torch.ones(2, 3)

    model = Perfect(sure, torch.ones(3))
    losses = walk(model, one)
    drawn = [prompt["points"] for prompt in model.prompts[1:] if prompt["points"] is not None]
    assert len(drawn) == 6
    assert all((labels == -1).all() and (coords >= 0).all() and (coords < SIDE).all() for coords, labels in drawn)
    assert losses[-1]["loss"].item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("iou_loss", ["per_sample", "batch_scalar"])
@pytest.mark.parametrize("reduction", ["sample", "batch"])
def test_the_loss_is_what_the_formulas_say(batch: StepBatch, reduction: str, iou_loss: str) -> None:
    logits = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2
    model = Recorder(logits, torch.tensor([0.35, 0.2, 0.3]))
    config = NineStepConfig(dice_reduction=reduction, iou_loss=iou_loss)  # type: ignore[arg-type]
    got = NineSteps(config).loss(model, batch, torch.Generator())
    p = 1 / (1 + np.exp(-logits[0, 0].numpy().astype(np.float64)))[None].repeat(6, 0)
    t = batch.masks.flatten(0, 1).numpy().astype(np.float64)
    focal = -0.25 * t * (1 - p) ** 2 * np.log(p) - 0.75 * (1 - t) * p**2 * np.log(1 - p)
    axes = (1, 2) if reduction == "sample" else None
    dice = np.mean(1 - (2 * (p * t).sum(axes) + 1) / (p.sum(axes) + t.sum(axes) + 1))
    axes = (1, 2) if iou_loss == "per_sample" else None
    common = (p * t).sum(axes)
    error = np.mean((common / (p.sum(axes) + t.sum(axes) - common) - 0.35) ** 2)
    assert got["focal"].item() == pytest.approx(focal.sum() / focal.size, rel=1e-5)
    assert got["dice_loss"].item() == pytest.approx(dice, rel=1e-5)
    assert got["iou_error"].item() == pytest.approx(error, rel=1e-4)
    assert got["loss"].item() == pytest.approx(20 * focal.mean() + dice + error, rel=1e-5)


@pytest.mark.parametrize(("iou_loss", "moves"), [("per_sample", False), ("batch_scalar", True)])
def test_only_the_published_iou_loss_moves_the_mask_too(batch: StepBatch, iou_loss: str, moves: bool) -> None:
    logits = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).requires_grad_()
    scores = torch.tensor([0.35, 0.2, 0.3], requires_grad=True)
    config = NineStepConfig(focal=0.0, dice=0.0, iou_loss=iou_loss)  # type: ignore[arg-type]
    NineSteps(config).loss(Recorder(logits, scores), batch, torch.Generator())["loss"].backward()
    assert bool(logits.grad.abs().max() > 0) is moves
    assert scores.grad[0] != 0
    assert (scores.grad[1:] == 0).all()


@pytest.mark.parametrize("numbers", [[4], [0, 2], [0, 1, 10]])
def test_a_step_without_those_before_it_is_refused(batch: StepBatch, numbers: list[int]) -> None:
    steps, model = NineSteps(NineStepConfig()), Recorder(torch.cat([halves()] * 3, 1), torch.zeros(3))
    for number in numbers[:-1]:
        steps.loss(model, batch._replace(number=number), torch.Generator())
    with pytest.raises(TrainingError, match=f"micro-step {numbers[-1]} .* begin with a multiple of 9"):
        steps.loss(model, batch._replace(number=numbers[-1]), torch.Generator())


def test_points_are_drawn_from_all_of_the_error_alike() -> None:
    truth, answer = np.zeros((2, 8, 8), np.bool_)
    truth[1, 1:3] = answer[6, 5:7] = True
    coords, labels = error_points(answer, truth, 4000, np.random.default_rng(0))
    counts = Counter(zip(coords, labels, strict=True))
    assert counts.keys() == {((1.0, 1.0), 1), ((2.0, 1.0), 1), ((5.0, 6.0), 0), ((6.0, 6.0), 0)}
    assert all(abs(count - 1000) < 120 for count in counts.values())


def test_a_box_is_that_of_the_largest_part_moved_as_a_whole() -> None:
    mask = np.zeros((80, 90), np.bool_)
    mask[10:14, 5:9] = True
    mask[30:50, 20:60] = True
    rng = np.random.default_rng(0)
    assert shifted_box(mask, rng, 0.0, 5) == (20.0, 30.0, 60.0, 50.0)
    boxes = np.array([shifted_box(mask, rng, 0.1, 5) for _ in range(400)])
    assert (np.ptp(boxes[:, ::2], axis=1) == 40).all()
    assert (np.ptp(boxes[:, 1::2], axis=1) == 20).all()
    for axis, start in ((0, 20), (1, 30)):
        # Five standard deviations, a tenth of the shorter side each, are ten pixels; five are the most.
        assert set(boxes[:, axis] - start) == set(range(-5, 5))
    thin = np.zeros((80, 90), np.bool_)
    thin[40:44, 20:60] = True
    assert set(np.array([shifted_box(thin, rng, 0.1, 5)[0] for _ in range(60)]) - 20) == {-2, -1, 0, 1}


def test_the_configuration_survives_json_and_faults_are_listed() -> None:
    config = NineStepConfig(box=0.25, point_counts=(2,), iou_loss="batch_scalar")
    assert NineStepConfig.from_dict(config.to_dict()) == config
    assert NineStepConfig.from_dict({"later_steps": 4}) == replace(NineStepConfig(), later_steps=4)
    with pytest.raises(ValueError, match="unknown fields \\['points'\\]"):
        NineStepConfig.from_dict({"points": 3})
    with pytest.raises(
        ValueError, match=r"later_steps: .* got 2\n.*box: .* got 1.5\n.*point_counts: .* got \(0,\)\n.*focal"
    ):
        NineStepConfig(later_steps=2, box=1.5, point_counts=(0,), focal=math.nan)
