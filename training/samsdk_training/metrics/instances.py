"""How well objects are found and told apart, in two or three dimensions. Needs scipy.

All compare two label maps: 0 is background, any other number is one object; the numbers themselves mean nothing and
may have gaps.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from samsdk_training.metrics.empty import UNDEFINED, EmptyPolicy, check_labels


@dataclass(frozen=True)
class ObjectMatch:
    """Which objects of one image, or of several added together, were found.

    Attributes:
        true_positives: pairs of a predicted and a true object.
        false_positives: predicted objects without a partner.
        false_negatives: true objects without a partner.
        iou_sum: of the pairs.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    iou_sum: float

    def __add__(self, other: "ObjectMatch") -> "ObjectMatch":
        return ObjectMatch(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
            self.iou_sum + other.iou_sum,
        )

    def f1(self, empty: EmptyPolicy = UNDEFINED) -> float:
        """`2 TP / (2 TP + FP + FN)`, the recognition quality of the panoptic quality.

        Args:
            empty: what it is where there is no object, predicted or true.
        """
        ruled = self._ruled(empty)
        if ruled is not None:
            return ruled
        return 2 * self.true_positives / (2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def segmentation_quality(self) -> float:
        """Mean IoU of the pairs; NaN where there are none."""
        return self.iou_sum / self.true_positives if self.true_positives else float("nan")

    def panoptic_quality(self, empty: EmptyPolicy = UNDEFINED) -> float:
        """`f1 * segmentation_quality` (Kirillov et al., 2019), 0 without pairs.

        Args:
            empty: what it is where there is no object, predicted or true.
        """
        recognised = self.f1(empty)
        return recognised * self.segmentation_quality if self.true_positives else recognised

    def _ruled(self, empty: EmptyPolicy) -> float | None:
        pairs = self.true_positives
        return empty.score(bool(pairs + self.false_positives), bool(pairs + self.false_negatives))


def match_objects(
    prediction: NDArray[np.integer], truth: NDArray[np.integer], *, threshold: float = 0.5
) -> ObjectMatch:
    """Pair predicted with true objects one to one, at an IoU above a threshold.

    From 0.5 on, at most one pairing exists. Below, it is the one with most pairs, and of these the largest sum of IoU.

    Args:
        prediction: [H, W] or [D, H, W] integers, 0 is background.
        truth: of the same shape.
        threshold: pairs have an IoU above it.

    Raises:
        ValueError: these are no two label maps of one shape, or the threshold is not from 0 to below 1.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"expected a threshold from 0 to below 1, got {threshold}")
    iou = _Overlaps.of(prediction, truth).iou
    allowed = iou > threshold
    # A further pair is worth more than any gain in IoU, whose sum is at most the number of pairs.
    rows, columns = linear_sum_assignment(allowed * (min(iou.shape) + 1 + iou), maximize=True)
    paired = allowed[rows, columns]
    pairs = int(np.count_nonzero(paired))
    return ObjectMatch(pairs, iou.shape[1] - pairs, iou.shape[0] - pairs, float(iou[rows, columns][paired].sum()))


def aggregated_jaccard(
    prediction: NDArray[np.integer], truth: NDArray[np.integer], *, empty: EmptyPolicy = UNDEFINED
) -> float:
    """Aggregated Jaccard index, AJI (Kumar et al., 2017).

    Each true object takes the predicted one of largest IoU, though another may have taken it, too. AJI is the sum of
    their intersections over the sum of their unions, of true objects that nothing overlaps, and of predicted objects
    that none took. Neither it nor `aggregated_jaccard_plus` bounds the other.

    Args:
        prediction: [H, W] or [D, H, W] integers, 0 is background.
        truth: of the same shape.
        empty: what it is where there is no object, predicted or true.

    Returns:
        0 to 1, or NaN where undefined.

    Raises:
        ValueError: these are no two label maps of one shape.
    """
    overlaps = _Overlaps.of(prediction, truth)
    ruled = overlaps.ruled(empty)
    if ruled is not None:
        return ruled
    rows = np.arange(len(overlaps.true_areas))
    return overlaps.jaccard_of_pairs(rows, overlaps.iou.argmax(axis=1))


def aggregated_jaccard_plus(
    prediction: NDArray[np.integer], truth: NDArray[np.integer], *, empty: EmptyPolicy = UNDEFINED
) -> float:
    """AJI+ (Graham et al., HoVer-Net, 2019): as `aggregated_jaccard`, but paired one to one.

    The pairing is that with the largest sum of IoU; what has no partner adds its area to the unions. Symmetric.
    """
    overlaps = _Overlaps.of(prediction, truth)
    ruled = overlaps.ruled(empty)
    if ruled is not None:
        return ruled
    return overlaps.jaccard_of_pairs(*linear_sum_assignment(overlaps.iou, maximize=True))


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """Sizes in pixels: of what true object i and predicted object j share, [T, P], and of each object."""

    shared: NDArray[np.int64]
    true_areas: NDArray[np.int64]
    predicted_areas: NDArray[np.int64]

    @classmethod
    def of(cls, prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> "_Overlaps":
        check_labels(prediction, truth)
        true_ids, true = _ranks(truth)
        predicted_ids, predicted = _ranks(prediction)
        pairs = true * (predicted_ids + 1) + predicted
        table = np.bincount(pairs, minlength=(true_ids + 1) * (predicted_ids + 1))
        table = table.reshape(true_ids + 1, predicted_ids + 1).astype(np.int64)
        return cls(table[1:, 1:], table.sum(axis=1)[1:], table.sum(axis=0)[1:])

    @property
    def union(self) -> NDArray[np.int64]:
        return self.true_areas[:, None] + self.predicted_areas - self.shared

    @property
    def iou(self) -> NDArray[np.float64]:
        return self.shared / self.union

    def ruled(self, empty: EmptyPolicy) -> float | None:
        return empty.score(bool(self.predicted_areas.size), bool(self.true_areas.size))

    def jaccard_of_pairs(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> float:
        """Shared over united area of these pairs and of all that is in none; pairs that share nothing do not count."""
        meet = self.shared[rows, columns] > 0
        rows, columns = rows[meet], columns[meet]
        alone = np.delete(self.true_areas, rows).sum() + np.delete(self.predicted_areas, columns).sum()
        return float(self.shared[rows, columns].sum() / (self.union[rows, columns].sum() + alone))


def _ranks(labels: NDArray[np.integer]) -> tuple[int, NDArray[np.intp]]:
    """The number of objects, and for each pixel its object's rank from 1 on, or 0."""
    ids, ranks = np.unique(labels, return_inverse=True)
    if len(ids) and ids[0] == 0:
        return len(ids) - 1, ranks.ravel()
    return len(ids), ranks.ravel() + 1
