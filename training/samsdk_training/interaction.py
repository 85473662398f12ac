"""The prompt in the loop: a simulated user prompts the model, sees its answer, and clicks again where it is wrong.

After Kirillov et al., Segment Anything, 2023 (appendix A) and EdgeSAM's second stage (Zhou et al., 2023): the image is
encoded once, every round is decoded with gradient, corrections fall into the largest error of the last answer, whose
logits are fed back as mask prompt.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from samsdk.prompts import FOREGROUND
from samsdk_training.losses import binary_iou, dice_loss, focal_loss
from samsdk_training.models.sam import Sam
from samsdk_training.simulate import centre_point, correction, jittered_box, random_point

_KINDS = ("box", "point", "both")


@dataclass(frozen=True)
class InteractionConfig:
    """How the simulated user behaves, and how answers are scored.

    Attributes:
        rounds: most answers for each object: the first prompt's and those after corrections. Each batch draws how many
            it gets, so that more images are seen in the same time than if all were corrected to the end.
        fewest_rounds: fewest answers.
        box: how often the first prompt is a box alone, relative to `point` and `both`.
        point: how often it is a point alone.
        both: how often it is a box and a point.
        centred: how often a click is a careful one, on the pixel of the object or of the error that is farthest from
            its border, instead of anywhere well inside.
        jitter: standard deviation of a box's sides, see `simulate.jittered_box`.
        mask_feedback: probability that a round takes the last answer's logits as mask prompt.
        multimask: probability that a point alone is answered with the masks for ambiguous prompts, of which the best
            counts.
        focal: weight of the focal loss.
        dice: weight of the Dice loss.
        iou: weight of the squared error of the predicted IoU.
    """

    rounds: int = 3
    fewest_rounds: int = 1
    box: float = 0.35
    point: float = 0.5
    both: float = 0.15
    centred: float = 0.5
    jitter: float = 0.08
    mask_feedback: float = 0.9
    multimask: float = 0.3
    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.fewest_rounds <= self.rounds:
            raise ValueError(f"fewest_rounds must be from 1 to rounds ({self.rounds}), not {self.fewest_rounds}")


@dataclass
class _Session:
    """A group of objects, one an image, whose users do the same at the same time, so that they share one decoder
    call."""

    truth: NDArray[np.bool_]  # [N, S, S]
    boxes: Tensor | None  # [N, 4]
    points: list[list[tuple[float, float]]]  # N lists of one length
    labels: list[list[int]]


def interactive_loss(
    model: Sam, images: Tensor, masks: Tensor, generator: torch.Generator, config: InteractionConfig
) -> dict[str, Tensor]:
    """Let simulated users work on a batch of objects.

    Args:
        model: in training mode.
        images: [N, 3, S, S], preprocessed.
        masks: [N, S, S] bool, the object that each user has in mind; none is empty.
        generator: the source of chance.
        config: the users' behaviour.

    Returns:
        `loss`, the weighted mean over objects and rounds, and its parts `focal`, `dice_loss` and `iou_error`, and
        `iou`, the mean IoU of the last round's answers (these four without gradient).
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
    embeddings = model.encode(images)
    rounds = int(rng.integers(config.fewest_rounds, config.rounds + 1))
    odds = np.array([config.box, config.point, config.both])
    kinds = rng.choice(len(_KINDS), size=len(images), p=odds / odds.sum())
    rows: list[Tensor] = []
    last: list[Tensor] = []
    for kind in np.unique(kinds):
        members = torch.from_numpy(np.flatnonzero(kinds == kind)).to(images.device)
        part = {name: tensor[members] for name, tensor in embeddings.items()}
        session = _start(masks[members].cpu().numpy(), _KINDS[kind], rng, config, images.device)
        answers = _work(model, part, masks[members].to(images.dtype), session, rounds, rng, config)
        rows += answers
        last.append(answers[-1])
    parts = torch.cat(rows).mean(0)
    focal, dice, error = parts[0], parts[1], parts[2]
    return {
        "loss": config.focal * focal + config.dice * dice + config.iou * error,
        "focal": focal.detach(),
        "dice_loss": dice.detach(),
        "iou_error": error.detach(),
        "iou": torch.cat(last)[:, 3].mean().detach(),
    }


def _start(
    truth: NDArray[np.bool_], kind: str, rng: np.random.Generator, config: InteractionConfig, device: torch.device
) -> _Session:
    boxes = None
    if kind in ("box", "both"):
        drawn = [jittered_box(mask, rng, config.jitter) for mask in truth]
        boxes = torch.tensor(drawn, dtype=torch.float32, device=device)
    points = [[_first_click(mask, rng, config)] if kind in ("point", "both") else [] for mask in truth]
    return _Session(truth, boxes, points, [[FOREGROUND] * len(clicked) for clicked in points])


def _work(
    model: Sam,
    embeddings: dict[str, Tensor],
    target: Tensor,
    session: _Session,
    rounds: int,
    rng: np.random.Generator,
    config: InteractionConfig,
) -> list[Tensor]:
    """All rounds of one group; for each, [N, 4]: focal, Dice, squared IoU error, IoU."""
    rows, fed = [], None
    for turn in range(rounds):
        ambiguous = turn == 0 and session.boxes is None and rng.random() < config.multimask
        logits, scores = model.decode(
            embeddings,
            points=_tensors(session, target.device),
            boxes=session.boxes,
            masks=fed,
            multimask_output=bool(ambiguous),
        )
        # Scored at the side of the logits, against the share of the object in each cell: enlarging every answer with
        # gradient costs a fifth of the step and teaches nothing more.
        row, best = _score(
            logits, scores, functional.adaptive_avg_pool2d(target, (logits.shape[-2], logits.shape[-1])), config
        )
        rows.append(row)
        if turn + 1 == rounds:
            break
        answer = logits.detach()[torch.arange(len(target), device=target.device), best][:, None]
        full = functional.interpolate(answer.float(), target.shape[-2:], mode="bilinear", align_corners=False)
        _click(session, (full[:, 0] > 0).cpu().numpy(), rng, config)
        fed = answer if rng.random() < config.mask_feedback else None
    return rows


def _tensors(session: _Session, device: torch.device) -> tuple[Tensor, Tensor] | None:
    if not session.points[0]:
        return None
    coords = torch.tensor(session.points, dtype=torch.float32, device=device)
    return coords, torch.tensor(session.labels, dtype=torch.float32, device=device)


def _score(logits: Tensor, scores: Tensor, target: Tensor, config: InteractionConfig) -> tuple[Tensor, Tensor]:
    """The best of each object's M masks, [N, 4], and its index [N]; every mask's score is trained, one mask alone."""
    wanted = target[:, None].expand_as(logits)
    focal, dice, iou = focal_loss(logits, wanted), dice_loss(logits, wanted), binary_iou(logits, wanted)
    best = (config.focal * focal + config.dice * dice).detach().argmin(1)
    error = (scores - iou).square().mean(1)
    at = torch.arange(len(best), device=best.device), best
    return torch.stack([focal[at], dice[at], error, iou[at]], dim=1), best


def _first_click(mask: NDArray[np.bool_], rng: np.random.Generator, config: InteractionConfig) -> tuple[float, float]:
    return centre_point(mask) if rng.random() < config.centred else random_point(mask, rng)


def _click(session: _Session, answers: NDArray[np.bool_], rng: np.random.Generator, config: InteractionConfig) -> None:
    for index, (answer, truth) in enumerate(zip(answers, session.truth, strict=True)):
        # Who sees a perfect mask clicks on the object once more: all users of a group need one number of clicks.
        hasty = None if rng.random() < config.centred else rng
        click = correction(answer, truth, hasty) or (random_point(truth, rng), FOREGROUND)
        session.points[index].append(click[0])
        session.labels[index].append(click[1])
