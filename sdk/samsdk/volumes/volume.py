"""A volume in memory: its voxels, and where each of them lies in the patient."""

import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samsdk.errors import VolumeError

MAX_VOXELS: Final = 2**30
"""Larger volumes are refused: a cube of 1024."""

# Columns of an affine that lie closer to one plane than this span no volume.
_LEAST_VOLUME: Final = 1e-6


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume on its own grid, whatever way its axes run in the patient.

    Attributes:
        array: [D, H, W] numbers, the third voxel index first: `array[z, y, x]` is nibabel's `data[x, y, z]`. Nested
            lists are taken, too, and become an array.
        affine: [4, 4] float64, from voxel indices (x, y, z, 1) to mm in the patient: to the right, to the front, to the
            head (RAS+), as nibabel has it. Other real numbers and nested lists become float64.
        oriented: whether it is known how the patient lies; if not, the affine is only a guess at it.
        header: of the NIfTI file that it was read from, so that what is written for it has the same one; else None.

    Raises:
        VolumeError: the array has other than three axes, no or too many voxels, no real numbers, or NaN or infinite
            ones; or the affine is none, or spans no volume.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    oriented: bool = True
    header: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "array", _as_array(self.array))
        object.__setattr__(self, "affine", _as_affine(self.affine))
        _check_array(self.array)
        _check_affine(self.affine)

    @classmethod
    def of(cls, array: ArrayLike, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> "Volume":
        """A volume out of an array alone: its axes are taken to run to the head, to the front and to the right.

        Args:
            array: [D, H, W].
            spacing: (z, y, x) of a voxel in mm.

        Raises:
            VolumeError: as the class; or the spacing is not three positive numbers.
        """
        lengths = _real_numbers(spacing)
        if lengths is None or lengths.shape != (3,) or not np.isfinite(lengths).all() or not (lengths > 0).all():
            raise VolumeError(f"spacing must be three positive lengths in mm, (z, y, x), got {spacing!r}")
        return cls(_as_array(array), np.diag([*lengths[::-1], 1.0]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        depth, height, width = self.array.shape
        return depth, height, width

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(z, y, x) of a voxel in mm."""
        x, y, z = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return z, y, x

    @property
    def voxel_ml(self) -> float:
        """What one voxel holds, in millilitres; right for sheared grids (a tilted gantry), too."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def without_voxels(self) -> "Volume":
        """The same grid, its voxels all 0, which take no memory."""
        return replace(self, array=np.broadcast_to(np.uint8(0), self.shape))


def warn_if_unoriented(volume: Volume, consequence: str, stacklevel: int) -> None:
    """Warn of a volume of which it is not known how the patient lies.

    Args:
        volume: any.
        consequence: what that means for its answer.
        stacklevel: as `warnings.warn` takes it, of the caller.
    """
    if not volume.oriented:
        text = f"the volume's file does not say how the patient lies; {consequence}"
        warnings.warn(text, UserWarning, stacklevel=stacklevel + 1)


def _as_array(values: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        # numpy's text for lists of lists of different lengths.
        raise VolumeError(f"expected an array of numbers [D, H, W], got a {type(values).__name__}: {error}") from error


def _as_affine(values: ArrayLike) -> NDArray[np.float64]:
    numbers = _real_numbers(values)
    if numbers is None or numbers.shape != (4, 4) or not np.isfinite(numbers).all():
        raise VolumeError(
            f"the affine must be [4, 4] finite numbers, from voxel indices (x, y, z, 1) to mm, got {values!r}; where "
            "only the spacing is known, Volume.of(array, spacing) makes one"
        )
    return numbers


def _real_numbers(values: ArrayLike) -> NDArray[np.float64] | None:
    """As float64; None for what holds something else."""
    try:
        given = np.asarray(values)
    except (TypeError, ValueError):
        return None
    return given.astype(np.float64, copy=False) if given.dtype.kind in "iuf" else None


def _check_array(array: NDArray[Any]) -> None:
    if array.ndim == 2:
        raise VolumeError(
            f"expected a volume with three axes [D, H, W], got a 2-D image {array.shape}; for a single slice give "
            "array[None], for an image use a bundle for images"
        )
    if array.ndim != 3:
        raise VolumeError(
            f"expected a volume with three axes [D, H, W], got {array.ndim} of {array.shape}; give one time point or "
            "channel of it"
        )
    check_size(array.shape)
    if array.dtype.kind not in "buif":
        raise VolumeError(f"expected real numbers, got {array.dtype}")
    # Plane by plane: what is found is as large as the volume.
    broken = 0 if array.dtype.kind != "f" else sum(plane.size - np.count_nonzero(np.isfinite(plane)) for plane in array)
    if broken:
        raise VolumeError(
            f"the volume contains {broken} non-finite voxels (NaN or infinity) of {array.size}; replace them first, "
            "e.g. with numpy.nan_to_num"
        )


def check_size(shape: tuple[int, ...]) -> None:
    """Refuse what has no voxels, or too many to be read.

    Raises:
        VolumeError: it has.
    """
    voxels = 1
    for side in shape:
        voxels *= side  # of Python's integers, which do not overflow
    if not 0 < voxels <= MAX_VOXELS:
        raise VolumeError(f"expected 1 to {MAX_VOXELS} voxels, got {voxels} of {shape}; crop the volume")


def _check_affine(affine: NDArray[np.float64]) -> None:
    if not np.array_equal(affine[3], [0, 0, 0, 1]):
        raise VolumeError(f"the last row of an affine is 0, 0, 0, 1, got {affine[3].tolist()}")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not (lengths > 0).all():
        raise VolumeError(f"voxels need a positive spacing, got {lengths.tolist()} mm along x, y and z")
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < _LEAST_VOLUME:
        raise VolumeError(f"the affine is singular, its voxels have no volume: {affine[:3, :3].tolist()}")
