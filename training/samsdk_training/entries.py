"""What the files of one id hold: an image, or a volume of many planes, with its labels, and what is wrong with them."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import ImageError
from samsdk.io.images import read_image
from samsdk.io.nifti import CanonicalVolume, read_canonical
from samsdk_training.set_folder import DataError, Entry, SetSettings, is_volume
from samsdk_training.volumes import AXES, plane_spacing, upright

# MedSAM's preprocessing writes the first pair, SAMed's the second.
_NPZ_KEYS: Final = (("imgs", "gts"), ("image", "label"))
_LARGEST_LABEL: Final = 65535
# An image and its mask may lie this far apart, in voxels: headers are written with rounded numbers.
_NEAR: Final = 0.5


@dataclass(frozen=True)
class Stored:
    """What the files of one id hold, unchecked.

    Attributes:
        values: [H, W] or [H, W, 3] RGB of an image, [D, H, W] of a volume whose planes stand upright.
        labels: the same without channels.
        planes: what each plane of a volume is called, as `z012`; None for an image.
        spacing: mm per pixel (down, across); None where the files do not say.
        dtype: of the image as it is stored.
        oriented: False for a volume whose file does not say how the patient lies.
        apart: how far the mask of a volume lies from its image, in voxels.
        depth: mm from plane to plane of a volume; None where the files do not say.
    """

    values: NDArray[Any]
    labels: NDArray[Any]
    planes: tuple[str, ...] | None
    spacing: tuple[float, float] | None
    dtype: str
    oriented: bool = True
    apart: float = 0.0
    depth: float | None = None


class Fault(NamedTuple):
    """Why an image and its labels cannot be used: a word and a sentence."""

    kind: str
    text: str


def read_entry(entry: Entry, axis: str) -> Stored:
    """Read the files of one id.

    Args:
        entry: which.
        axis: across which a NIfTI volume is cut; NPZ volumes are cut across their first axis.

    Raises:
        DataError: a file cannot be read, or holds no image or volume.
        MissingExtraError: NIfTI needs nibabel, which is not installed.
    """
    if entry.mask is None:
        return _read_npz(entry.image)
    if is_volume(entry.image):
        return _read_nifti(entry, axis)
    image = _read_image(entry.image)
    return Stored(image, _read_image(entry.mask), None, None, str(image.dtype))


def read_volumes(entry: Entry) -> tuple[CanonicalVolume, CanonicalVolume]:
    """The image and the labels of a NIfTI entry.

    Raises:
        DataError: a file cannot be read, or these are no volumes.
        MissingExtraError: nibabel is not installed.
    """
    if entry.mask is None or not is_volume(entry.image):
        raise DataError(f"expected NIfTI volumes, got {entry.image}")
    try:
        return read_canonical(entry.image), read_canonical(entry.mask)
    except ImageError as error:
        raise DataError(str(error)) from error


def find_fault(stored: Stored) -> Fault | None:
    """The first thing that is wrong with what was read, if any."""
    labels = stored.labels
    size = stored.values.shape if stored.planes else stored.values.shape[:2]
    if labels.shape != size:
        return Fault("sizes", f"the mask must hold integers of the image's size {size}, got {labels.shape}")
    if not _finite(stored.values):
        return Fault("not finite", "the image holds NaN or infinite values")
    if not _finite(labels) or (labels.dtype.kind == "f" and (labels != np.rint(labels)).any()):
        return Fault("labels", f"the mask must hold integers, got fractions ({labels.dtype})")
    low, high = labels.min(), labels.max()
    if low < 0 or high > _LARGEST_LABEL:
        return Fault("labels", f"labels must lie within 0 to {_LARGEST_LABEL}, got {low:g} to {high:g}")
    if stored.apart > _NEAR:
        return Fault("apart", f"the mask lies {stored.apart:.1f} voxels from its image, by their headers")
    return None


def whole_labels(labels: NDArray[Any]) -> NDArray[np.integer]:
    """Labels without fault as integers of 8 or 16 bits, as they are stored where they are."""
    if labels.dtype in (np.uint8, np.uint16):
        return labels.view(labels.dtype)
    narrow = labels.astype(np.uint16)
    return narrow if narrow.max() > 255 else narrow.astype(np.uint8)


def holds_instances(entry: Entry, stored: Stored, settings: SetSettings) -> bool:
    """Whether each number in the labels is one object rather than one class: as the settings say, or by 16 bits."""
    if settings.instances is not None:
        return settings.instances
    # The labels of a NIfTI volume have as many bits as its image.
    from_nifti = entry.mask is not None and is_volume(entry.mask)
    return not from_nifti and whole_labels(stored.labels).dtype == np.uint16


def _read_image(path: Path) -> NDArray[Any]:
    try:
        return read_image(path)
    except ImageError as error:
        raise DataError(str(error)) from error


def _read_nifti(entry: Entry, axis: str) -> Stored:
    image, mask = read_volumes(entry)
    for name, volume in (("image", image), ("mask", mask)):
        if volume.values.ndim != 3 or volume.values.size == 0:
            raise DataError(f"{entry.name}: the {name} must have three axes, got {volume.values.shape}")
    planes, labels = upright(image.values, axis), upright(mask.values, axis)
    return Stored(
        planes,
        labels,
        tuple(f"{axis}{index:03d}" for index in range(len(planes))),
        plane_spacing(image.spacing, axis),
        image.dtype,
        image.oriented,
        _apart(image, mask) if image.values.shape == mask.values.shape else 0.0,
        image.spacing[AXES.index(axis)],
    )


def _apart(image: CanonicalVolume, mask: CanonicalVolume) -> float:
    """The largest distance between where the two put a corner, in the image's shortest voxel side."""
    last = np.array(image.values.shape) - 1
    corners = np.array([[*(last * place), 1] for place in np.ndindex(2, 2, 2)])
    distances = np.linalg.norm((corners @ (image.affine - mask.affine).T)[:, :3], axis=1)
    return float(distances.max() / max(min(image.spacing), 1e-6))


def _read_npz(path: Path) -> Stored:
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path} is no NPZ file")
        with np.load(path, allow_pickle=False) as file:
            keys = next((pair for pair in _NPZ_KEYS if set(pair) <= set(file.files)), None)
            if keys is None:
                expected = " or ".join(" and ".join(pair) for pair in _NPZ_KEYS)
                raise DataError(f"{path}: expected the keys {expected}, got {', '.join(file.files) or 'none'}")
            values, labels = (np.asarray(file[key]) for key in keys)
            spacing = file["spacing"] if "spacing" in file.files else None
    except (OSError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no NPZ file that can be read: {error}") from error
    except ValueError as error:
        # A DataError is a ValueError too, and already says what happened.
        raise error if isinstance(error, DataError) else DataError(f"{path} cannot be read: {error}") from error
    return _npz_stored(path, values, labels, spacing)


def _npz_stored(path: Path, values: NDArray[Any], labels: NDArray[Any], spacing: NDArray[Any] | None) -> Stored:
    if values.ndim == 3 and labels.ndim == 2 and values.shape[2] in (1, 3, 4):
        values = values[..., 0] if values.shape[2] == 1 else values[..., :3]
    numbers = values.dtype.kind in "buif" and labels.dtype.kind in "buif" and values.size > 0
    axes = (labels.ndim, values.ndim)
    if not numbers or axes not in ((2, 2), (2, 3), (3, 3)) or (axes == (2, 3) and values.shape[2] != 3):
        raise DataError(
            f"{path}: expected an image (H, W) or (H, W, 3) with labels (H, W), or planes (D, H, W) with labels alike, "
            f"got {values.shape} {values.dtype} with labels {labels.shape} {labels.dtype}"
        )
    planes = tuple(f"{index:03d}" for index in range(len(values))) if labels.ndim == 3 else None
    # SimpleITK's order, as MedSAM writes it: x, y, z.
    pixel: tuple[float, float] | None = None
    depth: float | None = None
    if spacing is not None and spacing.dtype.kind in "uif" and spacing.size >= 2:
        pixel = (float(spacing.flat[1]), float(spacing.flat[0]))
        depth = float(spacing.flat[2]) if planes and spacing.size >= 3 else None
    return Stored(values, labels, planes, pixel, str(values.dtype), depth=depth)


def _finite(values: NDArray[Any]) -> bool:
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
