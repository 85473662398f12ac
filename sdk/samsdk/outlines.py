"""Outlines of masks along the sides of their pixels, which hold exactly what the mask holds."""

from collections.abc import Mapping
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.masks import Region

Corner = tuple[int, int]
Side = tuple[Corner, Corner]
"""Where a side of a pixel begins, and its direction."""

# A side's direction, and what comes after it: with the mask to the right of the way, the right turn first, so that
# parts that touch at a corner stay apart.
_TURNS: Final[Mapping[Corner, tuple[Corner, Corner, Corner]]] = {
    (1, 0): ((0, 1), (1, 0), (0, -1)),
    (0, 1): ((-1, 0), (0, 1), (1, 0)),
    (-1, 0): ((0, -1), (-1, 0), (0, 1)),
    (0, -1): ((1, 0), (0, -1), (-1, 0)),
}


def cut_outlines(region: Region) -> list[NDArray[np.int64]]:
    """One closed outline for each part of a mask, its holes cut open.

    Args:
        region: the mask.

    Returns:
        [N, 2] (x, y) corners of pixels each, of which the last is joined to the first: pixel k of a row lies from k to
        k + 1. Parts that only touch at a corner are apart. The way around a hole runs against that around the part, and
        a slit of no width, gone both ways, joins the two; so the hole stays a hole whether a reader fills by parity or
        by winding.
    """
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(region.inside.astype(np.uint8), connectivity=4)
    outlines = []
    for number in range(1, count):
        left, top, width, height = boxes[number, :4].tolist()
        part = labels[top : top + height, left : left + width] == number
        outlines.append(_cut_open(_loops(part)) + np.array([region.left + left, region.top + top]))
    return outlines


def _loops(part: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """The closed ways around a connected part [H, W], the outer one first, straight pieces as one."""
    padded = np.pad(part, 1)
    sides: set[Side] = set()
    for direction, inner, outer in (
        ((1, 0), padded[1:, :], padded[:-1, :]),
        ((-1, 0), padded[:-1, :], padded[1:, :]),
        ((0, -1), padded[:, 1:], padded[:, :-1]),
        ((0, 1), padded[:, :-1], padded[:, 1:]),
    ):
        rows, columns = np.nonzero(inner & ~outer)
        sides.update((start, direction) for start in _starts(direction, rows, columns))
    loops, walked = [], set[Side]()
    # The topmost side that runs to the right is the outer way's, and each way has one.
    for side in sorted((side for side in sides if side[1] == (1, 0)), key=lambda side: side[0][::-1]):
        if side not in walked:
            loops.append(_walk(sides, walked, side))
    return loops


def _starts(direction: Corner, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> list[Corner]:
    """Where sides begin, as corners (x, y) of the part, from their places in the padded mask's differences."""
    x, y = columns, rows
    if direction[1] == 0:
        x = x - 1 + (direction[0] < 0)
    else:
        y = y - 1 + (direction[1] < 0)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _walk(sides: set[Side], walked: set[Side], side: Side) -> NDArray[np.int64]:
    """Follow sides until they close, and note them as walked; the corners where the way turns."""
    corners = []
    while side not in walked:
        walked.add(side)
        (x, y), direction = side
        place = (x + direction[0], y + direction[1])
        side = next((place, turn) for turn in _TURNS[direction] if (place, turn) in sides)
        if side[1] != direction:
            corners.append(place)
    return np.array(corners, dtype=np.int64)


def _cut_open(loops: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Join the ways around holes to the outer one, each at the corner that is nearest to the hole's first."""
    way, *holes = loops
    for hole in holes:
        nearest = int(np.square(way - hole[0]).sum(axis=1).argmin())
        # There, around, back to the hole's first corner, and back.
        way = np.concatenate([way[: nearest + 1], hole, hole[:1], way[nearest:]])
    return way
