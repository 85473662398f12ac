"""Prompts that name a class: points inside each class of a label image, for models that segment all classes at once.

How the publication (Cheap Lunch) encodes them is not known; two modes are offered. `joint` gives one row of points with
their classes, for a single pass of the decoder; `per_class` gives each class its own points, for a pass each.
Coordinates are (x, y) in pixels of the label image; pixel centres have whole coordinates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samsdk_training.simulate import border_distance

ABSENT = -1
"""The class of a point that pads a row, because its class is not in the image."""


@dataclass(frozen=True)
class ClassPoints:
    """A row of points of the same length for every image, so that images can be stacked.

    Attributes:
        points: [K * n, 2] float32 (x, y); the n points of class 1, then of class 2, ... ; (0, 0) where absent.
        classes: [K * n] int64, 1 to K, or `ABSENT`.
    """

    points: NDArray[np.float32]
    classes: NDArray[np.int64]


def points_per_class(
    label: NDArray[np.integer], rng: np.random.Generator, count: int = 1, *, erosion: float = 1.0
) -> dict[int, NDArray[np.float32]]:
    """Draw points inside each class that an image shows.

    Args:
        label: [H, W] class ids, 0 is background.
        rng: the only source of chance.
        count: points a class.
        erosion: pixels within this distance of the class's edge, or of the image's, are left out, unless that leaves
            none.

    Returns:
        Of each class in ascending order, [count, 2] (x, y), uniform among its pixels; no pixel twice, unless there are
        fewer than `count`.
    """
    drawn = {}
    for value in np.unique(label[label > 0]):
        distance = border_distance(np.asarray(label == value))
        candidates = np.flatnonzero(distance > erosion)
        if len(candidates) == 0:
            candidates = np.flatnonzero(distance)
        chosen = rng.choice(candidates, size=count, replace=len(candidates) < count)
        drawn[int(value)] = np.stack([chosen % label.shape[1], chosen // label.shape[1]], axis=1).astype(np.float32)
    return drawn


def joint_points(
    label: NDArray[np.integer], classes: int, rng: np.random.Generator, count: int = 1, *, erosion: float = 1.0
) -> ClassPoints:
    """Draw the points of all classes as one row.

    Args:
        label: [H, W] class ids, 0 is background.
        classes: K, how many there are.
        rng: the only source of chance.
        count: n, points a class.
        erosion: see `points_per_class`.

    Raises:
        ValueError: the label image holds a class above K.
    """
    if label.max() > classes:
        raise ValueError(f"expected classes from 0 to {classes}, got {label.max()}")
    drawn = points_per_class(label, rng, count, erosion=erosion)
    points = np.zeros((classes, count, 2), dtype=np.float32)
    names = np.full((classes, count), ABSENT, dtype=np.int64)
    for value, found in drawn.items():
        points[value - 1], names[value - 1] = found, value
    return ClassPoints(points.reshape(-1, 2), names.ravel())
