"""Dice and HD95 of each class of a volume, the pair that most tables of semantic models hold. Needs `train`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from samsdk_training.metrics.empty import UNDEFINED, EmptyPolicy, check_labels
from samsdk_training.metrics.overlap import dice
from samsdk_training.metrics.surface import hd95

Protocol = Literal["medpy", "deepmind", "transunet"]


@dataclass(frozen=True)
class ClassScores:
    """One class of one case.

    Attributes:
        dice: 0 to 1, or NaN where undefined.
        hd95: in mm, or in voxels where no spacing was given, or NaN where undefined.
    """

    dice: float
    hd95: float


def class_scores(
    prediction: NDArray[np.integer],
    truth: NDArray[np.integer],
    classes: Sequence[int],
    *,
    protocol: Protocol,
    spacing: Sequence[float] | None = None,
    empty: EmptyPolicy | None = None,
) -> dict[int, ClassScores]:
    """Score each class of a case.

    Args:
        prediction: [H, W] or [D, H, W] class of each pixel.
        truth: of the same shape.
        classes: that are scored.
        protocol: `medpy` or `deepmind`: that convention of `surface.hd95`. `transunet`: for comparison with the tables
            of TransUNet, SAMed and their relatives alone: medpy's distance in voxels, whatever their size, and the
            released code's rule of empty masks, which flatters: (1, 0) where the reference alone is empty, (0, 0)
            where the prediction is, even if both are. Those tables are of whole volumes.
        spacing: size of a voxel along each axis, in mm; None measures in voxels.
        empty: what a class is worth where a mask of it is empty; None takes `EmptyPolicy()`.

    Returns:
        The scores by class.

    Raises:
        ValueError: these are no two label maps of one shape, or `transunet` was given a spacing or a rule of its own.
    """
    check_labels(prediction, truth)
    if protocol == "transunet":
        if spacing is not None or empty is not None:
            raise ValueError("the transunet protocol measures in voxels and has a rule for empty masks: give neither")
        return {one: _transunet_scores(prediction == one, truth == one) for one in classes}
    rule = UNDEFINED if empty is None else empty
    return {
        one: ClassScores(
            dice(prediction == one, truth == one, empty=rule),
            hd95(prediction == one, truth == one, convention=protocol, spacing=spacing, empty=rule),
        )
        for one in classes
    }


def _transunet_scores(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> ClassScores:
    # `calculate_metric_percase` of github.com/Beckschen/TransUNet, which SAMed's copy kept.
    if not prediction.any():
        return ClassScores(0.0, 0.0)
    if not truth.any():
        return ClassScores(1.0, 0.0)
    return ClassScores(dice(prediction, truth), hd95(prediction, truth, convention="medpy"))
