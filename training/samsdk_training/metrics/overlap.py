"""How much two masks overlap, in two or three dimensions. Needs the runtime alone."""

import numpy as np
from numpy.typing import NDArray

from samsdk import masks
from samsdk_training.metrics.empty import UNDEFINED, EmptyPolicy, check_masks


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], *, empty: EmptyPolicy = UNDEFINED) -> float:
    """Dice coefficient `2 |P and G| / (|P| + |G|)`, which is the F1 score of the pixels.

    Args:
        prediction: [H, W] or [D, H, W] bool.
        truth: of the same shape.
        empty: what it is where a mask is empty.

    Returns:
        0 to 1, or NaN where undefined.

    Raises:
        ValueError: these are no two masks of one shape.
    """
    check_masks(prediction, truth)
    ruled = empty.score(bool(prediction.any()), bool(truth.any()))
    return masks.dice(prediction, truth) if ruled is None else ruled


def iou(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], *, empty: EmptyPolicy = UNDEFINED) -> float:
    """Intersection over union `|P and G| / |P or G|`; arguments and errors as `dice`, which is `2 IoU / (1 + IoU)`."""
    check_masks(prediction, truth)
    ruled = empty.score(bool(prediction.any()), bool(truth.any()))
    return masks.mask_iou(prediction, truth) if ruled is None else ruled
