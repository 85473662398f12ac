"""Labelled images on disk, one after the other: the same objects whatever the files are (see `set_folder`)."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk_training.entries import Stored, find_fault, holds_instances, read_entry, whole_labels
from samsdk_training.set_folder import LISTS, DataError, Entry, SetFolder, SetSettings
from samsdk_training.volumes import CT_WINDOWS, intensity_bounds, to_eight_bits

__all__ = [
    "LISTS",
    "DataError",
    "LabelledImage",
    "labelled_images",
    "number_classes",
    "part_of_list",
    "read_ids",
    "read_set",
    "read_stored",
    "tight_box",
]


@dataclass(frozen=True)
class LabelledImage:
    """One image with its objects.

    Attributes:
        name: the image's id in its set; of a slice the volume's id and its place, as `liver_04_z012`.
        image: HxW or HxWx3 RGB, as in the file; of a slice of a volume, 8 bits by the volume's own range.
        label: [H, W] integers, 0 is background.
        instances: whether each number is one object (16-bit masks) rather than one class (8-bit masks).
        patient: whose image it is; None where nothing says so.
        spacing: mm per pixel (down, across); None where the files do not say.
        volume: the id of the volume that it is a slice of; None for an image.
        depth: mm from its plane to the next of the volume; None for an image, and where the files do not say.
    """

    name: str
    image: NDArray[np.generic]
    label: NDArray[np.integer]
    instances: bool
    patient: str | None = None
    spacing: tuple[float, float] | None = None
    volume: str | None = None
    depth: float | None = None

    def united(self) -> "LabelledImage":
        """The same image with all its labels, classes or instances, as class 1."""
        return replace(self, label=(self.label > 0).astype(np.uint8), instances=False)

    def objects(self, *, smallest: int = 1, split_components: bool = True) -> list[NDArray[np.bool_]]:
        """The image's objects, in the order of their numbers.

        An object is one instance, or one 8-connected component of one class.

        Args:
            smallest: objects of fewer pixels are left out.
            split_components: False takes all pixels of a class as one object.

        Returns:
            [H, W] bool masks.
        """
        masks: list[NDArray[np.bool_]] = []
        for value in np.unique(self.label[self.label > 0]):
            whole = self.label == value
            if self.instances or not split_components:
                masks.append(whole)
                continue
            count, parts = cv2.connectedComponents(whole.astype(np.uint8), connectivity=8)
            masks += [parts == part for part in range(1, count)]
        return [mask for mask in masks if np.count_nonzero(mask) >= smallest]


def tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The smallest box around a mask.

    Args:
        mask: [H, W] bool, not empty.

    Returns:
        (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def number_classes(names: Mapping[int, str], highest: int) -> dict[str, str]:
    """All classes of some labels by their number as text, `0` the background.

    Args:
        names: those that have a name, see `SetFolder.class_names`; the others are `class N`.
        highest: the highest label; higher ones that have a name count, too.
    """
    count = max(highest, *names) if names else highest
    return {"0": "background", **{str(one): names.get(one, f"class {one}") for one in range(1, count + 1)}}


def read_ids(folder: str | os.PathLike[str], list_name: str = LISTS[0]) -> list[str]:
    """The ids that a list file of a set holds, one a line; without `list.txt`, those of all images.

    Raises:
        DataError: there is no such list.
    """
    return SetFolder(folder).ids(list_name)


def part_of_list(folder: str | os.PathLike[str], list_name: str, share: tuple[float, float]) -> slice:
    """The part of a list from one share of its length to another, 0 to 1.

    Two shares that meet have no id in common: (0, 2/3) is for training what (2/3, 1) is for testing.

    Raises:
        DataError: there is no such list, or the share is empty or not within 0 to 1.
    """
    first, last = share
    if not 0 <= first < last <= 1:
        raise DataError(f"expected a share (from, to) with 0 <= from < to <= 1, got {share}")
    count = len(read_ids(folder, list_name))
    return slice(round(count * first), round(count * last))


def read_set(
    folder: str | os.PathLike[str], list_name: str = LISTS[0], part: slice = slice(None)
) -> Iterator[LabelledImage]:
    """Read the images of a set one after the other, and of each volume every slice.

    Args:
        folder: of the set.
        list_name: of the list file in it.
        part: which of the list's ids, in its order.

    Raises:
        DataError: the list, an image or its mask is missing or malformed.
        MissingExtraError: the set holds NIfTI volumes, and nibabel is not installed.
    """
    source = SetFolder(folder)
    ids = source.ids(list_name)[part]
    patients = source.patients(ids)
    for name in ids:
        entry, stored = read_stored(source, name)
        yield from labelled_images(entry, stored, source.settings, patients.get(name))


def read_stored(source: SetFolder, name: str) -> tuple[Entry, Stored]:
    """Read the files of one id and check them.

    Raises:
        DataError: the image or its mask is missing or malformed.
        MissingExtraError: these are NIfTI volumes, and nibabel is not installed.
    """
    entry = source.entry(name)
    stored = read_entry(entry, source.settings.axis)
    fault = find_fault(stored)
    if fault:
        raise DataError(f"{name} in {source.path}: {fault.text}")
    return entry, stored


def labelled_images(
    entry: Entry, stored: Stored, settings: SetSettings, patient: str | None
) -> Iterator[LabelledImage]:
    """The images in what was read of one id.

    Args:
        entry: where it was read from.
        stored: what was read; without fault.
        settings: of the set.
        patient: whose it is.

    Yields:
        The image, or each slice of the volume, from the first plane on.
    """
    label = whole_labels(stored.labels)
    instances = holds_instances(entry, stored, settings)
    if stored.planes is None:
        yield LabelledImage(entry.name, stored.values, label, instances, patient, stored.spacing)
        return
    image = stored.values
    if image.dtype != np.uint8:
        image = to_eight_bits(image, intensity_bounds(image, [settings.window or CT_WINDOWS[0]])[0])
    for index, plane in enumerate(stored.planes):
        yield LabelledImage(
            f"{entry.name}_{plane}",
            np.ascontiguousarray(image[index]),
            np.ascontiguousarray(label[index]),
            instances,
            patient,
            stored.spacing,
            entry.name,
            stored.depth,
        )
