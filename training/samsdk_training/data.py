"""Labelled images on disk: `<set>/images/<id>.png`, `<set>/masks/<id>.png` and a list of ids."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.errors import SamsdkError
from samsdk.io.images import read_image

# Ids are in the order that "the first N images" of a set means.
LISTS = ("list.txt", "val.txt", "train.txt")


class DataError(SamsdkError, ValueError):
    """A set of labelled images is incomplete or malformed."""


@dataclass(frozen=True)
class LabelledImage:
    """One image with its objects.

    Attributes:
        name: the image's id in its set.
        image: HxW or HxWx3 RGB, as in the file.
        label: [H, W] integers, 0 is background.
        instances: whether each number is one object (16-bit masks) rather than one class (8-bit masks).
    """

    name: str
    image: NDArray[np.generic]
    label: NDArray[np.integer]
    instances: bool

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


def read_ids(folder: str | os.PathLike[str], list_name: str = LISTS[0]) -> list[str]:
    """The ids that a list file of a set holds, one a line.

    Raises:
        DataError: there is no such list.
    """
    path = Path(folder) / list_name
    if not path.is_file():
        raise DataError(
            f"{folder} has no {list_name}; expected a set with images/, masks/ and one of {', '.join(LISTS)}"
        )
    return path.read_text(encoding="utf-8").split()


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
    """Read the images of a set one after the other.

    Args:
        folder: of the set.
        list_name: of the list file in it.
        part: which of the list's images, in its order.

    Raises:
        DataError: the list, an image or its mask is missing or malformed.
    """
    root = Path(folder)
    for name in read_ids(root, list_name)[part]:
        image = read_image(root / "images" / f"{name}.png")
        label = read_image(root / "masks" / f"{name}.png")
        if label.ndim != 2 or label.shape != image.shape[:2] or not np.issubdtype(label.dtype, np.integer):
            raise DataError(
                f"the mask of {name} in {root} must hold integers of the image's size {image.shape[:2]}, "
                f"got {label.shape} {label.dtype}"
            )
        yield LabelledImage(name, image, label.view(label.dtype), label.dtype == np.uint16)
