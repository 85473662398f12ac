"""NIfTI files, through nibabel (extra `medical`)."""

import gzip
import os
import types
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import ImageError, MissingExtraError
from samsdk.io.atomic import atomic_write

# A header may give lengths in another unit; one that gives none means mm.
_MILLIMETRES: Final = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


@dataclass(frozen=True)
class Volume:
    """A volume, turned to the nearest of nibabel's RAS+.

    Attributes:
        values: [X, Y, Z] float32, or with more axes where the file has them: x to the patient's right, y to the front,
            z to the head; scaled as the header says.
        affine: [4, 4] float64, from voxel indices to mm.
        spacing: (x, y, z) of a voxel, in mm.
        oriented: whether the file says how the patient lies; if not, its axes are taken for x, y and z.
        dtype: what the file stores, as `int16`.
    """

    values: NDArray[np.float32]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    oriented: bool
    dtype: str


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a volume.

    Args:
        path: of a `.nii` or `.nii.gz` file.

    Raises:
        ImageError: the file is missing, truncated, or no NIfTI volume.
        MissingExtraError: nibabel is not installed.
    """
    nibabel = _nibabel("reading")
    try:
        stored = nibabel.load(path)
        codes = [int(stored.header[name]) for name in ("qform_code", "sform_code")]
        volume = nibabel.as_closest_canonical(stored)
        scale = _MILLIMETRES[volume.header.get_xyzt_units()[0]]
        affine = np.diag([scale, scale, scale, 1.0]) @ np.asarray(volume.affine, dtype=np.float64)
        x, y, z = (float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))
        values = np.asarray(volume.dataobj, dtype=np.float32)
        return Volume(values, affine, (x, y, z), any(codes), str(stored.header.get_data_dtype()))
    except (OSError, EOFError, ValueError, KeyError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise ImageError(f"{os.fspath(path)} is no NIfTI volume: {error}") from error


def write_mask(path: str | os.PathLike[str], mask: NDArray[np.bool_] | NDArray[np.uint8]) -> None:
    """Write a 2-D mask or label map as a one-slice volume.

    Args:
        path: ends in `.nii.gz`.
        mask: [H, W] bool, or uint8 numbers of classes.

    Raises:
        MissingExtraError: nibabel is not installed.
        OutputError: the file cannot be written.
    """
    nibabel = _nibabel("writing")
    # NIfTI's first axis is x; a plain image has no position in a scanner, so the affine is the identity.
    volume = nibabel.Nifti1Image(mask.T[:, :, None].astype(np.uint8), np.eye(4))
    with atomic_write(path) as file:
        file.write(gzip.compress(volume.to_bytes(), mtime=0))


def _nibabel(what: str) -> types.ModuleType:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError(f"{what} NIfTI needs nibabel: pip install 'samsdk[medical]'") from error
    module: types.ModuleType = nibabel
    return module
