"""What images there are to synthesise from: those with a mask, and those without."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samsdk.io.images import read_image
from samsdk_training.data import DataError, LabelledImage, labelled_images, read_stored
from samsdk_training.set_folder import SetFolder

_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".ppm")


@dataclass(frozen=True)
class ImagePool:
    """Images by name. Those with a mask are in memory, the others are read when they are asked for.

    Attributes:
        annotated: images and slices of volumes that have a mask, even one without a labelled pixel.
        bare: files of the images that have none.
    """

    annotated: Mapping[str, LabelledImage]
    bare: Mapping[str, Path]

    @property
    def names(self) -> list[str]:
        """Of all images."""
        return [*self.annotated, *self.bare]

    def image(self, name: str) -> NDArray[np.generic]:
        """One image, [H, W] or [H, W, 3] RGB, as in its file.

        Raises:
            ImageError: its file is no image.
        """
        known = self.annotated.get(name)
        return np.asarray(read_image(self.bare[name])) if known is None else known.image

    def within(self, folder: str) -> "ImagePool":
        """The same images with a folder's name before theirs, and before those of the volumes that they are of."""
        annotated = [
            replace(one, name=f"{folder}/{one.name}", volume=one.volume and f"{folder}/{one.volume}")
            for one in self.annotated.values()
        ]
        bare = {f"{folder}/{name}": path for name, path in self.bare.items()}
        return ImagePool({one.name: one for one in annotated}, bare)


def read_pool(source: SetFolder, list_name: str) -> ImagePool:
    """Read the images of a set, of which only some need a mask.

    Args:
        source: the set.
        list_name: of its ids.

    Raises:
        DataError: the list, an image or a volume's mask is missing, or one is malformed.
        MissingExtraError: the set holds NIfTI volumes, and nibabel is not installed.
    """
    ids = source.ids(list_name)
    patients = source.patients(ids)
    annotated: dict[str, LabelledImage] = {}
    bare: dict[str, Path] = {}
    for name in ids:
        files = source.images.get(name, ())
        picture = len(files) == 1 and files[0].suffix.lower() in _SUFFIXES
        if picture and name not in source.masks:
            bare[name] = files[0]
            continue
        entry, stored = read_stored(source, name)
        images = labelled_images(entry, stored, source.settings, patients.get(name))
        annotated |= {one.name: one for one in images}
    return ImagePool(annotated, bare)


def pictures_of(folder: str | os.PathLike[str]) -> ImagePool:
    """The image files in a folder, none of them with a mask; names are those of the folder and the file.

    Raises:
        DataError: there are none.
    """
    root = Path(folder)
    paths = sorted(path for path in root.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise DataError(f"{root} holds no image ({', '.join(_SUFFIXES)})")
    # With the folder before it, a file is not taken for an exemplar of the same name.
    return ImagePool({}, {f"{root.name}/{path.name}": path for path in paths})
