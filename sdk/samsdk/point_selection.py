"""Points picked from a map of probabilities: how a model prompts itself, the same in training and on the device.

The two strategies of Segment Any Cell (Na et al., 2024): the centroids of the map's components, which spread over the
objects, or the most probable pixels, which crowd on a few of them. Thresholds, ranks and the choice of negative points
are not published; they are settings here.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.prompts import BACKGROUND, FOREGROUND
from samsdk.settings import check_fields, kind_problems
from samsdk.transforms import Frame

STRATEGIES: Final = ("centroid", "probability")
# Positive and negative ones together. The decoder's graph takes 256 tokens: the rest is for those that a person adds.
MOST_POINTS: Final = 240
# Lengths and areas in a selection are those of a map of this side, so that they mean the same at any resolution.
REFERENCE_SIDE: Final = 256


@dataclass(frozen=True)
class PointSelection:
    """How points are picked. Lengths are in pixels of a map of side 256 and scaled to the map's own.

    Attributes:
        strategy: `centroid`: one point for each connected component above the threshold, at its centroid or, where that
            lies outside, at the pixel farthest from its border; the components with the largest product of mean
            probability and square root of area come first. `probability`: the most probable pixels.
        positives: most points on objects.
        negatives: most points on background; 0 for none. `centroid` spreads them over the background, `probability`
            takes the least probable pixels.
        threshold: pixels above it are foreground.
        background: pixels below it are background, if they are far enough from the foreground.
        smallest: components of a smaller area are not given a point; of `centroid` alone.
        min_distance: points of one label are at least so far apart; 0 for any distance.
        margin: negative points are farther than this from all foreground.

    Raises:
        ValueError: with all that is wrong.
    """

    strategy: str = "centroid"
    positives: int = 20
    negatives: int = 20
    threshold: float = 0.5
    background: float = 0.1
    smallest: float = 10.0
    min_distance: float = 0.0
    margin: float = 5.0

    def __post_init__(self) -> None:
        problems = kind_problems(self) or [text for holds, text in self._rules() if not holds]
        if problems:
            raise ValueError("the point selection is not valid: " + "; ".join(problems))

    def _rules(self) -> list[tuple[bool, str]]:
        total = self.positives + self.negatives
        lengths = ("smallest", "min_distance", "margin")
        return [
            (self.strategy in STRATEGIES, f"strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}"),
            (self.positives >= 1, f"positives must be at least 1, got {self.positives}"),
            (self.negatives >= 0, f"negatives must be at least 0, got {self.negatives}"),
            (total <= MOST_POINTS, f"there may be at most {MOST_POINTS} points in all, got {total}"),
            (0 <= self.threshold < 1, f"threshold must be from 0 to below 1, got {self.threshold}"),
            (
                0 <= self.background <= self.threshold,
                f"background must be from 0 to the threshold of {self.threshold}, got {self.background}",
            ),
            *((getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}") for name in lengths),
        ]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> "PointSelection":
        """The selection from what `to_dict` returned, possibly after a way through JSON.

        Raises:
            ValueError: a field is missing or unknown, or a value is not valid.
        """
        return cls(**check_fields(cls, values, "point selection"))


def select_points(
    probabilities: NDArray[np.floating], frame: Frame, selection: PointSelection
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Pick points from a map; none at all where it shows no object, because negative points alone say nothing.

    Equal candidates come in the order of the image, row by row.

    Args:
        probabilities: [L, L], over the whole input square, each in [0, 1].
        frame: the image's frame in that square; where the square is the image, `Preprocessing(L).frame((L, L))`.
        selection: how.

    Returns:
        Points [K, 2], (x, y) in pixels of the image as given and inside the frame's window, the positive ones first,
        the best of each first; and their labels [K], 1 and 0. With fewer points asked for, they are the first of these.

    Raises:
        ValueError: the map is not square, or holds NaN or anything else that is no probability.
    """
    if probabilities.ndim != 2 or probabilities.shape[0] != probabilities.shape[1]:
        raise ValueError(f"expected a square map of probabilities, got shape {list(probabilities.shape)}")
    if not (probabilities.size and probabilities.min() >= 0 and probabilities.max() <= 1):  # NaN is neither
        raise ValueError("expected probabilities from 0 to 1, got others")
    side = len(probabilities)
    scale = side / REFERENCE_SIDE
    top, left, bottom, right = _filled(frame, side)
    inside = np.asarray(probabilities[top:bottom, left:right], dtype=np.float32)
    foreground = inside > selection.threshold
    pick = _centroids if selection.strategy == "centroid" else _most_probable
    positives = pick(inside, foreground, selection, scale)
    negatives = _negatives(inside, foreground, selection, scale) if len(positives) else np.zeros((0, 2))
    points = np.array((left, top)) + np.concatenate([positives, negatives])
    labels = np.repeat(np.array([FOREGROUND, BACKGROUND], dtype=np.float32), [len(positives), len(negatives)])
    return _to_image(points, frame, side), labels


def _filled(frame: Frame, side: int) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the map's cells whose centres show the image; one row and column at least."""
    cell = frame.input_size / side
    starts = [min(math.ceil(at / cell - 0.5), side - 1) for at in frame.offset]
    ends = [math.ceil((at + length) / cell - 0.5) for at, length in zip(frame.offset, frame.resized_size, strict=True)]
    top, left = (max(start, 0) for start in starts)
    return top, left, max(ends[0], top + 1), max(ends[1], left + 1)


def _to_image(points: NDArray[np.float64], frame: Frame, side: int) -> NDArray[np.float64]:
    """From pixels of the map to those of the image, centre upon centre."""
    in_square = (points + 0.5) * (frame.input_size / side)
    moved = (in_square - frame.offset[::-1]) / frame.scales[::-1] - 0.5 + frame.window[:2]
    x0, y0, x1, y1 = frame.window
    return np.asarray(np.clip(moved, (x0, y0), (x1 - 1, y1 - 1)), dtype=np.float64)


def _centroids(
    probabilities: NDArray[np.float32], foreground: NDArray[np.bool_], selection: PointSelection, scale: float
) -> NDArray[np.float64]:
    count, parts, stats, centroids = cv2.connectedComponentsWithStats(foreground.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros((0, 2))
    areas = stats[:, cv2.CC_STAT_AREA]
    totals = np.bincount(parts.ravel(), weights=probabilities.ravel(), minlength=count)
    large = np.flatnonzero(areas >= selection.smallest * scale**2)
    large = large[large > 0]
    points = np.asarray(centroids, dtype=np.float64)[large]
    columns, rows = np.floor(points + 0.5).astype(np.intp).T
    for index in np.flatnonzero(parts[rows, columns] != large):
        points[index] = _deepest(parts, int(large[index]), stats[large[index]])
    scores = totals[large] / np.sqrt(areas[large])  # mean probability times square root of area
    order = np.lexsort((points[:, 0], points[:, 1], -scores))
    return _spread(points[order], selection.positives, selection.min_distance * scale)


def _deepest(parts: NDArray[np.generic], part: int, stats: NDArray[np.generic]) -> tuple[int, int]:
    """The pixel of a component that is farthest from its border."""
    left, top, width, height = stats[:4].tolist()
    mask = np.pad((parts[top : top + height, left : left + width] == part).astype(np.uint8), 1)
    row, column = divmod(int(cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).argmax()), width + 2)
    return left + column - 1, top + row - 1


def _most_probable(
    probabilities: NDArray[np.float32], foreground: NDArray[np.bool_], selection: PointSelection, scale: float
) -> NDArray[np.float64]:
    return _extremes(-probabilities, foreground, selection.positives, selection.min_distance * scale)


def _negatives(
    probabilities: NDArray[np.float32], foreground: NDArray[np.bool_], selection: PointSelection, scale: float
) -> NDArray[np.float64]:
    distance = cv2.distanceTransform((~foreground).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    allowed = (probabilities < selection.background) & (distance > selection.margin * scale)
    apart = selection.min_distance * scale
    if selection.strategy == "probability":
        return _extremes(probabilities, allowed, selection.negatives, apart)
    return _farthest(np.where(allowed, distance, 0), selection.negatives, apart)


def _extremes(values: NDArray[np.float32], allowed: NDArray[np.bool_], count: int, apart: float) -> NDArray[np.float64]:
    """The allowed pixels of the lowest values, (x, y)."""
    rows, columns = np.nonzero(allowed)
    order = np.argsort(values[rows, columns], kind="stable")
    return _spread(np.stack([columns, rows], axis=1)[order].astype(np.float64), count, apart)


def _spread(points: NDArray[np.float64], count: int, apart: float) -> NDArray[np.float64]:
    """The first of the points, in their order, without those that come too close to one before."""
    if apart == 0:
        return points[:count]
    chosen: list[NDArray[np.float64]] = []
    while len(points) and len(chosen) < count:
        chosen.append(points[0])
        far = np.square(points[1:] - points[0]).sum(axis=1) >= apart**2
        points = points[1:][far]
    return np.array(chosen).reshape(-1, 2)


def _farthest(depth: NDArray[np.floating], count: int, apart: float) -> NDArray[np.float64]:
    """Farthest-point sampling of the pixels where `depth` is above 0, from the deepest one on; (x, y)."""
    rows, columns = (np.arange(length, dtype=np.int64) for length in depth.shape)
    # Squared distance to the nearest point so far; whole numbers, so that ties are ties.
    nearest = np.where(depth > 0, np.iinfo(np.int64).max, 0)
    place = int(depth.argmax())
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count and nearest.flat[place] >= max(1, apart**2):
        row, column = divmod(place, depth.shape[1])
        chosen.append((column, row))
        np.minimum(nearest, ((rows - row) ** 2)[:, None] + (columns - column) ** 2, out=nearest)
        place = int(nearest.argmax())
    return np.array(chosen, dtype=np.float64).reshape(-1, 2)
