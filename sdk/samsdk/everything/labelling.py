"""From masks that overlap and nest to a label map, in which each pixel belongs to one object."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from samsdk.everything.filtering import tight
from samsdk.everything.result import Instance
from samsdk.masks import Region


def resolve_overlaps(
    regions: Sequence[Region], size: tuple[int, int], overlap: float, smallest: int
) -> tuple[NDArray[np.int32], list[int]]:
    """Give each pixel to the best mask that holds it; leave out masks that say what better ones said.

    The masks are taken one after the other, and what is taken is kept: time and memory grow with their pixels alone,
    not with the pairs of them.

    Args:
        regions: the best first, none of them empty.
        size: (height, width) of the image.
        overlap: a mask is left out if a larger share of its pixels belongs to better ones, or if it holds a larger
            share of the pixels of one of these.
        smallest: it is left out, too, if it is left with fewer pixels.

    Returns:
        [H, W] int32: 0 for background, objects numbered from 1 on without gaps; and the index of each object's mask.
    """
    labels = np.zeros(size, dtype=np.int32)
    chosen: list[int] = []
    areas = [0]
    for index, region in enumerate(regions):
        height, width = region.inside.shape
        part = labels[region.top : region.top + height, region.left : region.left + width]
        owners, shares = np.unique(part[region.inside], return_counts=True)
        free = int(shares[0]) if owners[0] == 0 else 0
        total = int(shares.sum())
        if total - free > overlap * total or free < max(smallest, 1):
            continue
        if any(
            share > overlap * areas[owner]
            for owner, share in zip(owners.tolist(), shares.tolist(), strict=True)
            if owner
        ):
            continue
        chosen.append(index)
        areas.append(free)
        part[region.inside & (part == 0)] = len(chosen)
    return labels, chosen


def labelled_instances(labels: NDArray[np.int32], masks: Sequence[tuple[Region, float, float]]) -> tuple[Instance, ...]:
    """The objects of a label map, each within its tight box.

    Args:
        labels: [H, W], objects numbered from 1 on without gaps.
        masks: of the object of each number the mask that it comes from, its score and its stability.
    """
    instances = []
    for number, (mask, score, stability) in enumerate(masks, start=1):
        height, width = mask.inside.shape
        inside = labels[mask.top : mask.top + height, mask.left : mask.left + width] == number
        region = tight(replace(mask, inside=inside))
        if region is None:
            raise ValueError(f"the label map has no object {number}")
        instances.append(Instance(number, region, score, stability))
    return tuple(instances)


def numbered_regions(labels: NDArray[np.integer]) -> list[Region]:
    """The objects of any label map [H, W], each within its tight box, in the order of their numbers."""
    height, width = labels.shape
    order = np.flatnonzero(labels)
    order = order[np.argsort(labels.ravel()[order], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(labels.ravel()[order])) + 1) if len(order) else []
    regions = []
    for pixels in groups:
        rows, columns = np.divmod(pixels, width)
        top, left = int(rows.min()), int(columns.min())
        inside = np.zeros((int(rows.max()) + 1 - top, int(columns.max()) + 1 - left), dtype=np.bool_)
        inside[rows - top, columns - left] = True
        regions.append(Region((height, width), top, left, inside))
    return regions
