"""COCO's JSON of objects in images: categories, images, annotations."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from samsdk.errors import ImageError, OutputError
from samsdk.io.atomic import atomic_write
from samsdk.io.dicom_spacing import Spacing
from samsdk.io.objects import UNNAMED, ObjectMask
from samsdk.masks import encode_rle
from samsdk.outlines import cut_outlines


@dataclass(frozen=True, eq=False)
class CocoImage:
    """One image and what was found in it, which may be nothing.

    Attributes:
        size: (height, width).
        objects: in the order of their numbers.
        file_name: as COCO's readers look for it; None where the image is no file.
        spacing: (x, y) millimetres a pixel, None if unknown.

    Raises:
        ImageError: a mask is of another size.
    """

    size: tuple[int, int]
    objects: Sequence[ObjectMask]
    file_name: str | None = None
    spacing: Spacing | None = None

    def __post_init__(self) -> None:
        for one in self.objects:
            if one.region.size != self.size:
                raise ImageError(f"the image is {self.size} (H, W), a mask of it {one.region.size}")


def coco_document(
    images: Sequence[CocoImage], *, categories: Sequence[str] | None = None, polygons: bool = False
) -> dict[str, Any]:
    """Say what was found in images as COCO does.

    Images and annotations are numbered from 1 on in the order in which they are given, and categories in that of
    `categories`: the same input gives the same numbers. An annotation has the mask's `area` in pixels, whichever way
    the mask is told, its `bbox` (x, y, width, height), and, where they are known, its `score` and `model`. An object
    without a pixel is left out.

    Masks are compressed run-length encodings, which are exact. Polygons run along the sides of pixels, so that
    pycocotools gets the same mask back; COCO knows no holes and takes the union of an object's polygons, so the outline
    of a part with holes is cut open: it goes along a slit of no width to each hole, around it, and back.

    Args:
        images: with their objects.
        categories: names of all categories; None takes those that occur, in the order of their first object.
        polygons: tell masks as polygons.

    Raises:
        OutputError: an object's name is not among the categories, or one occurs twice among them.
    """
    found = [(number, one) for number, image in enumerate(images, 1) for one in image.objects if one.region.area]
    names = list(categories if categories is not None else dict.fromkeys(one.name for _, one in found)) or [UNNAMED]
    numbers = {name: number for number, name in enumerate(names, 1)}
    unknown = sorted({one.name for _, one in found} - set(names))
    if unknown or len(numbers) < len(names):
        raise OutputError(f"expected each object in one of the categories {', '.join(names)}, once each; got {unknown}")
    return {
        "info": {"description": "made by samsdk", "version": version("samsdk")},
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "images": [_image(number, image) for number, image in enumerate(images, 1)],
        "annotations": [
            {"id": index, "image_id": image, "category_id": numbers[one.name], **_annotation(one, polygons)}
            for index, (image, one) in enumerate(found, 1)
        ],
    }


def write_coco(
    path: str | os.PathLike[str],
    images: Sequence[CocoImage],
    *,
    categories: Sequence[str] | None = None,
    polygons: bool = False,
) -> None:
    """Write what was found in images, see `coco_document`.

    Raises:
        OutputError: as `coco_document`, or the file cannot be written.
    """
    document = coco_document(images, categories=categories, polygons=polygons)
    with atomic_write(path) as file:
        file.write(json.dumps(document).encode())


def _image(number: int, image: CocoImage) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": number, "width": image.size[1], "height": image.size[0]}
    if image.file_name is not None:
        entry["file_name"] = image.file_name
    if image.spacing is not None:
        entry["spacing_mm"] = list(image.spacing)
    return entry


def _annotation(one: ObjectMask, polygons: bool) -> dict[str, Any]:
    x0, y0, x1, y1 = one.region.box or (0, 0, 0, 0)
    entry: dict[str, Any] = {
        "segmentation": _polygons(one) if polygons else encode_rle(one.region),
        "area": one.region.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        # Of one object; COCO's evaluation takes 1 for a crowd.
        "iscrowd": 0,
    }
    if one.score is not None:
        entry["score"] = one.score
    if one.bundle is not None:
        entry["model"] = one.bundle
    return entry


def _polygons(one: ObjectMask) -> list[list[int]]:
    return [outline.ravel().tolist() for outline in cut_outlines(one.region)]
