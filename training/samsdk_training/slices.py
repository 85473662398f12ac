"""Slices of labelled volumes as a set of labelled images, so that a volume can teach a model of images."""

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.errors import MissingExtraError
from samsdk.io.atomic import atomic_folder
from samsdk_training.data import DataError, read_ids

# Hounsfield units, (lowest, highest): soft tissue, lung, and wide enough for bone. One a slice, in turn.
CT_WINDOWS: Final = ((-160.0, 240.0), (-1000.0, 200.0), (-500.0, 900.0))
# A plane of fewer slices than this is a stack of thick slices seen from the side, which no user looks at.
_SMALLEST_SIDE: Final = 48
# Air is -1000 HU; no MR or z-score volume reaches so low.
_CT_FLOOR: Final = -500.0


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
    with atomic_folder(output) as root:
        for kind in ("images", "masks"):
            (root / kind).mkdir()
        for name in read_ids(folder):
            values, labels = (_read(Path(folder) / kind / f"{name}.nii.gz") for kind in ("images", "masks"))
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


def _read(path: Path) -> NDArray[np.float32]:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("reading NIfTI needs nibabel: pip install 'samsdk[medical]'") from error
    try:
        # The nearest of nibabel's RAS+: x to the patient's right, y to the front, z to the head.
        volume = nibabel.as_closest_canonical(nibabel.load(path))
        return np.asarray(volume.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise DataError(f"{path} is no NIfTI volume: {error}") from error


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
    bounds = list(windows)
    if values.min() > _CT_FLOOR:
        low, high = np.percentile(values, [0.5, 99.5])
        bounds = [(float(low), max(float(high), float(low) + 1e-6))]
    for axis, index, number in places:
        # Rows downwards: from front to back in the axial plane, from head to foot in the others.
        label = np.ascontiguousarray(np.rot90(labels.take(index, axis)))
        low, high = bounds[number % len(bounds)]
        image = np.rot90(values.take(index, axis)).clip(low, high)
        scaled = np.round((image - low) * (255 / (high - low))).astype(np.uint8)
        yield f"{'xyz'[axis]}{index:03d}", np.ascontiguousarray(scaled), label
