"""Files that a session gives: one object's mask, or all objects in one file."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.io.coco import CocoImage, coco_document
from samsdk.io.dicom_spacing import Spacing
from samsdk.io.nifti import write_nifti
from samsdk.io.objects import object_masks
from samsdk.serve.objects import Answer
from samsdk.serve.replies import png_bytes
from samsdk.volumes.volume import Volume


@dataclass(frozen=True)
class Found:
    """One object of a file.

    Attributes:
        number: of the object.
        name: of the object.
        answer: its mask as it is.
    """

    number: int
    name: str
    answer: Answer


@dataclass(frozen=True)
class Contents:
    """What a file is made of.

    Attributes:
        size: (height, width) of the image.
        spacing: (x, y) mm of its pixels.
        found: objects, in the order of their numbers; of two that overlap, the later has the pixel in a label map.
        together: whether all objects are asked for, so that label maps hold their numbers.
    """

    size: tuple[int, int]
    spacing: Spacing | None
    found: Sequence[Found]
    together: bool

    def plane(self) -> NDArray[Any]:
        """[H, W]: the one mask as bool, or the number of the object of each pixel."""
        if not self.together:
            return self.found[0].answer.result.mask
        largest = max((one.number for one in self.found), default=0)
        plane = np.zeros(self.size, np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16)
        for one in self.found:
            region = one.answer.result.region
            height, width = region.inside.shape
            plane[region.top : region.top + height, region.left : region.left + width][region.inside] = one.number
        return plane


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        suffix: of the file's name.
        media: its type.
        write: makes the file.
    """

    suffix: str
    media: str
    write: Callable[[Contents], bytes]


def _png(contents: Contents) -> bytes:
    return png_bytes(contents.plane())


def _nifti(contents: Contents) -> bytes:
    across, down = contents.spacing or (1.0, 1.0)
    plane = contents.plane()[None]
    like = Volume.of(np.broadcast_to(np.uint8(0), plane.shape), spacing=(1.0, down, across))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.nii.gz"
        write_nifti(path, plane, like)
        return path.read_bytes()


def _coco(contents: Contents) -> bytes:
    masks = [mask for one in contents.found for mask in object_masks(one.answer.result, one.name)]
    document = coco_document([CocoImage(contents.size, masks, spacing=contents.spacing)])
    return json.dumps(document).encode()


FORMATS: Final[Mapping[str, Format]] = {
    "png": Format("png", "image/png", _png),
    "nifti": Format("nii.gz", "application/gzip", _nifti),
    "coco": Format("json", "application/json", _coco),
}
