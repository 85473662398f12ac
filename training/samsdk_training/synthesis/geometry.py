"""Where the objects of an exemplar go: affine and elastic maps, and the resampling of pixels and labels alike.

Coordinates are (x, y) in pixels, pixel centres at whole numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk_training.data import tight_box
from samsdk_training.synthesis.config import Groups, Interpolation, SynthesisConfig

Floats = NDArray[np.float64]

_INTERPOLATIONS: Final[dict[Interpolation, int]] = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
# Standard deviation of uniform noise of -1 to 1 after a Gaussian filter of standard deviation 1 in two dimensions.
_SMOOTHED_NOISE: Final = 1 / (2 * np.sqrt(3 * np.pi))
# Displacements are cut off here, in standard deviations, so that the reach of a map is known before it is drawn.
_CUT_OFF: Final = 5


@dataclass(frozen=True)
class ObjectGroup:
    """Pixels of an exemplar that move and change together.

    Attributes:
        label: [h, w] uint8, class ids within the group's box, 0 elsewhere.
        origin: (x, y) of that box in the exemplar.
        centre: (x, y), centroid of the group's pixels in the exemplar.
    """

    label: NDArray[np.uint8]
    origin: tuple[int, int]
    centre: tuple[float, float]


@dataclass(frozen=True)
class Motion:
    """One map of the plane, from exemplar to synthetic image, and how far each pixel may stray from it.

    Attributes:
        matrix: [2, 3] affine.
        alpha: strength of the elastic part, pixels of the exemplar; 0 is none.
        sigma: its smoothness, pixels.
    """

    matrix: Floats
    alpha: float = 0.0
    sigma: float = 5.0

    @property
    def reach(self) -> float:
        """The farthest that the elastic part moves a pixel in either direction, pixels of the exemplar."""
        return _CUT_OFF * float(_SMOOTHED_NOISE) * self.alpha / self.sigma


STILL: Final = Motion(np.eye(2, 3))
"""Leaves everything where it is."""


@dataclass(frozen=True)
class Patch:
    """A group after its motion, cut to what lies within the frame.

    Attributes:
        place: rows and columns of the frame that it fills.
        image: [h, w] or [h, w, 3] uint8, the exemplar's pixels, also around the objects.
        label: [h, w] uint8, class ids, 0 where there is no object.
    """

    place: tuple[slice, slice]
    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


def split_groups(label: NDArray[np.uint8], groups: Groups) -> list[ObjectGroup]:
    """Cut a label image into what moves together.

    Args:
        label: [H, W] class ids, 0 is background.
        groups: see `SynthesisConfig.groups`; components are 8-connected.
    """
    return [_cut(np.where(mask, label, 0).astype(np.uint8)) for mask in _masks(label, groups)]


def whole_matrix(shape: tuple[int, int], rng: np.random.Generator, config: SynthesisConfig) -> Floats:
    """Draw the geometry that all groups of an image share: flips and a shift.

    Args:
        shape: (height, width) of the image.
        rng: the source of chance.
        config: probabilities and range.

    Returns:
        [2, 3] affine.
    """
    height, width = shape
    matrix = np.eye(2, 3)
    for axis, probability, length in ((0, config.flip_horizontal, width), (1, config.flip_vertical, height)):
        if rng.random() < probability:
            matrix[axis, axis], matrix[axis, 2] = -1, length - 1
    if rng.random() < config.shift:
        matrix[:, 2] += rng.uniform(*config.shifts, size=2) * [width, height]
    return matrix


def object_matrix(
    centre: tuple[float, float], scales: tuple[float, float], angle: float = 0.0, shear: float = 0.0
) -> Floats:
    """Scale, then shear, then rotate about a point, which stays where it is.

    Args:
        centre: (x, y).
        scales: factors of width and height.
        angle: degrees counter-clockwise as seen.
        shear: degrees by which vertical lines lean.

    Returns:
        [2, 3] affine.
    """
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    lean = np.array([[1, np.tan(np.deg2rad(shear))], [0, 1]])
    # Counter-clockwise as seen: y points down.
    linear = np.array([[cos, sin], [-sin, cos]]) @ lean @ np.diag(scales)
    return np.column_stack([linear, np.array(centre) - linear @ centre])


def draw_motion(group: ObjectGroup, whole: Floats, rng: np.random.Generator, config: SynthesisConfig) -> Motion:
    """Draw the geometry of one group, about its centroid.

    Args:
        group: to be moved.
        whole: [2, 3], what all groups share; applied last.
        rng: the source of chance.
        config: the ranges.
    """
    size = rng.uniform(*config.sizes)
    scales = size * rng.uniform(*config.stretches), size * rng.uniform(*config.stretches)
    own = object_matrix(group.centre, scales, rng.uniform(*config.angles), rng.uniform(*config.shears))
    alpha = rng.uniform(*config.elastic_alphas) if rng.random() < config.elastic else 0.0
    return Motion(whole @ np.vstack([own, [0, 0, 1]]), alpha, config.elastic_sigma)


def move(
    image: NDArray[np.uint8],
    group: ObjectGroup,
    motion: Motion,
    rng: np.random.Generator,
    *,
    interpolation: Interpolation = "linear",
    margin: int = 0,
) -> Patch | None:
    """Resample one group of an exemplar.

    Args:
        image: [H, W] or [H, W, 3], the exemplar's pixels; the frame is of the same size.
        group: of that exemplar.
        motion: from exemplar to frame.
        rng: of the elastic part.
        interpolation: of grey values; labels come from the nearest pixel, so that none is invented.
        margin: pixels around the objects that the patch shows too.

    Returns:
        The patch, or None where the group's box has left the frame.
    """
    columns, rows = _reached(group, motion, margin, (image.shape[1], image.shape[0]))
    if len(columns) == 0 or len(rows) == 0:
        return None
    inverse = np.asarray(cv2.invertAffineTransform(motion.matrix), dtype=np.float64)
    x, y = np.meshgrid(np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop))
    source: Floats = np.stack([x, y], axis=-1) @ inverse[:, :2].T + inverse[:, 2]
    if motion.alpha > 0:
        source += _elastic(source.shape[:2], motion, rng)
    maps = np.ascontiguousarray(np.moveaxis(source, -1, 0), dtype=np.float32)
    pixels = cv2.remap(image, maps[0], maps[1], _INTERPOLATIONS[interpolation], borderMode=cv2.BORDER_REPLICATE)
    place = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
    return Patch(place, np.asarray(pixels, dtype=np.uint8), _nearest(group, source))


def _masks(label: NDArray[np.uint8], groups: Groups) -> Iterator[NDArray[np.bool_]]:
    if groups == "together":
        yield label > 0
        return
    for value in np.unique(label[label > 0]):
        whole = label == value
        if groups == "class":
            yield whole
            continue
        count, parts = cv2.connectedComponents(whole.astype(np.uint8), connectivity=8)
        yield from (np.asarray(parts == part) for part in range(1, count))


def _cut(label: NDArray[np.uint8]) -> ObjectGroup:
    x0, y0, x1, y1 = tight_box(label > 0)
    rows, columns = np.nonzero(label)
    return ObjectGroup(label[y0:y1, x0:x1].copy(), (x0, y0), (float(columns.mean()), float(rows.mean())))


def _reached(group: ObjectGroup, motion: Motion, margin: int, size: tuple[int, int]) -> tuple[range, range]:
    """Columns and rows of the frame, of `size` (width, height), that the group's box may come to lie on."""
    spare = 0.5 + motion.reach
    low = np.array(group.origin) - spare
    high = np.array(group.origin) + group.label.shape[::-1] - 1 + spare
    corners = np.array([low, high, (low[0], high[1]), (high[0], low[1])])
    moved = corners @ motion.matrix[:, :2].T + motion.matrix[:, 2]
    first = np.maximum(np.floor(moved.min(axis=0)).astype(int) - margin, 0)
    last = np.minimum(np.ceil(moved.max(axis=0)).astype(int) + margin, np.array(size) - 1)
    return range(first[0], max(last[0] + 1, first[0])), range(first[1], max(last[1] + 1, first[1]))


def _elastic(shape: tuple[int, ...], motion: Motion, rng: np.random.Generator) -> Floats:
    noise = rng.uniform(-1, 1, size=(*shape, 2))
    smooth = np.asarray(cv2.GaussianBlur(noise, (0, 0), motion.sigma), dtype=np.float64)
    return np.clip(motion.alpha * smooth, -motion.reach, motion.reach)


def _nearest(group: ObjectGroup, source: Floats) -> NDArray[np.uint8]:
    # Not cv2.remap: its nearest neighbour rounds halves to even, and an object on a half pixel would lose every other.
    column, row = (np.floor(source[..., axis] + 0.5).astype(int) - group.origin[axis] for axis in (0, 1))
    height, width = group.label.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return np.where(inside, group.label[row.clip(0, height - 1), column.clip(0, width - 1)], 0).astype(np.uint8)
