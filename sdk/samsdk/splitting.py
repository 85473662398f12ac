"""From the mask of a class to its objects: touching convex ones, such as nuclei, are parted at their necks.

The watershed of the distance to the background, flooded from the distance's peaks that stand out (the h-maxima of
Soille, 2003). Both are exact: they come from the tree in which basins join as the level falls, not from iterations
over the image.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.masks import Region
from samsdk.settings import check_fields, kind_problems

_FREE: Final = 0
_OUTSIDE: Final = -1


@dataclass(frozen=True)
class Splitting:
    """How a mask is split into objects; see `split_instances`.

    Attributes:
        smallest: objects of fewer pixels of the image are dropped.
        depth: how much narrower, in pixels of radius, a neck must be than the smaller of the two parts that it joins.

    Raises:
        ValueError: with all that is wrong.
    """

    smallest: int = 10
    depth: float = 1.0

    def __post_init__(self) -> None:
        problems = kind_problems(self)
        if not problems:
            rules = [
                (self.smallest >= 0, f"smallest must be at least 0, got {self.smallest}"),
                (self.depth > 0, f"depth must be above 0, got {self.depth}"),
            ]
            problems = [text for holds, text in rules if not holds]
        if problems:
            raise ValueError("the splitting is not valid: " + "; ".join(problems))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> "Splitting":
        """The splitting from what `to_dict` returned, possibly after a way through JSON.

        Raises:
            ValueError: a field is missing or unknown, or a value is not valid.
        """
        return cls(**check_fields(cls, values, "splitting"))


def number_objects(region: Region, splitting: Splitting) -> NDArray[np.int32]:
    """Split a mask of an image into its objects.

    Args:
        region: the mask.
        splitting: how.

    Returns:
        [H, W] int32 of the whole image: what `split_instances` returns.
    """
    numbers = np.zeros(region.size, dtype=np.int32)
    height, width = region.inside.shape
    # There is nothing outside the region's box, and the box is in the order of the image: the numbers are the same.
    inside = split_instances(region.inside, smallest=splitting.smallest, depth=splitting.depth)
    numbers[region.top : region.top + height, region.left : region.left + width] = inside
    return numbers


def split_instances(mask: NDArray[np.bool_], *, smallest: int = 10, depth: float = 1.0) -> NDArray[np.int32]:
    """Split touching convex objects at their necks.

    Args:
        mask: [H, W] or [D, H, W] bool: a probability above 0.5.
        smallest: objects of fewer pixels are dropped, after the split.
        depth: how much narrower, in pixels of radius, a neck must be than the smaller of the two parts that it joins;
            larger splits less.

    Returns:
        Of the mask's shape: 0 is background, objects are numbered from 1 on without gaps, in the order of their peaks'
        first pixels. Parts that touch by a corner alone are one component. A pixel that two floods reach at one level
        belongs to the one that was queued first; floods are queued in the order of the objects' pixels.

    Raises:
        ValueError: the mask is not bool or has another number of axes, or the depth is not above 0.
    """
    if mask.dtype != np.bool_:
        raise ValueError(f"expected a bool mask, got {mask.dtype}")
    if mask.ndim not in (2, 3):
        raise ValueError(f"expected a mask of 2 or 3 axes, got shape {list(mask.shape)}")
    if not depth > 0:
        raise ValueError(f"expected a depth above 0, got {depth}")
    # The outside of the image is background: without any, a full image would have no distances.
    padded = np.pad(mask, 1)
    pixels = np.flatnonzero(padded)
    if len(pixels) == 0:
        return np.zeros(mask.shape, dtype=np.int32)
    squared = _squared_distances(padded)
    offsets = _neighbour_offsets(padded.shape)
    basins, peaks, joins = _basins(squared, pixels, offsets)
    summits, components = _prominent(peaks, joins, depth)
    labels = np.where(padded.ravel(), _FREE, _OUTSIDE).astype(np.int32)
    _plant(labels, squared, pixels, summits[basins], peaks, components[basins], depth)
    _flood(labels, squared, pixels, offsets)
    objects = np.maximum(labels, 0).reshape(padded.shape)
    return _drop_small(objects[(slice(1, -1),) * mask.ndim], smallest)


def _squared_distances(padded: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Squared distance of each pixel to the background, raveled; whole numbers, so that ties are ties."""
    planes = padded.astype(np.uint8).reshape(-1, *padded.shape[-2:])
    flat = [cv2.distanceTransform(plane, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for plane in planes]
    within = np.rint(np.square(flat, dtype=np.float64)).astype(np.int64).reshape(padded.shape)
    if padded.ndim == 2:
        return within.ravel()
    # Along the first axis: only planes that are nearer than the farthest background so far can still shorten a way.
    squared = within.copy()
    for step in range(1, len(within)):
        if step**2 >= squared.max():
            break
        np.minimum(squared[step:], within[:-step] + step**2, out=squared[step:])
        np.minimum(squared[:-step], within[step:] + step**2, out=squared[:-step])
    return squared.ravel()


def _neighbour_offsets(shape: Sequence[int]) -> list[int]:
    """Offsets of the 8 or 26 neighbours in a raveled image: those across a side first, those across a corner last."""
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    steps = sorted(product((-1, 0, 1), repeat=len(shape)), key=lambda step: sum(map(abs, step)))[1:]
    return [sum(one * stride for one, stride in zip(step, strides, strict=True)) for step in steps]


def _basins(
    squared: NDArray[np.int64], pixels: NDArray[np.intp], offsets: Sequence[int]
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]:
    """Let each pixel climb to its highest neighbour until it reaches a peak.

    Returns:
        The basin of each of `pixels`; the squared height of each basin's peak, descending; and the joins [3, J]:
        squared level and the two basins of each contact, levels descending.
    """
    size = len(squared)
    # One number that orders by height, and among equals by place; it holds the place as its remainder.
    keys = squared * size + np.arange(size - 1, -1, -1)
    highest = keys[pixels]
    for offset in offsets:
        np.maximum(highest, keys[pixels + offset], out=highest)
    position = np.zeros(size, dtype=np.intp)
    position[pixels] = np.arange(len(pixels))
    target = position[size - 1 - highest % size]
    while not np.array_equal(further := target[target], target):
        target = further
    tops = np.unique(target)
    tops = tops[np.argsort(-keys[pixels[tops]])]
    number = np.zeros(len(pixels), dtype=np.intp)
    number[tops] = np.arange(len(tops))
    basins = number[target]
    contacts = []
    for offset in (offset for offset in offsets if offset > 0):
        here = np.flatnonzero(squared[pixels + offset])
        there = position[pixels[here] + offset]
        here, there = here[apart := basins[here] != basins[there]], there[apart]
        level = np.minimum(squared[pixels[here]], squared[pixels[there]])
        contacts.append(np.stack([level, basins[here], basins[there]]))
    joins = np.concatenate(contacts, axis=1)
    joins = joins[:, np.lexsort((joins[2], joins[1], -joins[0]))]
    # Two basins touch in many pixels, mostly at a few levels.
    fresh = np.append(True, (joins[:, 1:] != joins[:, :-1]).any(axis=0))
    return basins, squared[pixels[tops]], joins[:, fresh[: joins.shape[1]]]


def _prominent(
    peaks: NDArray[np.int64], joins: NDArray[np.int64], depth: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the peaks that stand out, by joining basins as the level falls.

    Args:
        peaks: squared heights, descending.
        joins: as `_basins` returns them.
        depth: by how much a peak must rise above the level at which it joins a higher one.

    Returns:
        For each basin the peak that stands out and is reached from it without going down by the depth from that peak,
        -1 where there is none; and the basin of the highest peak of its component.
    """
    heights = np.sqrt(peaks).tolist()
    root = list(range(len(heights)))
    # By each tree's highest peak: the basins that are level with it, within the depth.
    level_with = [[basin] for basin in root]

    def find(basin: int) -> int:
        while root[basin] != basin:
            root[basin] = root[root[basin]]
            basin = root[basin]
        return basin

    for level, one, other in zip(np.sqrt(joins[0]).tolist(), *joins[1:].tolist(), strict=True):
        top, below = sorted((find(one), find(other)))  # basins are numbered by height
        if top == below:
            continue
        root[below] = top
        if level >= heights[below] - depth:
            if level >= heights[top] - depth:
                level_with[top] += level_with[below]
            level_with[below] = []
    summits = np.full(len(heights), -1, dtype=np.intp)
    for summit, members in enumerate(level_with):
        summits[members] = summit
    return summits, np.array([find(basin) for basin in range(len(heights))], dtype=np.intp)


def _plant(
    labels: NDArray[np.int32],
    squared: NDArray[np.int64],
    pixels: NDArray[np.intp],
    summits: NDArray[np.intp],
    peaks: NDArray[np.int64],
    components: NDArray[np.intp],
    depth: float,
) -> None:
    """Label the pixels from which objects grow, and all of a component that is one object; per-pixel arguments."""
    seeds = (summits >= 0) & (np.sqrt(squared[pixels]) >= np.sqrt(peaks[summits]) - depth)
    objects, first, which = np.unique(summits[seeds], return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    labels[pixels[seeds]] = 1 + order[which]
    # Of each component: its highest object, and whether it is the only one.
    component_of = np.zeros(len(peaks), dtype=np.intp)
    component_of[summits[seeds]] = components[seeds]
    alone = np.bincount(component_of[objects], minlength=len(peaks)) == 1
    number = np.zeros(len(peaks), dtype=np.int32)
    number[objects] = 1 + order
    whole = alone[components]
    labels[pixels[whole]] = number[components[whole]]


def _flood(
    labels: NDArray[np.int32], squared: NDArray[np.int64], pixels: NDArray[np.intp], offsets: Sequence[int]
) -> None:
    """Let the labels grow into their free neighbours, always from the highest pixel, first come first served.

    The order is Meyer's (1994), as scikit-image has it: one queue for each level.
    """
    free = pixels[labels[pixels] == _FREE]
    if len(free) == 0:
        return
    # Only what touches a free pixel can grow.
    touching = np.zeros(len(labels), dtype=np.bool_)
    for offset in offsets:
        touching[free + offset] = True
    growing = np.flatnonzero(touching & (labels > 0))
    levels, ranks = np.unique(-squared[np.concatenate([growing, free])], return_inverse=True)
    rank_of = dict(zip(free.tolist(), ranks[len(growing) :].tolist(), strict=True))
    queues: list[deque[int]] = [deque() for _ in levels]
    for pixel, rank in zip(growing.tolist(), ranks.tolist(), strict=False):
        queues[rank].append(pixel)
    cells = labels.data
    for current, queue in enumerate(queues):
        while queue:
            pixel = queue.popleft()
            for offset in offsets:
                neighbour = pixel + offset
                if cells[neighbour] == _FREE:
                    cells[neighbour] = cells[pixel]
                    # What lies higher than the flood is under water already.
                    queues[max(current, rank_of[neighbour])].append(neighbour)


def _drop_small(objects: NDArray[np.integer], smallest: int) -> NDArray[np.int32]:
    kept = np.bincount(objects.ravel()) >= smallest
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0)
    return np.asarray(numbers[objects], dtype=np.int32)
