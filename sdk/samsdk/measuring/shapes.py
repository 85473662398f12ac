"""Lengths of a mask's border: its perimeter, and its longest and shortest diameter.

Pixels are areas: that of column x and row y covers x to x + 1 and y to y + 1, as in boxes. A point of the border is the
middle of a side between a pixel inside and one outside, which is where a smooth object's border most likely runs. All
geometry is done after pixels were scaled to their real size, so it holds for pixels that are not square.
"""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Spacing = tuple[float, float]
"""How large a pixel is, (x, y)."""

# Steps (x, y) between the pixels that are compared along one direction: the axes, the diagonals and the knight's moves.
# With the first four alone a straight border is up to 5 % off, with all eight 2.5 %.
_STEPS: Final = ((1, 0), (0, 1), (1, 1), (-1, 1), (2, 1), (-2, 1), (1, 2), (-1, 2))


@dataclass(frozen=True)
class Diameter:
    """A straight line across an object, in the unit of what it was measured in.

    Attributes:
        length: of the line.
        start: one end (x, y).
        end: the other end (x, y).
    """

    length: float
    start: Point
    end: Point


def border_points(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The middles of all sides between a pixel inside and one outside.

    Args:
        mask: [H, W] bool; outside the array is outside.

    Returns:
        [N, 2] int32, (x, y) in half pixels, so that they are whole numbers.
    """
    padded = np.pad(mask, 1)
    rows, columns = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    upright = np.stack([2 * columns, 2 * rows + 1], axis=1)
    rows, columns = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    level = np.stack([2 * columns + 1, 2 * rows], axis=1)
    return np.concatenate([upright, level]).astype(np.int32)


def perimeter(mask: NDArray[np.bool_], spacing: Spacing) -> float:
    """The length of the border, that of holes included, by the Cauchy-Crofton formula.

    A border's length is the mean number of times that lines of all directions cross it. Here the lines are those
    through pixels in eight directions, each weighted with the angle that it stands for (after Lehmann and Legland,
    Efficient N-dimensional surface estimation using Crofton formula and run-length encoding, 2012). Ellipses with axes
    of 20 pixels or more come out within 2 %, of 60 within 0.5 %; rectangles within 2.5 %, small ones up to 6 % short,
    because each corner costs up to half a pixel; flat pixels, 5 to 1, within 4 %. Jags of one or two pixels count for
    less than they are long. The chain of border pixels would be 5 % too long for round shapes, whatever their size.

    Args:
        mask: [H, W] bool; outside the array is outside.
        spacing: of the pixels.
    """
    padded = np.pad(mask, 2)
    width, height = spacing
    lines = sorted((math.atan2(y * height, x * width) % math.pi, x, y) for x, y in _STEPS)
    angles = np.array([angle for angle, _, _ in lines])
    gaps = np.diff(angles, append=angles[0] + math.pi)
    shares = (gaps + np.roll(gaps, 1)) / 2
    apart = [width * height / math.hypot(x * width, y * height) for _, x, y in lines]
    crossings = [_crossings(padded, x, y) for _, x, y in lines]
    return float(np.sum(shares * apart * crossings) / 2)


def _crossings(padded: NDArray[np.bool_], x: int, y: int) -> int:
    """How often lines of one direction cross the border; `y` is not negative."""
    height, width = padded.shape
    here = padded[: height - y, max(-x, 0) : width - max(x, 0)]
    there = padded[y:, max(x, 0) : width - max(-x, 0)]
    return int(np.count_nonzero(here != there))


def convex_hull(points: NDArray[np.int32], spacing: Spacing) -> NDArray[np.float64]:
    """The convex hull of border points.

    Args:
        points: [N, 2] as `border_points` returns them.
        spacing: of the pixels.

    Returns:
        [K, 2] float64, (x, y) in the spacing's unit, in order along the hull.
    """
    # In whole numbers the hull is exact, and scaling an axis keeps it one.
    hull = cv2.convexHull(points).reshape(-1, 2)
    return np.asarray(hull * (np.array(spacing) / 2))


def longest_diameter(hull: NDArray[np.float64]) -> Diameter:
    """The two points that are farthest apart (the maximum Feret diameter).

    Args:
        hull: [K, 2] as `convex_hull` returns it.
    """
    x, y = hull.T
    squared = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2  # [K, K]
    start, end = np.unravel_index(int(squared.argmax()), squared.shape)
    return _diameter(hull[start], hull[end])


def shortest_diameter(hull: NDArray[np.float64]) -> Diameter:
    """The smallest distance of two parallel lines with the object between them (the minimum Feret diameter).

    One of the two lines always holds an edge of the convex hull. The diameter stands upright on that edge.

    Args:
        hull: [K, 2] as `convex_hull` returns it, K at least 3.
    """
    edges = np.roll(hull, -1, axis=0) - hull
    normals = np.stack([-edges[:, 1], edges[:, 0]], axis=1) / np.hypot(*edges.T)[:, None]
    away = normals @ hull.T - np.sum(normals * hull, axis=1)[:, None]  # [K, K]: of each edge, each point's distance
    edge = int(np.abs(away).max(axis=1).argmin())
    point = int(np.abs(away[edge]).argmax())
    return _diameter(hull[point] - away[edge, point] * normals[edge], hull[point])


def _diameter(start: NDArray[np.float64], end: NDArray[np.float64]) -> Diameter:
    length = float(np.hypot(*(end - start)))
    return Diameter(length, (float(start[0]), float(start[1])), (float(end[0]), float(end[1])))
