"""NIfTI files, through nibabel (extra `medical`)."""

import gzip
import os
import types
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import MissingExtraError, OutputError, SamsdkError, VolumeError
from samsdk.io.atomic import atomic_write
from samsdk.volumes.volume import Volume, check_size

SUFFIXES: Final = (".nii", ".nii.gz")
# A header may give lengths in another unit; one that gives none means mm.
_MILLIMETRES: Final = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
# Bytes of a NIfTI-1 header; those of NIfTI-2 are longer.
_FIRST_HEADER: Final = 348
# Label maps are mostly one value: a higher level costs seconds and saves nothing.
_COMPRESSION: Final = 6


@dataclass(frozen=True)
class CanonicalVolume:
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


def is_nifti(path: object) -> bool:
    """Whether it is the name of a NIfTI file."""
    return isinstance(path, (str, os.PathLike)) and os.fspath(path).lower().endswith(SUFFIXES)


def read_canonical(path: str | os.PathLike[str]) -> CanonicalVolume:
    """Read a volume and turn it, whatever else is wrong with it.

    Args:
        path: of a `.nii` or `.nii.gz` file.

    Raises:
        ImageError: the file is missing, truncated, or no NIfTI volume.
        MissingExtraError: nibabel is not installed.
    """
    with _opened(path) as (nibabel, stored):
        volume = nibabel.as_closest_canonical(stored)
        affine = _affine(volume)
        x, y, z = (float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))
        values = np.asarray(volume.dataobj, dtype=np.float32)
        return CanonicalVolume(values, affine, (x, y, z), _oriented(stored), str(stored.header.get_data_dtype()))


def read_nifti(path: str | os.PathLike[str]) -> Volume:
    """Read a volume as it is stored, to be segmented.

    Args:
        path: of a `.nii` or `.nii.gz` file, of three axes; further ones of length 1 are dropped.

    Returns:
        The volume. Where the header scales the stored numbers they are scaled, as float32; else their dtype is kept.

    Raises:
        VolumeError: the file is missing, truncated or no NIfTI volume; or it is none that `Volume` takes.
        MissingExtraError: nibabel is not installed.
    """
    with _opened(path) as (_, stored):
        shape = tuple(int(side) for side in stored.shape)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3:
            raise VolumeError(
                f"{os.fspath(path)} has {len(shape)} axes {shape}, expected a volume with three; of a series give one "
                "time point, e.g. nibabel.load(path).slicer[..., 0]"
            )
        check_size(shape)
        _check_spacing(stored, path)
        slope, intercept = stored.dataobj.slope, stored.dataobj.inter
        plain = (slope, intercept) == (1, 0)
        values: NDArray[Any] = np.asarray(stored.dataobj, dtype=None if plain else np.float32).reshape(shape)
        # The stored order is Fortran's: turned around, x is the axis whose voxels are neighbours.
        return Volume(values.T, _affine(stored), _oriented(stored), _header_bytes(stored))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[types.ModuleType, Any]]:
    """nibabel and the image that it opened, and whatever goes wrong with it as a `VolumeError`."""
    nibabel = _nibabel("reading")
    try:
        yield nibabel, nibabel.load(path)
    except SamsdkError:
        # Some of them are ValueErrors too, and already say what happened.
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        zlib.error,
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
    ) as error:
        raise VolumeError(f"{os.fspath(path)} is no NIfTI volume: {error}") from error


def _affine(image: Any) -> NDArray[np.float64]:
    scale = _MILLIMETRES[image.header.get_xyzt_units()[0]]
    return np.asarray(np.diag([scale, scale, scale, 1.0]) @ np.asarray(image.affine, dtype=np.float64))


def _oriented(image: Any) -> bool:
    return any(int(image.header[name]) for name in ("qform_code", "sform_code"))


def _check_spacing(image: Any, path: str | os.PathLike[str]) -> None:
    """Refuse voxel sides of 0 mm where the affine is made of them: nibabel reads such a side as 1 mm."""
    if int(image.header["sform_code"]):
        return
    with (image.file_map.get("header") or image.file_map["image"]).get_prepare_fileobj("rb") as file:
        sides = type(image.header).from_fileobj(file, check=False)["pixdim"][1:4]
    if not (np.abs(sides) > 0).all():
        raise VolumeError(f"voxels need a positive spacing, {os.fspath(path)} has {sides.tolist()} along x, y and z")


def _header_bytes(image: Any) -> bytes:
    return bytes(image.header.as_byteswapped("<").binaryblock)


def write_nifti(path: str | os.PathLike[str], labels: NDArray[Any], like: Volume) -> None:
    """Write a label map on the grid of a volume, with the header of the file that the volume was read from.

    Args:
        path: ends in `.nii` or `.nii.gz`.
        labels: [D, H, W] bool, uint8 or uint16.
        like: the volume that the labels are of.

    Raises:
        VolumeError: the labels are of another size.
        MissingExtraError: nibabel is not installed.
        OutputError: the path has another suffix, or the file cannot be written.
    """
    nibabel = _nibabel("writing")
    if not is_nifti(path):
        raise OutputError(f"cannot write {os.fspath(path)}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if labels.shape != like.shape:
        raise VolumeError(f"the labels are {labels.shape}, the volume is {like.shape} [D, H, W]")
    values = labels.astype(np.uint8) if labels.dtype == np.bool_ else labels
    image = _label_image(nibabel, values.T, like)
    # Piece by piece: as bytes, the file would be held whole, and again compressed.
    with atomic_write(path) as file:
        if not os.fspath(path).lower().endswith(".gz"):
            image.to_stream(file)
            return
        with gzip.GzipFile("", "wb", _COMPRESSION, file, mtime=0) as zipped:
            image.to_stream(zipped)


def _label_image(nibabel: types.ModuleType, values: NDArray[Any], like: Volume) -> Any:
    if like.header is None:
        return nibabel.Nifti1Image(values, like.affine)
    first = len(like.header) == _FIRST_HEADER
    kind = nibabel.Nifti1Image if first else nibabel.Nifti2Image
    header = kind.header_class(like.header, endianness="<", check=False)
    # These speak of the voxels' values, which are others now; where they lie is kept bit for bit.
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0
    return kind(values, None, header)


def write_mask(
    path: str | os.PathLike[str],
    mask: NDArray[np.bool_] | NDArray[np.uint8],
    spacing: tuple[float, float] | None = None,
) -> None:
    """Write a 2-D mask or label map as a one-slice volume.

    Args:
        path: ends in `.nii.gz`.
        mask: [H, W] bool, or uint8 numbers of classes.
        spacing: (x, y) millimetres a pixel, None if unknown.

    Raises:
        MissingExtraError: nibabel is not installed.
        OutputError: the file cannot be written.
    """
    nibabel = _nibabel("writing")
    # NIfTI's first axis is x; a plain image has no position in a scanner, so the affine holds its spacing alone.
    affine = np.diag([*(spacing or (1.0, 1.0)), 1.0, 1.0])
    volume = nibabel.Nifti1Image(mask.T[:, :, None].astype(np.uint8), affine)
    if spacing:
        volume.header.set_xyzt_units("mm")
    with atomic_write(path) as file:
        file.write(gzip.compress(volume.to_bytes(), mtime=0))


def _nibabel(what: str) -> types.ModuleType:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError(f"{what} NIfTI needs nibabel: pip install 'samsdk[medical]'") from error
    module: types.ModuleType = nibabel
    return module
