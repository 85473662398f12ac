"""Labelled volumes of a set, whole, on their own grids; `data` has them slice by slice."""

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import VolumeError
from samsdk.io.nifti import read_nifti
from samsdk.volumes.volume import Volume
from samsdk_training.entries import Stored, find_fault, whole_labels
from samsdk_training.set_folder import DataError, SetFolder, is_volume


def read_labelled(folder: SetFolder, name: str, *, union: bool = False) -> tuple[Volume, NDArray[np.integer]]:
    """A volume of a set, as stored, and its labels [D, H, W].

    Args:
        folder: the set.
        name: the volume's id.
        union: whether all labels are class 1.

    Raises:
        DataError: these are no NIfTI volumes of one grid, or the labels are no whole numbers from 0 on.
        MissingExtraError: nibabel is not installed.
    """
    entry = folder.entry(name)
    if entry.mask is None or not is_volume(entry.image):
        raise DataError(f"{name} in {folder.path}: expected NIfTI volumes, got {entry.image}")
    try:
        image, mask = read_nifti(entry.image), read_nifti(entry.mask)
    except VolumeError as error:
        raise DataError(f"{name} in {folder.path}: {error}") from error
    apart = _apart(image, mask) if image.shape == mask.shape else 0.0
    planes = tuple(f"{index:03d}" for index in range(len(image.array)))
    fault = find_fault(Stored(image.array, mask.array, planes, None, str(image.array.dtype), apart=apart))
    if fault:
        raise DataError(f"{name} in {folder.path}: {fault.text}")
    labels = whole_labels(mask.array)
    return image, (labels > 0).view(np.uint8) if union else labels


def _apart(image: Volume, mask: Volume) -> float:
    """The largest distance between where the two put a corner, in the image's shortest voxel side."""
    last = np.array(image.shape[::-1]) - 1
    corners = np.array([[*(last * place), 1] for place in np.ndindex(2, 2, 2)])
    distances = np.linalg.norm((corners @ (image.affine - mask.affine).T)[:, :3], axis=1)
    return float(distances.max() / min(image.spacing))
