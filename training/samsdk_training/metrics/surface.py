"""How far apart the surfaces of two masks are, in two or three dimensions. Needs the extra `train` (monai, torch).

The surfaces and the distances between them are MONAI's, of two kinds:

- **voxel surface**: the foreground voxels with a background voxel across a face; outside of the image is background.
- **surfels**: the elements of the surface that runs between voxels, each with its area (in two dimensions, length)
  from a table over the 2x2x2 (2x2) neighbourhoods (github.com/google-deepmind/surface-distance; Nikolov et al., 2018).

Tools differ by more than models do (Podobnik and Vrtovec, 2024), hence conventions have names.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from monai.metrics.utils import get_edge_surface_distance
from numpy.typing import NDArray
from torch import Tensor

from samsdk_training.metrics.empty import UNDEFINED, EmptyPolicy, check_masks

Convention = Literal["medpy", "deepmind"]


def hd95(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    *,
    convention: Convention,
    spacing: Sequence[float] | None = None,
    empty: EmptyPolicy = UNDEFINED,
) -> float:
    """95 % Hausdorff distance.

    Args:
        prediction: [H, W] or [D, H, W] bool.
        truth: of the same shape.
        convention: `medpy`: the 95th percentile, interpolated, of the distances from each surface voxel of either mask
            to the voxel surface of the other, all in one list (`medpy.metric.hd95`; TransUNet and SAMed without
            spacing). `deepmind`: the larger of the two directed distances within which 95 % of a surface's area lies
            (`compute_robust_hausdorff`). They may differ by a voxel and more, either way.
        spacing: size of a pixel along each axis, in mm; None measures in pixels.
        empty: what it is where a mask is empty.

    Returns:
        The distance, or NaN where undefined.

    Raises:
        ValueError: these are no two masks of one shape, or the spacing or the convention is none.
    """
    check_masks(prediction, truth)
    size = _checked_spacing(spacing, prediction.ndim)
    if convention not in ("medpy", "deepmind"):
        raise ValueError(f"expected the convention medpy or deepmind, got {convention!r}")
    ruled = empty.distance(bool(prediction.any()), bool(truth.any()), prediction.shape, size)
    if ruled is not None:
        return ruled
    if convention == "medpy":
        return float(np.percentile(np.concatenate(_voxel_distances(prediction, truth, size)), 95))
    return max(_distance_of_share(surfels, 0.95) for surfels in _surfels(prediction, truth, size))


def nsd(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    *,
    tolerance: float,
    spacing: Sequence[float] | None = None,
    empty: EmptyPolicy = UNDEFINED,
) -> float:
    """Normalised surface Dice: the share of both surfaces' area that lies within a tolerance of the other surface.

    Args:
        prediction: [H, W] or [D, H, W] bool.
        truth: of the same shape.
        tolerance: how far off a surface may be, in mm or pixels as the spacing is. Published ones: 2 mm (CVPR 2024
            challenge), 5 mm (3DSAM-adapter); a value without its tolerance says nothing.
        spacing: size of a pixel along each axis, in mm; None measures in pixels.
        empty: what it is where a mask is empty.

    Returns:
        0 to 1, or NaN where undefined.

    Raises:
        ValueError: these are no two masks of one shape, or the spacing or the tolerance is none.
    """
    check_masks(prediction, truth)
    size = _checked_spacing(spacing, prediction.ndim)
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"expected a tolerance from 0 on, got {tolerance}")
    ruled = empty.score(bool(prediction.any()), bool(truth.any()))
    if ruled is not None:
        return ruled
    surfaces = _surfels(prediction, truth, size)
    within = sum(surfels.areas[surfels.distances <= np.float32(tolerance)].sum() for surfels in surfaces)
    return float(within / sum(surfels.areas.sum() for surfels in surfaces))


def average_surface_distance(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    *,
    spacing: Sequence[float] | None = None,
    empty: EmptyPolicy = UNDEFINED,
) -> float:
    """Mean of the distances from each surface voxel of either mask to the voxel surface of the other, in one list.

    This is the symmetric average surface distance of Heimann et al., 2009; medpy's `assd` is the mean of the two
    directed means, which is another number where the surfaces' sizes differ.

    Args:
        prediction: [H, W] or [D, H, W] bool.
        truth: of the same shape.
        spacing: size of a pixel along each axis, in mm; None measures in pixels.
        empty: what it is where a mask is empty.

    Returns:
        The distance, or NaN where undefined.

    Raises:
        ValueError: these are no two masks of one shape, or the spacing is none.
    """
    check_masks(prediction, truth)
    size = _checked_spacing(spacing, prediction.ndim)
    ruled = empty.distance(bool(prediction.any()), bool(truth.any()), prediction.shape, size)
    if ruled is not None:
        return ruled
    return float(np.concatenate(_voxel_distances(prediction, truth, size)).mean())


@dataclass(frozen=True, eq=False)
class _Surfels:
    """The surfels of one mask: [N] their distances to the other's, and [N] their areas."""

    # Single precision, as MONAI has them; so 3 pixels of 0.1 mm lie within a tolerance of 0.3 mm.
    distances: NDArray[np.float32]
    areas: NDArray[np.float64]


def _distance_of_share(surfels: _Surfels, share: float) -> float:
    """The smallest distance within which this share of the area lies."""
    order = np.argsort(surfels.distances)
    covered = np.cumsum(surfels.areas[order])
    index = int(np.searchsorted(covered / covered[-1], share))
    return float(surfels.distances[order][min(index, len(order) - 1)])


def _voxel_distances(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, ...]
) -> list[NDArray[np.float64]]:
    """From each surface voxel to the other's surface: of the prediction's, and of the reference's."""
    _, distances, _ = _edges(prediction, truth, spacing, surfels=False)
    return [one.double().numpy() for one in distances]


def _surfels(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, ...]
) -> tuple[_Surfels, _Surfels]:
    edges, distances, areas = _edges(prediction, truth, spacing, surfels=True)
    first, second = (
        _Surfels(distance.numpy(), area[edge].double().numpy())
        for edge, distance, area in zip(edges, distances, areas, strict=True)
    )
    return first, second


def _edges(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, ...], *, surfels: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """MONAI's edge maps, the distances at each edge, and with surfels the maps of areas."""
    # Copies, since torch takes no reversed axes and warns of arrays that must not be written to.
    masks = torch.from_numpy(prediction.copy()), torch.from_numpy(truth.copy())
    with warnings.catch_warnings():
        # MONAI 1.5 and 1.6 warn of an argument that they pass themselves.
        warnings.filterwarnings("ignore", "(?s).*always_return_as_numpy", FutureWarning)
        return get_edge_surface_distance(*masks, spacing=spacing, use_subvoxels=surfels, symmetric=True)


def _checked_spacing(spacing: Sequence[float] | None, axes: int) -> tuple[float, ...]:
    if spacing is None:
        return (1.0,) * axes
    sizes = tuple(float(size) for size in spacing)
    if len(sizes) != axes or not all(np.isfinite(size) and size > 0 for size in sizes):
        raise ValueError(f"expected a spacing of {axes} sizes above 0, got {tuple(spacing)}")
    return sizes
