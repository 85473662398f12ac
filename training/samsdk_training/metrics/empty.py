"""What a measure says where a mask is empty, and the checks that the measures of two masks share.

Most differences between published tables of one model are made here, so the rule is an argument of each measure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EmptyPolicy:
    """What a case is worth of which the prediction, the reference or both are empty.

    An undefined value is NaN: means leave it out and count it (`intervals.Interval.undefined`). Where just one of the
    two masks is empty, a score is always 0.

    Attributes:
        both: what both empty is: undefined, or perfect, which is a score of 1 and a distance of 0.
        one: what a distance is where just one is empty: undefined, or the diagonal of the image.
    """

    both: Literal["undefined", "perfect"] = "undefined"
    one: Literal["undefined", "diagonal"] = "undefined"

    def score(self, prediction: bool, truth: bool) -> float | None:
        """The score, where there is nothing to measure.

        Args:
            prediction: whether the prediction has foreground.
            truth: whether the reference has foreground.

        Returns:
            None where both have foreground, so that the score must be measured.
        """
        if prediction and truth:
            return None
        if prediction or truth:
            return 0.0
        return 1.0 if self.both == "perfect" else float("nan")

    def distance(
        self, prediction: bool, truth: bool, shape: tuple[int, ...], spacing: Sequence[float] | None = None
    ) -> float | None:
        """The distance, where there is nothing to measure.

        Args:
            prediction: whether the prediction has foreground.
            truth: whether the reference has foreground.
            shape: of the image, for its diagonal.
            spacing: size of a pixel along each axis; None takes 1.

        Returns:
            None where both have foreground, so that the distance must be measured.
        """
        if prediction and truth:
            return None
        if not (prediction or truth):
            return 0.0 if self.both == "perfect" else float("nan")
        if self.one == "undefined":
            return float("nan")
        return float(np.linalg.norm(np.multiply(shape, 1.0 if spacing is None else spacing)))


UNDEFINED = EmptyPolicy()


def check_masks(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
    """Refuse what numpy would broadcast or count without a word.

    Args:
        prediction: [H, W] or [D, H, W] bool.
        truth: of the same shape, bool.

    Raises:
        ValueError: the shapes differ, are not of two or three axes, or the arrays are not bool.
    """
    if prediction.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ValueError(f"expected two bool masks, got {prediction.dtype} and {truth.dtype}")
    _check_shapes(prediction, truth)


def check_labels(prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
    """Refuse label maps that numpy would broadcast or index from the end.

    Args:
        prediction: [H, W] or [D, H, W] integers, 0 is background.
        truth: of the same shape.

    Raises:
        ValueError: the shapes differ, are not of two or three axes, or the arrays are not integers from 0 on.
    """
    for labels in (prediction, truth):
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"expected two label maps of integers, got {prediction.dtype} and {truth.dtype}")
        if labels.size and labels.min() < 0:
            raise ValueError(f"expected labels from 0 on, got {labels.min()}")
    _check_shapes(prediction, truth)


def _check_shapes(prediction: NDArray[np.generic], truth: NDArray[np.generic]) -> None:
    if prediction.shape != truth.shape or prediction.ndim not in (2, 3):
        raise ValueError(
            f"expected a prediction and a reference of one shape with 2 or 3 axes, "
            f"got {prediction.shape} and {truth.shape}"
        )
