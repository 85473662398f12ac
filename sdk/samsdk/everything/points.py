"""Where to point without a user: a regular grid, or what stands out of its surroundings."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

# Diameters in pixels of an octave's own image, from one scale to the next by sqrt(2). The outer two are there to be
# compared with: a spot is found at the scale where it stands out most.
_DIAMETERS: Final = (2.0 * math.sqrt(2), 4.0, 4.0 * math.sqrt(2), 8.0)
# A disc's Laplacian is extreme at this part of its diameter.
_SIGMA: Final = 1 / (2 * math.sqrt(2))
_BLOCK: Final = 2048
# What a pixel's answer depends on: four standard deviations of the widest blur, the Laplacian, the neighbours.
_HALO: Final = 16
# The smallest image that spots are sought in, so the largest spots are a third of an image's shorter side.
_LEAST_SIDE: Final = 16
_PERCENTILES: Final = (0.5, 99.5)
# Beyond the percentiles by so many times their distance lie objects, not the brightest parts of them.
_FAR: Final = 4
# Of an image larger than this, every n-th pixel tells the range of brightness.
_SAMPLED: Final = 2**20
# Two spots of one brightness that are closer than this share of the smaller one's radius are one spot.
_SAME: Final = 0.6


@dataclass(frozen=True, eq=False)
class Points:
    """Points to ask for, the most promising first.

    Attributes:
        places: [N, 2] float64, (x, y) in pixels of the image.
        radii: [N] float64, of what stands out there; NaN where that is not known.
    """

    places: NDArray[np.float64]
    radii: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.places)

    def part(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> "Points":
        """Those that are chosen."""
        return Points(self.places[chosen], self.radii[chosen])


def grid_points(size: tuple[int, int], per_side: int) -> Points:
    """A regular grid, as `segment_anything.utils.amg.build_point_grid` lays it.

    Args:
        size: (height, width) of the image.
        per_side: points along either side.
    """
    shares = (np.arange(per_side) + 0.5) / per_side
    across, down = np.meshgrid(shares * size[1], shares * size[0])
    places = np.stack([across.ravel(), down.ravel()], axis=1)
    return Points(places, np.full(len(places), np.nan))


def salient_points(image: NDArray[np.uint8], contrast: float) -> Points:
    """The centres of bright and dark spots of any size up to a third of the image.

    Extremes of the scale-normalised Laplacian of Gaussian over place and scale (Lindeberg, 1998), in an image that is
    halved from octave to octave, block by block, so that memory does not grow with the number of scales.

    Args:
        image: [H, W] grey or [H, W, 3] RGB, uint8.
        contrast: how much a spot must stand out, as a share of the image's range of brightness.
    """
    grey = image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    low, high = _brightness(grey)
    spots = [np.zeros((0, 5))]
    if high > low:
        plane, factor = grey, 1.0
        while min(plane.shape) >= _LEAST_SIDE or factor == 1:
            for block in _blocks(plane, low, high, contrast):
                # From centres of this octave's pixels to centres of the image's.
                block[:, 1:3] = (block[:, 1:3] + 0.5) * factor - 0.5
                block[:, 3] *= factor
                spots.append(block)
            if min(plane.shape) < 2 * _LEAST_SIDE:
                break
            half = (plane.shape[1] // 2, plane.shape[0] // 2)
            # An odd last row or column has no pixel to be halved with.
            plane = np.asarray(cv2.resize(plane[: 2 * half[1], : 2 * half[0]], half, interpolation=cv2.INTER_AREA))
            factor *= 2
    return _thinned(np.concatenate(spots))


def _brightness(grey: NDArray[np.uint8]) -> tuple[float, float]:
    """The range of brightness: percentiles, so that a few broken pixels do not count; but few small objects do."""
    step = max(1, math.isqrt(grey.size // _SAMPLED))
    low, high = (float(value) for value in np.percentile(grey[::step, ::step], _PERCENTILES))
    far = _FAR * (high - low)
    smooth = cv2.blur(grey, (3, 3))
    darkest, brightest = float(smooth.min()), float(smooth.max())
    # Percentiles of an image that is hardly anything but ground are its noise.
    return darkest if low - darkest > far else low, brightest if brightest - high > far else high


def _blocks(plane: NDArray[np.uint8], low: float, high: float, contrast: float) -> Iterator[NDArray[np.float64]]:
    height, width = plane.shape
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            y0, x0 = max(top - _HALO, 0), max(left - _HALO, 0)
            part = plane[y0 : top + _BLOCK + _HALO, x0 : left + _BLOCK + _HALO].astype(np.float32)
            found = _extremes(np.clip((part - np.float32(low)) / np.float32(high - low), 0, 1), contrast)
            found[:, 1:3] += x0, y0
            inside = (found[:, 1] >= left) & (found[:, 1] < left + _BLOCK)
            inside &= (found[:, 2] >= top) & (found[:, 2] < top + _BLOCK)
            yield found[inside]


def _extremes(values: NDArray[np.float32], contrast: float) -> NDArray[np.float64]:
    """Spots of one octave, [N, 5]: response, x, y, radius, and 1 for bright or -1 for dark."""
    responses = []
    for diameter in _DIAMETERS:
        sigma = diameter * _SIGMA
        blurred = cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
        laplacian = cv2.Laplacian(blurred, cv2.CV_32F, ksize=1, borderType=cv2.BORDER_REFLECT_101)
        responses.append(laplacian * np.float32(-(sigma**2)))
    spots = []
    for sign in (1, -1):
        signed = [np.float32(sign) * response for response in responses]
        around = [np.asarray(cv2.dilate(one, np.ones((3, 3), np.uint8))) for one in signed]
        for scale in range(1, len(signed) - 1):
            highest = np.maximum(np.maximum(around[scale - 1], around[scale + 1]), around[scale])
            rows, columns = np.nonzero((signed[scale] >= highest) & (signed[scale] > contrast))
            same = np.ones(len(rows))
            radius = _DIAMETERS[scale] / 2
            spots.append(np.stack([signed[scale][rows, columns], columns, rows, radius * same, sign * same], axis=1))
    return np.concatenate(spots).astype(np.float64)


def _thinned(spots: NDArray[np.float64]) -> Points:
    """The most promising first, without those that are nearly where a better one of the same sign is."""
    order = np.lexsort((spots[:, 4], spots[:, 3], spots[:, 1], spots[:, 2], -spots[:, 0]))
    kept: list[tuple[float, float, float]] = []
    # By sign and radius, in cells of the largest distance that counts for that radius.
    cells: dict[tuple[float, float], dict[tuple[int, int], list[tuple[float, float]]]] = {}
    for _, x, y, radius, sign in spots[order].tolist():
        if any(_is_near(cells[key], key[1], x, y, radius) for key in cells if key[0] == sign):
            continue
        kept.append((x, y, radius))
        cell = (int(x // (_SAME * radius)), int(y // (_SAME * radius)))
        cells.setdefault((sign, radius), {}).setdefault(cell, []).append((x, y))
    values = np.array(kept, dtype=np.float64).reshape(-1, 3)
    return Points(values[:, :2], values[:, 2])


def _is_near(
    cells: dict[tuple[int, int], list[tuple[float, float]]], theirs: float, x: float, y: float, radius: float
) -> bool:
    limit, side = _SAME * min(radius, theirs), _SAME * theirs
    column, row = int(x // side), int(y // side)
    return any(
        math.hypot(other[0] - x, other[1] - y) < limit
        for across in (-1, 0, 1)
        for down in (-1, 0, 1)
        for other in cells.get((column + across, row + down), ())
    )
