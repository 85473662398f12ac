"""Which masks of a teacher to believe: tests of one mask, and which of many masks stand beside each other."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.embedding import Embedding
from samsdk.masks import mask_iou
from samsdk.prompts import Prompt
from samsdk.results import Result
from samsdk_training.data import tight_box
from samsdk_training.evaluation import Segmenter
from samsdk_training.proposals import Box, box_iou


@runtime_checkable
class BatchSegmenter(Segmenter, Protocol):
    """A teacher that decodes many prompts of one image at once, as `samsdk.Predictor` does."""

    def decode_batch(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Result]:
        """Decode prompts; one result each, in their order."""


@dataclass(frozen=True)
class MaskLimits:
    """What a mask must be like to be taken for an object.

    Attributes:
        predicted_iou: least IoU that the teacher predicts for its mask.
        fill: least IoU of the mask's tight box with the box that was asked for.
        main_part: least share of the mask's largest connected component; the rest is removed.
        contrast: least difference between the mean brightness just inside and just outside the mask's border, in
            standard deviations of what lies there; of the colour channel that differs most.
        smallest: pixels of a mask.
        largest: share of the image that a mask covers at most.
    """

    predicted_iou: float = 0.75
    fill: float = 0.6
    main_part: float = 0.95
    contrast: float = 1.0
    smallest: int = 60
    largest: float = 0.6


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mask that may become a label.

    Attributes:
        mask: [H, W] bool, one connected part.
        predicted_iou: the teacher's estimate.
        stability: mean IoU with the masks of moved boxes; 0 before that is known.
    """

    mask: NDArray[np.bool_]
    predicted_iou: float
    stability: float = 0.0

    @property
    def score(self) -> float:
        """Rank among others: confidence, times stability where it is known."""
        return self.predicted_iou * (self.stability or 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Box (x0, y0, x1, y1; exclusive), area in pixels, and the two estimates, as JSON holds them."""
        return {
            "box": list(tight_box(self.mask)),
            "area": int(np.count_nonzero(self.mask)),
            "predicted_iou": round(self.predicted_iou, 4),
            "stability": round(self.stability, 4),
        }


def decode_boxes(teacher: Segmenter, embedding: Embedding, boxes: Sequence[Sequence[float]]) -> list[Result]:
    """A teacher's answers to boxes (x0, y0, x1, y1), in one call where it can."""
    if isinstance(teacher, BatchSegmenter):
        return teacher.decode_batch(embedding, [Prompt(box=box) for box in boxes])
    return [teacher.decode(embedding, box=box) for box in boxes]


def judge(
    mask: NDArray[np.bool_], predicted_iou: float, box: Box, image: NDArray[np.uint8], limits: MaskLimits
) -> Candidate | str:
    """Test one answer by itself, the cheap tests first.

    Args:
        mask: [H, W] bool.
        predicted_iou: the teacher's estimate of its IoU.
        box: that was asked for, (x0, y0, x1, y1) in pixels of the image, exclusive at x1 and y1.
        image: [H, W] or [H, W, 3] uint8.
        limits: what to demand.

    Returns:
        The mask's main part, or in a word why it was rejected: `unsure`, `tiny`, `whole`, `pieces`, `loose`, `faint`.
    """
    area = np.count_nonzero(mask)
    if area < limits.smallest:
        return "tiny"
    if predicted_iou < limits.predicted_iou:
        return "unsure"
    if area > limits.largest * mask.size:
        return "whole"
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    main = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    if stats[main, cv2.CC_STAT_AREA] < limits.main_part * area:
        return "pieces"
    part = np.asarray(parts == main)
    if box_iou(tight_box(part), box) < limits.fill:
        return "loose"
    if border_contrast(part, image) < limits.contrast:
        return "faint"
    return Candidate(part, predicted_iou)


def border_contrast(mask: NDArray[np.bool_], image: NDArray[np.uint8]) -> float:
    """How well a mask's border is seen: the step in brightness across it, over the spread on both sides.

    Args:
        mask: [H, W] bool.
        image: [H, W] or [H, W, 3] uint8.

    Returns:
        |mean inside - mean outside| / pooled standard deviation within bands along the border, each of a tenth of the
        square root of the mask's area; of the channel where it is largest; 0 where a band is empty.
    """
    width = max(2, round(0.1 * float(np.sqrt(np.count_nonzero(mask)))))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    binary = mask.astype(np.uint8)
    inner = mask & (cv2.erode(binary, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=[1]) == 0)
    outer = ~mask & (cv2.dilate(binary, kernel) > 0)
    if not inner.any() or not outer.any():
        return 0.0
    channels = image.reshape(*mask.shape, -1).astype(np.float64)
    inside, outside = channels[inner], channels[outer]
    spread = np.sqrt((inside.var(axis=0) + outside.var(axis=0)) / 2 + 1.0)
    return float((np.abs(inside.mean(axis=0) - outside.mean(axis=0)) / spread).max())


def suppress(candidates: Sequence[Candidate], duplicate: float, rejected: Counter[str]) -> list[Candidate]:
    """Greedy non-maximum suppression on mask IoU.

    Args:
        candidates: in any order.
        duplicate: of two with a larger IoU than this the better one is kept.
        rejected: its `duplicate` counts the others.

    Returns:
        What is kept, best first; the earlier one first among equals.
    """
    kept: list[Candidate] = []
    for one in sorted(candidates, key=lambda candidate: -candidate.score):
        if all(mask_iou(one.mask, other.mask) <= duplicate for other in kept):
            kept.append(one)
        else:
            rejected["duplicate"] += 1
    return kept


def instance_map(
    candidates: Sequence[Candidate], covered: float, rejected: Counter[str]
) -> tuple[NDArray[np.uint16], list[Candidate]]:
    """Paint masks into one picture, smaller ones over larger ones.

    Args:
        candidates: at least one, all of one image.
        covered: a mask that loses a larger share of its pixels than this is left out, the greatest loser first; those
            below it then show again.
        rejected: its `covered` counts them.

    Returns:
        [H, W] uint16, 0 is background, and the candidates of the numbers 1, 2, ..., the largest first.
    """
    kept = sorted(candidates, key=lambda candidate: -int(np.count_nonzero(candidate.mask)))
    while True:
        label = np.zeros(candidates[0].mask.shape, dtype=np.uint16)
        for number, one in enumerate(kept, start=1):
            label[one.mask] = number
        lost = [1 - np.count_nonzero(label == n) / np.count_nonzero(one.mask) for n, one in enumerate(kept, start=1)]
        worst = int(np.argmax(lost))
        if lost[worst] <= covered:
            return label, kept
        rejected["covered"] += 1
        del kept[worst]
