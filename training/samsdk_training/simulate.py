"""Simulated users: prompts drawn from the mask that they would have in mind.

The protocol is the field's: a first prompt (tight box, or a point inside the object), then one click a round in the
largest error of the last answer (Sofiiuk et al., RITM, 2022; Kirillov et al., Segment Anything, 2023, appendix A).
Coordinates are (x, y) in pixels of the mask; pixel centres have whole coordinates, boxes are exclusive at x1 and y1.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.prompts import BACKGROUND, FOREGROUND
from samsdk_training.data import tight_box

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def border_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of each foreground pixel to the nearest background pixel; the outside of the image is background.

    Args:
        mask: [H, W] bool.

    Returns:
        [H, W] float32 in pixels, 0 in the background.
    """
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance[1:-1, 1:-1], dtype=np.float32)


def centre_point(mask: NDArray[np.bool_]) -> Point:
    """The pixel that is farthest from the mask's border, the click of a careful person.

    Args:
        mask: [H, W] bool, not empty.
    """
    y, x = np.unravel_index(int(np.argmax(border_distance(mask))), mask.shape)
    return float(x), float(y)


def random_point(mask: NDArray[np.bool_], rng: np.random.Generator, depth: float = 0.3) -> Point:
    """A pixel that a hasty person might click on: anywhere inside, but not on the very edge.

    Args:
        mask: [H, W] bool, not empty.
        rng: the source of chance.
        depth: pixels nearer to the border than this share of the largest such distance are left out; 0 takes all.
    """
    distance = border_distance(mask)
    candidates = np.flatnonzero((distance > 0) & (distance >= depth * distance.max()))
    y, x = divmod(int(rng.choice(candidates)), mask.shape[1])
    return float(x), float(y)


def jittered_box(mask: NDArray[np.bool_], rng: np.random.Generator, jitter: float = 0.1) -> Box:
    """The tight box with each side moved inward or outward, as people draw it.

    Args:
        mask: [H, W] bool, not empty.
        rng: the source of chance.
        jitter: standard deviation of the move as a share of the box's side, cut off at twice that.

    Returns:
        (x0, y0, x1, y1) inside the image, at least one pixel wide and high.
    """
    x0, y0, x1, y1 = tight_box(mask)
    moves = np.clip(rng.normal(size=4), -2, 2) * jitter * np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    height, width = mask.shape
    left, top = np.clip([x0 + moves[0], y0 + moves[1]], 0, [width - 1, height - 1])
    right, bottom = np.clip([x1 + moves[2], y1 + moves[3]], [left + 1, top + 1], [width, height])
    return float(left), float(top), float(right), float(bottom)


def correction(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], rng: np.random.Generator | None = None
) -> tuple[Point, int] | None:
    """The next click: in the largest connected error, missed or taken too much.

    Args:
        prediction: [H, W] bool.
        truth: [H, W] bool.
        rng: where given, any pixel well inside that error; else the one farthest from its border.

    Returns:
        The point and its label (1 where the object was missed, 0 where background was taken), or None without an error.
    """
    error = prediction != truth
    count, parts, stats, _ = cv2.connectedComponentsWithStats(error.astype(np.uint8), connectivity=4)
    if count < 2:
        return None
    largest = np.asarray(parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))
    # One component may hold both kinds of error side by side; the click names the kind that it lies on.
    x, y = centre_point(largest) if rng is None else random_point(largest, rng)
    return (x, y), FOREGROUND if truth[int(y), int(x)] else BACKGROUND
