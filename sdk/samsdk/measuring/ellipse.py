"""The ellipse that fits a mask, and its circumference."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.measuring.shapes import Point, Spacing


@dataclass(frozen=True)
class Ellipse:
    """An ellipse, in the unit of what it was fitted to.

    Attributes:
        centre: (x, y).
        major: length of the longer axis, from end to end.
        minor: length of the shorter axis, from end to end.
        angle: of the longer axis against the x axis, in degrees from 0 to below 180, growing from x towards y, which
            is clockwise on a screen.
    """

    centre: Point
    major: float
    minor: float
    angle: float

    @property
    def circumference(self) -> float:
        """Length of the ellipse, to the last digits."""
        return ellipse_circumference(self.major, self.minor)

    @property
    def area(self) -> float:
        """Area within the ellipse."""
        return math.pi * self.major * self.minor / 4


def ellipse_circumference(major: float, minor: float) -> float:
    """The length of an ellipse by the arithmetic-geometric mean (Gauss and Legendre), for any ratio of the axes.

    Args:
        major: length of the longer axis, from end to end, above 0.
        minor: length of the shorter axis, from end to end, 0 to `major`.
    """
    if minor == 0:
        return 2 * major
    mean, other = 1.0, minor / major
    total, weight = (1 + other**2) / 2, 0.5
    # Each round doubles the number of right digits.
    while mean - other > 1e-9 * mean:
        gap = (mean - other) / 2
        weight *= 2
        total -= weight * gap**2
        mean, other = (mean + other) / 2, math.sqrt(mean * other)
    return math.pi * major * total / mean


def fit_ellipse(mask: NDArray[np.bool_], spacing: Spacing, corner: tuple[int, int] = (0, 0)) -> Ellipse:
    """The ellipse that has the area's centre and second moments in common with a mask.

    Of a filled ellipse these are its own. A ragged border or a bay changes it less than an ellipse through the points
    of the border: on fetal heads (`benchmarks/head_circumference.py`) its circumference is nearer to the reference
    than that of the direct least squares of Fitzgibbon, Pilu and Fisher (1999).

    Args:
        mask: [H, W] bool, not empty; one part without holes for a meaningful answer.
        spacing: of the pixels.
        corner: column and row of the array's first pixel in the image, whose top left corner is the origin.
    """
    sums = cv2.moments(np.ascontiguousarray(mask).view(np.uint8), binaryImage=True)
    middle = np.array([sums["m10"], sums["m01"]]) / sums["m00"]
    # A pixel is an area, not a point: its own second moment is a twelfth of its side's square.
    moments = np.array([[sums["mu20"], sums["mu11"]], [sums["mu11"], sums["mu02"]]]) / sums["m00"] + np.eye(2) / 12
    scale = np.array(spacing)
    spread, axes = np.linalg.eigh(moments * np.outer(scale, scale))
    minor, major = 4 * np.sqrt(spread)
    centre = (middle + 0.5 + corner) * scale
    angle = math.degrees(math.atan2(axes[1, 1], axes[0, 1])) % 180
    return Ellipse((float(centre[0]), float(centre[1])), float(major), float(minor), angle)
