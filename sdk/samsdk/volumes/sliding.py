"""Sliding windows: where they lie, how much each of their voxels counts, and what memory it takes.

Positions and weights are those of MONAI's `sliding_window_inference`, with which such networks are trained and
published. What differs is that it holds the logits of all classes for the whole volume: here one axis is streamed, so
that only as many planes are held as a window is deep, and the plane is cut into strips where even that is too much.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samsdk.volumes.grid import NetworkGrid, neighbours
from samsdk.volumes.preprocessing import VolumePreprocessing

MOST_LOGITS: Final = 2**30
"""Bytes that the logits which windows still add to may take; beyond it the volume is done strip by strip."""

# Of a side, MONAI's `sigma_scale`; and the least that a voxel counts.
_SIGMA: Final = 0.125
_LEAST_WEIGHT: Final = 1e-3
_FLOAT: Final = 4


@dataclass(frozen=True)
class Axis:
    """One axis of the network's grid with its windows.

    Attributes:
        turned: number of voxels of the volume, turned.
        size: number of voxels of the grid.
        crop: of a window.
        starts: of the windows, in voxels of the grid with padding on both sides, if a window is longer than the grid.
    """

    turned: int
    size: int
    crop: int
    starts: tuple[int, ...]

    @property
    def padded(self) -> int:
        """Number of voxels with padding."""
        return max(self.size, self.crop)

    @property
    def before(self) -> int:
        """How many of the padding's voxels come first."""
        return (self.padded - self.size) // 2


@dataclass(frozen=True)
class WindowPlan:
    """What segmenting one volume will take, known before it starts.

    Attributes:
        shape: (D, H, W) of the volume as the network sees it.
        windows: how often the network runs on a window.
        batch: windows in one call of the engine.
        peak_bytes: most memory that it takes at any time, beside the volume as given and the engine.
        axes: those of the network's grid: the streamed one, the one that is cut into strips, the last one.
        order: which axis (0, 1, 2 for D, H, W) each of them is.
        strips: (start, stop) of each strip, in voxels of the volume along the second axis.
        process_bytes: of the whole process: `peak_bytes`, the volume as given, and what the bundle's certificate
            measured of a process with the engine and one window in a call; None where there is no such measurement.
    """

    shape: tuple[int, int, int]
    windows: int
    batch: int
    peak_bytes: int
    axes: tuple[Axis, Axis, Axis]
    order: tuple[int, int, int]
    strips: tuple[tuple[int, int], ...]
    process_bytes: int | None = None

    @classmethod
    def of(
        cls,
        grid: NetworkGrid,
        preprocessing: VolumePreprocessing,
        classes: int,
        batch: int = 1,
        most_logits: int = MOST_LOGITS,
    ) -> "WindowPlan":
        """Plan the windows of a volume.

        Args:
            grid: the network's.
            preprocessing: the bundle's.
            classes: of the network, the background included.
            batch: windows in one call.
            most_logits: see `MOST_LOGITS`; a strip is never narrower than one voxel of the volume.
        """
        sides = [
            Axis(turned, size, crop, window_starts(size, crop, preprocessing.overlap))
            for turned, size, crop in zip(grid.turned, grid.shape, preprocessing.crop, strict=True)
        ]
        # Streamed is the axis of which a window takes the smallest part, strips cut the longer one of the others.
        order = sorted(range(3), key=lambda axis: (sides[axis].crop / sides[axis].padded, -sides[axis].padded))
        axes = (sides[order[0]], sides[order[1]], sides[order[2]])
        plane = _FLOAT * (classes + 1) * axes[0].crop * axes[2].padded
        count = min(max(1, math.ceil(plane * axes[1].padded / most_logits)), axes[1].turned)
        cuts = [round(axes[1].turned * index / count) for index in range(count + 1)]
        strips = tuple(itertools.pairwise(cuts))
        plan = cls(grid.shape, 0, batch, 0, axes, (order[0], order[1], order[2]), strips)
        windows = len(axes[0].starts) * len(axes[2].starts) * sum(len(plan.rows(strip)) for strip in strips)
        return cls(grid.shape, windows, batch, plan._peak(classes), axes, plan.order, strips)

    def needed(self, strip: tuple[int, int]) -> tuple[int, int]:
        """The voxels of the padded grid, along the second axis, that the voxels of a strip lie between: (start, stop).

        Args:
            strip: one of `strips`.
        """
        axis = self.axes[1]
        below, above, _ = neighbours(axis.size, axis.turned)
        return int(below[strip[0]]) + axis.before, int(above[strip[1] - 1]) + 1 + axis.before

    def rows(self, strip: tuple[int, int]) -> list[int]:
        """Starts of the windows along the second axis that reach into what a strip needs."""
        start, stop = self.needed(strip)
        axis = self.axes[1]
        return [one for one in axis.starts if one < stop and one + axis.crop > start]

    def positions(self, strip: tuple[int, int]) -> Iterator[list[tuple[int, int]]]:
        """Batches of a strip's windows, (start along the second axis, start along the last), at one streamed start."""
        every = [(row, column) for row in self.rows(strip) for column in self.axes[2].starts]
        for first in range(0, len(every), self.batch):
            yield every[first : first + self.batch]

    def _peak(self, classes: int) -> int:
        """Bytes of all arrays that live at once, in the worst moment."""
        first, second, last = self.axes
        width = max(stop - start for start, stop in map(self.needed, self.strips))
        longest = max(stop - start for start, stop in self.strips)
        crop = first.crop * second.crop * last.crop
        held = (classes + 1) * first.crop * width * last.padded
        # One class's planes move at a time when the stream goes on.
        moved = first.crop * width * last.padded
        slab = first.crop * second.padded * last.padded
        sources = 4 * second.turned * last.turned + 2 * second.size * last.size
        # The engine's answer, a byte for each of its numbers where NaN is looked for, and a channel times the weights.
        run = self.batch * crop * (1 + classes + classes // 4 + 1) + 2 * crop
        # Of a plane on its way back: between two of the grid, then along the second axis, then along the last.
        back = classes * (2 * width * last.size + 3 * longest * last.size) + 4 * longest * last.turned
        labels = first.turned * second.turned * last.turned * (1 if classes <= 256 else 2)
        return labels + _FLOAT * (held + slab + max(moved + back, run, sources))


def window_starts(size: int, crop: int, overlap: float) -> tuple[int, ...]:
    """Where windows start along one axis: at even distances, the last moved back to end with the volume.

    Args:
        size: of the axis; a window that is longer has one position, with padding on both sides.
        crop: of the window.
        overlap: of neighbours, as a part of the window.
    """
    if size <= crop:
        return (0,)
    step = max(1, int(crop * (1 - overlap)))
    return (*range(0, size - crop, step), size - crop)


def window_weights(crop: tuple[int, int, int], blending: str) -> NDArray[np.float32]:
    """How much each voxel of a window counts.

    Args:
        crop: (D, H, W).
        blending: `gaussian`, a bell whose standard deviation is an eighth of each side, or `constant`.

    Returns:
        [D, H, W] float32, positive.
    """
    if blending == "constant":
        return np.ones(crop, np.float32)
    bells = []
    for side in crop:
        places = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
        bells.append(np.exp(places**2 / np.float32(-2 * (_SIGMA * side) ** 2)))
    weights = bells[0][:, None, None] * bells[1][:, None] * bells[2]
    return np.asarray(np.maximum(weights, max(float(weights.min()), _LEAST_WEIGHT)), dtype=np.float32)
