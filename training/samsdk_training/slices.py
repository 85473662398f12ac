"""Slices of labelled volumes as a set of labelled images, so that a volume can teach a model of images."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.io.atomic import atomic_folder
from samsdk_training.data import DataError, read_ids
from samsdk_training.entries import read_volumes
from samsdk_training.set_folder import SetFolder
from samsdk_training.volumes import CT_WINDOWS, intensity_bounds, to_eight_bits, upright

# A plane of fewer slices than this is a stack of thick slices seen from the side, which no user looks at.
_SMALLEST_SIDE: Final = 48


def write_slices(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    every: int = 2,
    fewest: int = 60,
    windows: Sequence[tuple[float, float]] = CT_WINDOWS,
    axes: str = "xyz",
    largest: bool = False,
) -> int:
    """Cut the volumes of a set into slices.

    CT is windowed to 8 bits, one window a slice in turn; other volumes are clipped at their percentiles 0.5 and 99.5.

    Args:
        folder: a set of volumes: `images/<id>.nii.gz`, `masks/<id>.nii.gz` (integers, 0 is background), `list.txt`.
        output: the new set's folder; `train.txt` names all its slices. It must not exist.
        every: distance of the slices, in voxels.
        fewest: slices with fewer labelled pixels are left out.
        windows: (lowest, highest) in Hounsfield units.
        axes: across which it is cut, out of `xyz`; slices with a side under 48 voxels are left out.
        largest: only the slice with the most labelled pixels of each volume and axis, whatever its sides.

    Returns:
        The number of slices.

    Raises:
        DataError: the set is malformed, holds labels above 255, or no slice is labelled.
        MissingExtraError: nibabel is not installed.
    """
    names: list[str] = []
    source = SetFolder(folder)
    with atomic_folder(output) as root:
        for kind in ("images", "masks"):
            (root / kind).mkdir()
        for name in read_ids(folder):
            values, labels = (volume.values for volume in read_volumes(source.entry(name)))
            if values.ndim != 3 or values.shape != labels.shape or labels.min() < 0 or labels.max() > 255:
                raise DataError(
                    f"{name} in {folder}: a volume must have three axes, labels 0 to 255 of its shape {values.shape}"
                )
            places = _places(labels, axes, every, fewest, largest)
            for place, image, label in _slices(values, labels.astype(np.uint8), places, windows):
                names.append(f"{name}_{place}")
                cv2.imwrite(str(root / "images" / f"{names[-1]}.png"), image)
                cv2.imwrite(str(root / "masks" / f"{names[-1]}.png"), label)
        if not names:
            raise DataError(f"{folder} holds no slice with at least {fewest} labelled pixels")
        (root / "train.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return len(names)


def _places(
    labels: NDArray[np.float32], axes: str, every: int, fewest: int, largest: bool
) -> Iterator[tuple[int, int, int]]:
    """Axis and index of each slice to take, and its number along the axis."""
    for axis in map("xyz".index, axes):
        counts = np.count_nonzero(labels, axis=tuple({0, 1, 2} - {axis}))
        if min(labels.shape[other] for other in range(3) if other != axis) < _SMALLEST_SIDE and not largest:
            continue
        indices = [int(counts.argmax())] if largest else range(0, len(counts), every)
        for index in indices:
            if counts[index] >= fewest:
                yield axis, index, index // every


def _slices(
    values: NDArray[np.float32],
    labels: NDArray[np.uint8],
    places: Iterable[tuple[int, int, int]],
    windows: Sequence[tuple[float, float]],
) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    bounds = intensity_bounds(values, windows)
    for axis, index, number in places:
        name = "xyz"[axis]
        image = to_eight_bits(upright(values, name)[index], bounds[number % len(bounds)])
        yield f"{name}{index:03d}", np.ascontiguousarray(image), np.ascontiguousarray(upright(labels, name)[index])
