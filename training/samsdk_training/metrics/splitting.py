"""From the mask of a class to its objects, in two or three dimensions. Needs scikit-image and scipy."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed


def split_instances(mask: NDArray[np.bool_], *, smallest: int = 10, depth: float = 1.0) -> NDArray[np.int32]:
    """Split touching convex objects, such as nuclei, at their necks.

    Watershed of the distance to the background, from its peaks that stand out by a depth.

    Args:
        mask: [H, W] or [D, H, W] bool: a probability above 0.5.
        smallest: objects of fewer pixels are dropped, after the split.
        depth: how much narrower, in pixels of radius, a neck must be than the smaller of the two parts that it joins;
            larger splits less.

    Returns:
        Of the mask's shape: 0 is background, objects are numbered from 1 on without gaps. Parts that touch by a
        corner alone are one component.

    Raises:
        ValueError: the mask is not bool, or the depth is not above 0.
    """
    if mask.dtype != np.bool_:
        raise ValueError(f"expected a bool mask, got {mask.dtype}")
    if not depth > 0:
        raise ValueError(f"expected a depth above 0, got {depth}")
    # The outside of the image is background: without any, a full image would have no distances.
    padded = np.pad(mask, 1)
    distance = ndimage.distance_transform_edt(padded)
    components = label(padded, connectivity=mask.ndim)
    # The h-maxima of Soille, 2003. `skimage.morphology.h_maxima` keeps two peaks of one height whatever joins them.
    levelled = reconstruction(distance - depth, distance, footprint=np.ones((3,) * mask.ndim))
    seeds = local_maxima(levelled, connectivity=mask.ndim) & padded
    # Objects that are nowhere as thick as the depth have no peak; each of these is one object.
    seeded = np.unique(components[seeds])
    seeds |= padded & ~np.isin(components, seeded)
    markers = label(seeds, connectivity=mask.ndim)
    objects = watershed(-distance, markers, mask=padded, connectivity=mask.ndim)
    return _drop_small(objects[(slice(1, -1),) * mask.ndim], smallest)


def _drop_small(objects: NDArray[np.integer], smallest: int) -> NDArray[np.int32]:
    kept = np.bincount(objects.ravel()) >= smallest
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0)
    return np.asarray(numbers[objects], dtype=np.int32)
