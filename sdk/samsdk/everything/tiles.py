"""Tiles: overlapping squares of an image that are looked at one by one, so that small objects keep their detail."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samsdk.transforms import Window

# Tiles are not smaller than this share of the network's input: below it, they show nothing that is not there already.
_CLOSEST: Final = 0.375


def layer_sides(size: tuple[int, int], input_size: int, most: int | None) -> list[int]:
    """Sides of each layer's tiles: that of the whole image first, then half, and so on.

    Args:
        size: (height, width) of the image.
        input_size: side of the network's input square.
        most: layers after the first one; None for as many as add detail.
    """
    sides = [max(size)]
    while (most is None or len(sides) <= most) and -(-sides[-1] // 2) >= _CLOSEST * input_size:
        sides.append(-(-sides[-1] // 2))
    return sides


@dataclass(frozen=True, eq=False)
class Tiling:
    """Square tiles that overlap their neighbours by half or more; cut where the image is narrower.

    An object of up to half a tile's side is whole in the tile where its centre lies farthest from a cut border.

    Attributes:
        size: (height, width) of the image.
        side: of the tiles.
    """

    size: tuple[int, int]
    side: int

    def starts(self, length: int) -> NDArray[np.int64]:
        """First pixels of the tiles along a side of the image of this length."""
        if length <= self.side:
            return np.zeros(1, dtype=np.int64)
        steps = math.ceil(2 * (length - self.side) / self.side)
        return np.rint(np.arange(steps + 1) * (length - self.side) / steps).astype(np.int64)

    def tiles(self, places: NDArray[np.float64]) -> list[tuple[Window, NDArray[np.intp]]]:
        """Give each place to the tile where it lies farthest from a border that is not the image's own.

        Args:
            places: [N, 2], (x, y) in pixels of the image.

        Returns:
            The tiles that have any, row by row, and the indices of their places.
        """
        if len(places) == 0:
            return []
        height, width = self.size
        columns, rows = self._nearest(places[:, 0], width), self._nearest(places[:, 1], height)
        numbers = rows * len(self.starts(width)) + columns
        order = np.argsort(numbers, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
        return [(self._window(int(columns[group[0]]), int(rows[group[0]])), group) for group in groups]

    def _nearest(self, along: NDArray[np.float64], length: int) -> NDArray[np.intp]:
        starts = self.starts(length)
        # Halfway between the end of one tile and the start of the next one, both are equally near.
        cuts = (starts[:-1] + self.side - 1 + starts[1:]) / 2
        return np.searchsorted(cuts, along, side="left")

    def _window(self, column: int, row: int) -> Window:
        height, width = self.size
        left, top = int(self.starts(width)[column]), int(self.starts(height)[row])
        return left, top, min(left + self.side, width), min(top + self.side, height)
