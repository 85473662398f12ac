"""SAM-Med2D's way through a batch: a first prompt, then corrections of the mask decoder's last answer, a step each.

After Cheng et al., SAM-Med2D, 2023 (https://github.com/OpenGVLab/SAM-Med2D, Apache-2.0). In the first of nine steps a
batch is encoded, and all that is trained learns from a box or a point. Its embedding is then kept: in the other eight
only the mask decoder learns, from new points in what its last answer got wrong, with that answer as mask prompt. Twice
it has the mask prompt alone.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from samsdk.prompts import FOREGROUND
from samsdk_training.losses import binary_iou, dice_loss, focal_loss, soft_iou
from samsdk_training.models.config import expect_fields
from samsdk_training.models.prompt_encoder import NOT_A_POINT
from samsdk_training.models.sam import Sam
from samsdk_training.simulate import Box, random_point
from samsdk_training.train_state import TrainingError

Points = tuple[Tensor, Tensor]
# A box's shift is drawn from so many standard deviations to either side.
_DEVIATIONS: Final = 5
_WEIGHTS: Final = ("focal", "dice", "iou")


@dataclass(frozen=True)
class NineStepConfig:
    """How a batch is gone through, and how answers are scored.

    Attributes:
        later_steps: steps after the first; the published number makes nine of them.
        box: probability that a batch begins with boxes; else with points.
        box_jitter: standard deviation of a box's shift, as a share of its shorter side; 0 leaves it where it is.
        largest_shift: pixels of the input that a box is shifted by at most, along each axis.
        point_counts: how many points a correction may have; a step draws one of them for all its objects.
        focal: weight of the focal loss.
        dice: weight of the Dice loss.
        iou: weight of the squared error of the predicted IoU.
        dice_reduction: `sample` averages the Dice losses of the objects; `batch` takes all objects as one large mask,
            as published, where a small one hardly counts.
        iou_loss: `per_sample` teaches each object's own IoU, and the prediction alone learns from it; `batch_scalar`
            teaches one IoU of the whole batch, as published, and the mask gets a gradient too.

    Raises:
        ValueError: a value is not of its kind or range; the text lists every problem.
    """

    later_steps: int = 8
    box: float = 0.5
    box_jitter: float = 0.1
    largest_shift: int = 5
    point_counts: tuple[int, ...] = (1, 3, 5, 9)
    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    dice_reduction: Literal["sample", "batch"] = "sample"
    iou_loss: Literal["per_sample", "batch_scalar"] = "per_sample"

    def __post_init__(self) -> None:
        counts: Any = self.point_counts
        checks = {
            # With fewer, there would be no step between the first correction and the last for the mask alone.
            "later_steps": (_is_whole(self.later_steps, 3), "a whole number of at least 3"),
            "box": (_is_real(self.box) and self.box <= 1, "a number from 0 to 1"),
            "box_jitter": (_is_real(self.box_jitter), "a number from 0 on"),
            "largest_shift": (_is_whole(self.largest_shift, 0), "a whole number from 0 on"),
            "point_counts": (
                isinstance(counts, tuple) and bool(counts) and all(_is_whole(one, 1) for one in counts),
                "whole numbers of at least 1, and at least one",
            ),
            "dice_reduction": (self.dice_reduction in ("sample", "batch"), "'sample' or 'batch'"),
            "iou_loss": (self.iou_loss in ("per_sample", "batch_scalar"), "'per_sample' or 'batch_scalar'"),
            **{name: (_is_real(getattr(self, name)), "a number from 0 on") for name in _WEIGHTS},
        }
        problems = [
            f"{name}: expected {wanted}, got {getattr(self, name)!r}" for name, (fits, wanted) in checks.items() if not fits
        ]
        if problems:
            raise ValueError("\n  ".join(["the nine steps' configuration is not valid:", *problems]))

    @property
    def steps(self) -> int:
        """Optimiser steps for each batch."""
        return 1 + self.later_steps

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {**asdict(self), "point_counts": list(self.point_counts)}

    @classmethod
    def from_dict(cls, content: object) -> "NineStepConfig":
        """Build what `to_dict` gave; fields that are left out keep their defaults.

        Raises:
            ValueError: a field is unknown or not valid.
        """
        names = {one.name for one in fields(cls)}
        given = dict(expect_fields("interaction", content, names, names))
        if isinstance(given.get("point_counts"), list):
            given["point_counts"] = tuple(given["point_counts"])
        return cls(**given)


class StepBatch(NamedTuple):
    """A batch in one of its steps.

    Attributes:
        number: of the micro-step, from 0 on over the whole run.
        images: [N, 3, S, S], preprocessed.
        masks: [N, K, S, S] bool, K objects of each image; none is empty.
    """

    number: int
    images: Tensor
    masks: Tensor


@dataclass
class _Session:
    """What a step leaves to the next one, of P = N * K objects."""

    number: int  # of the micro-step
    embeddings: dict[str, Tensor]  # of P images, without gradient
    mask_alone: int  # the phase before the last that gets no points
    answer: NDArray[np.bool_]  # [P, S, S]
    mask_prompt: Tensor  # [P, 1, 4E, 4E] in [0, 1]


class NineSteps:
    """The loss of each step of a run; keeps what a batch's steps hand on.

    A batch's later steps need its first: they have to be asked for one after the other, from the first on.

    Args:
        config: how a batch is gone through.
    """

    def __init__(self, config: NineStepConfig) -> None:
        self.config = config
        self._session: _Session | None = None

    def loss(self, model: Sam, batch: StepBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Let simulated users go one step on with a batch.

        Args:
            model: in training mode. Whatever has no part in a step gets no gradient, so that an optimiser that skips
                such parameters leaves them alone.
            batch: the batch in this step.
            generator: the source of chance.

        Returns:
            `loss`, the weighted sum, and its parts `focal`, `dice_loss` and `iou_error`, and `iou`, the mean IoU of the
            answers (these four without gradient).

        Raises:
            TrainingError: this is not the first step of a batch, nor the one after the last that was asked for.
        """
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
        phase = batch.number % self.config.steps
        masks = batch.masks.flatten(0, 1)  # [P, S, S]
        if phase == 0:
            embeddings, sparse, dense = self._begin(model, batch, masks, rng)
            mask_alone = int(rng.integers(2, self.config.later_steps))
        else:
            session = self._expect(batch.number)
            embeddings, mask_alone = session.embeddings, session.mask_alone
            alone = phase in (mask_alone, self.config.later_steps)
            points = None if alone else self._corrections(session.answer, masks, rng)
            with torch.no_grad():
                sparse, dense = model.prompt_encoder(points, None, session.mask_prompt)
        logits, scores = model.mask_decoder(
            embeddings["image_embeddings"],
            model.prompt_encoder.get_dense_pe(),
            sparse,
            dense,
            True,
            embeddings.get("high_res_features"),
        )
        score, best = scores.float().max(1)
        chosen = logits[torch.arange(len(best), device=best.device), best][:, None].float()  # [P, 1, 4E, 4E]
        full = functional.interpolate(chosen, masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        self._session = _Session(
            batch.number,
            {name: one.detach() for name, one in embeddings.items()},
            mask_alone,
            (full.detach() > 0).cpu().numpy(),
            chosen.detach().sigmoid(),
        )
        if phase == self.config.later_steps:
            self._session = None
        return _losses(full, score, masks.to(full.dtype), self.config)

    def _begin(
        self, model: Sam, batch: StepBatch, masks: Tensor, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Embeddings of P images and of a first prompt, both with gradient."""
        count = batch.masks.shape[1]
        embeddings = {name: one.repeat_interleave(count, 0) for name, one in model.encode(batch.images).items()}
        truth, device = masks.cpu().numpy(), masks.device
        if rng.random() < self.config.box:
            drawn = [shifted_box(one, rng, self.config.box_jitter, self.config.largest_shift) for one in truth]
            sparse, dense = model.prompt_encoder(None, torch.tensor(drawn, dtype=torch.float32, device=device), None)
        else:
            clicks = [[random_point(one, rng, depth=0.0)] for one in truth]
            points = _points(clicks, [[FOREGROUND]] * len(truth), device)
            sparse, dense = model.prompt_encoder(points, None, None)
        return embeddings, sparse, dense

    def _expect(self, number: int) -> _Session:
        if self._session is None or self._session.number + 1 != number:
            raise TrainingError(
                f"micro-step {number} goes on with a batch whose earlier steps are not known; "
                f"begin with a multiple of {self.config.steps}"
            )
        return self._session

    def _corrections(self, answers: NDArray[np.bool_], masks: Tensor, rng: np.random.Generator) -> Points:
        count = int(rng.choice(self.config.point_counts))
        truth = masks.cpu().numpy()
        drawn = [error_points(answer, one, count, rng) for answer, one in zip(answers, truth, strict=True)]
        return _points([points for points, _ in drawn], [labels for _, labels in drawn], masks.device)


def shifted_box(mask: NDArray[np.bool_], rng: np.random.Generator, jitter: float, largest_shift: int) -> Box:
    """The box of a mask's largest connected part, moved as a whole by whole pixels.

    Args:
        mask: [H, W] bool, not empty.
        rng: the source of chance.
        jitter: standard deviation of the shift as a share of the box's shorter side.
        largest_shift: in pixels, along each axis. The shift is uniform up to five standard deviations or this, whatever
            is less, the upper end excluded.

    Returns:
        (x0, y0, x1, y1), exclusive at x1 and y1; it may reach out of the image.
    """
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    # Part 0 is the background.
    largest = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))]
    x0, y0, width, height = (int(value) for value in largest[:4])
    limit = min(largest_shift, int(_DEVIATIONS * jitter * min(width, height)))
    dx, dy = rng.integers(-limit, limit, size=2).tolist() if limit else (0, 0)
    return float(x0 + dx), float(y0 + dy), float(x0 + dx + width), float(y0 + dy + height)


def error_points(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> tuple[list[tuple[float, float]], list[int]]:
    """Points drawn uniformly, with replacement, from all pixels that an answer got wrong.

    Args:
        prediction: [H, W] bool.
        truth: [H, W] bool.
        count: how many points.
        rng: the source of chance.

    Returns:
        Points as (x, y) and their labels: 1 where the object was missed, 0 where background was taken. Without an
        error, points anywhere with the label -1, which are no points.
    """
    wrong = np.flatnonzero(prediction != truth)
    drawn = rng.choice(wrong, count) if wrong.size else rng.integers(truth.size, size=count)
    rows, columns = np.divmod(drawn, truth.shape[1])
    labels = truth[rows, columns].astype(int) if wrong.size else np.full(count, NOT_A_POINT)
    return list(zip(columns.astype(float).tolist(), rows.astype(float).tolist(), strict=True)), labels.tolist()


def _points(coords: list[list[tuple[float, float]]], labels: list[list[int]], device: torch.device) -> Points:
    return (
        torch.tensor(coords, dtype=torch.float32, device=device),
        torch.tensor(labels, dtype=torch.float32, device=device),
    )


def _losses(logits: Tensor, score: Tensor, target: Tensor, config: NineStepConfig) -> dict[str, Tensor]:
    """Of P masks [P, S, S] and their predicted IoU [P]."""
    # Rows of all masks below one another: one mask.
    batch = logits.flatten(0, 1), target.flatten(0, 1)
    whole = batch if config.dice_reduction == "batch" else (logits, target)
    focal = focal_loss(logits, target).mean()
    dice = dice_loss(*whole, squared=False).mean()
    wanted = soft_iou(*batch) if config.iou_loss == "batch_scalar" else soft_iou(logits, target).detach()
    error = (score - wanted).square().mean()
    return {
        "loss": config.focal * focal + config.dice * dice + config.iou * error,
        "focal": focal.detach(),
        "dice_loss": dice.detach(),
        "iou_error": error.detach(),
        "iou": binary_iou(logits, target).mean().detach(),
    }


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < float("inf")
