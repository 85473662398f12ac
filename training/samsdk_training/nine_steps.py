"""SAM-Med2D's way through a batch: a first prompt, then corrections of the mask decoder's last answer, a step each.

After Cheng et al., SAM-Med2D, 2023 (https://github.com/OpenGVLab/SAM-Med2D, Apache-2.0). In the first of nine steps a
batch is encoded, and all that is trained learns from a box or a point. Its embedding is then kept: in the other eight
only the mask decoder learns, from new points in what its last answer got wrong, with that answer as mask prompt. Twice
it has the mask prompt alone.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from samsdk.prompts import FOREGROUND
from samsdk_training.losses import binary_iou, dice_loss, focal_loss, soft_iou
from samsdk_training.models.prompt_encoder import NOT_A_POINT
from samsdk_training.models.sam import Sam
from samsdk_training.nine_step_config import NineStepConfig
from samsdk_training.simulate import Box, random_point
from samsdk_training.train_state import TrainingError

Points = tuple[Tensor, Tensor]
# A box's shift is drawn from so many standard deviations to either side.
_DEVIATIONS: Final = 5


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
        masks = batch.masks.flatten(0, 1)  # [P, S, S]
        if batch.number % self.config.steps == 0:
            embeddings, sparse, dense = self._begin(model, batch, masks, rng)
            mask_alone = int(rng.integers(2, self.config.later_steps))
        else:
            session = self._expect(batch.number)
            embeddings, mask_alone = session.embeddings, session.mask_alone
            sparse, dense = self._go_on(model, session, masks, rng)
        chosen, score = _decode(model, embeddings, sparse, dense)
        full = functional.interpolate(chosen, masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        kept = {name: one.detach() for name, one in embeddings.items()}
        answer, prompt = (full.detach() > 0).cpu().numpy(), chosen.detach().sigmoid()
        self._session = _Session(batch.number, kept, mask_alone, answer, prompt)
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

    def _go_on(self, model: Sam, session: _Session, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The next prompt's embeddings, without gradient."""
        points: Points | None = None
        phase = (session.number + 1) % self.config.steps
        if phase not in (session.mask_alone, self.config.later_steps):
            count = int(rng.choice(self.config.point_counts))
            pairs = zip(session.answer, masks.cpu().numpy(), strict=True)
            drawn = [error_points(answer, truth, count, rng) for answer, truth in pairs]
            points = _points([coords for coords, _ in drawn], [labels for _, labels in drawn], masks.device)
        with torch.no_grad():
            sparse, dense = model.prompt_encoder(points, None, session.mask_prompt)
        return sparse, dense

    def _expect(self, number: int) -> _Session:
        if self._session is None or self._session.number + 1 != number:
            raise TrainingError(
                f"micro-step {number} goes on with a batch whose earlier steps are not known; "
                f"begin with a multiple of {self.config.steps}"
            )
        return self._session


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


def _decode(model: Sam, embeddings: dict[str, Tensor], sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
    """Of each prompt's masks the one that the model itself takes for the best, [P, 1, 4E, 4E], and its score [P]."""
    positions, skip = model.prompt_encoder.get_dense_pe(), embeddings.get("high_res_features")
    logits, scores = model.mask_decoder(embeddings["image_embeddings"], positions, sparse, dense, True, skip)
    score, best = scores.float().max(1)
    return logits[torch.arange(len(best), device=best.device), best][:, None].float(), score


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
