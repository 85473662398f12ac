"""What everything mode found: a label map with the objects in it, and the files that can be made of them."""

import colorsys
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import OutputError
from samsdk.io.atomic import atomic_write
from samsdk.io.dicom import Source
from samsdk.io.dicom_spacing import Spacing
from samsdk.io.images import write_png
from samsdk.masks import Region, encode_rle
from samsdk.measuring.sizes import ObjectSizes
from samsdk.results import overlay_canvas

SUFFIXES: Final = (".png", ".npz", ".json")
_MOST_NUMBERS: Final = 2**16 - 1
# Hues one golden angle apart are far from each other, however many there are.
_GOLDEN: Final = 0.6180339887498949


@dataclass(frozen=True, eq=False)
class Instance:
    """One object.

    Attributes:
        number: in the label map, from 1 on.
        region: its pixels.
        score: IoU that the model predicts for its mask, before overlaps were resolved.
        stability: IoU of its masks at a higher and a lower threshold.
    """

    number: int
    region: Region
    score: float
    stability: float

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.region.area

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Tight box (x0, y0, x1, y1) in pixels, x1 and y1 exclusive."""
        box = self.region.box
        assert box is not None  # objects without a pixel have no number
        return box


@dataclass(frozen=True, eq=False)
class EverythingResult:
    """All objects of an image.

    Attributes:
        label_map: [H, W] int32, the size of the image as given: 0 for background, else the object's number.
        instances: the objects in the order of their numbers, the most certain ones first.
        points: how many points were asked for, over all layers of tiles.
        timings: milliseconds of `encode`, `decode` and `total`.
        provider: the execution provider that ran the decoder.
        bundle: name and content hash of the bundle.
        spacing: (x, y) millimetres a pixel of the image as given, None if unknown.
        source: the DICOM object that the image comes from, None if it comes from another file.
    """

    label_map: NDArray[np.int32]
    instances: tuple[Instance, ...]
    points: int
    timings: Mapping[str, float]
    provider: str
    bundle: str
    spacing: Spacing | None = None
    source: Source | None = None

    @property
    def count(self) -> int:
        """Number of objects."""
        return len(self.instances)

    def sizes(self) -> ObjectSizes:
        """How large the objects are, as `object_sizes` says of the label map: in pixels, and in mm where known."""
        height, width = self.label_map.shape
        boxes = np.array([one.box for one in self.instances], dtype=np.int64).reshape(-1, 4)
        return ObjectSizes(
            numbers=np.array([one.number for one in self.instances], dtype=np.int64),
            areas_px2=np.array([one.area for one in self.instances], dtype=np.int64),
            cut=(boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2:] == (width, height)).any(axis=1),
            spacing=self.spacing,
        )

    def overlay(self, image: object, *, opacity: float = 0.45) -> NDArray[np.uint8]:
        """Draw each object with its outline in a colour of its own.

        Args:
            image: the image that was segmented, in any form that `samsdk.segment` takes.
            opacity: of the colours, 0 to 1; the outlines cover what is below them.

        Returns:
            [H, W, 3] uint8, RGB.

        Raises:
            ImageError: the image is of another size.
            ValueError: the opacity is not within 0 to 1.
        """
        canvas = overlay_canvas(image, self.label_map.shape, opacity)
        colours = distinct_colours(self.count)
        for instance in self.instances:
            region, colour = instance.region, colours[instance.number - 1]
            height, width = region.inside.shape
            part = canvas[region.top : region.top + height, region.left : region.left + width]
            mixed = part[region.inside] * (1 - opacity) + colour * np.float32(opacity)
            part[region.inside] = np.rint(mixed).astype(np.uint8)
            part[_outline(region.inside)] = colour
        return canvas

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON can hold it: each object's numbers, without its pixels, and how sizes are distributed.

        Sizes have their unit in their name; those in millimetres are there where the size of a pixel is known.
        """
        sizes = self.sizes()
        values = sizes.values()
        return {
            "size": list(self.label_map.shape),
            "count": self.count,
            "points": self.points,
            "instances": [
                {
                    "number": one.number,
                    "box": list(one.box),
                    "area": one.area,
                    "score": round(one.score, 4),
                    "stability": round(one.stability, 4),
                    **{name: float(of_all[index]) for name, of_all in values.items()},
                }
                for index, one in enumerate(self.instances)
            ],
            "sizes": sizes.to_dict(),
            "spacing": list(self.spacing) if self.spacing else None,
            "timings": {stage: round(value, 3) for stage, value in self.timings.items()},
            "provider": self.provider,
            "bundle": self.bundle,
        }

    def to_coco(self) -> dict[str, Any]:
        """The objects as a COCO file has them: run lengths, boxes (x, y, width, height), and SAM's two estimates."""
        height, width = self.label_map.shape
        return {
            "images": [{"id": 1, "height": height, "width": width}],
            "categories": [{"id": 1, "name": "object"}],
            "annotations": [
                {
                    "id": one.number,
                    "image_id": 1,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": encode_rle(one.region),
                    "bbox": [one.box[0], one.box[1], one.box[2] - one.box[0], one.box[3] - one.box[1]],
                    "area": one.area,
                    "predicted_iou": one.score,
                    "stability_score": one.stability,
                }
                for one in self.instances
            ],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result, by the path's suffix, under a temporary name first.

        `.png`: the label map, 16 bits. `.npz`: `label_map`, and `boxes`, `areas`, `scores` and `stability` of the
        objects 1, 2, ... `.json`: `to_coco()`.

        Raises:
            OutputError: the suffix is none of these, a PNG cannot number as many objects, or the file cannot be
                written.
        """
        name = Path(path).name.lower()
        if name.endswith(".png"):
            if self.count > _MOST_NUMBERS:
                raise OutputError(
                    f"cannot write {os.fspath(path)}: a PNG numbers at most {_MOST_NUMBERS} objects, got {self.count}; "
                    "write .npz"
                )
            write_png(path, self.label_map.astype(np.uint16))
        elif name.endswith(".npz"):
            with atomic_write(path) as file:
                np.savez_compressed(file, **self._arrays())
        elif name.endswith(".json"):
            with atomic_write(path) as file:
                file.write(json.dumps(self.to_coco()).encode())
        else:
            raise OutputError(f"cannot write {os.fspath(path)}: expected a name that ends in {', '.join(SUFFIXES)}")

    def _arrays(self) -> dict[str, Any]:
        return {
            "label_map": self.label_map,
            "boxes": np.array([one.box for one in self.instances], dtype=np.int64).reshape(-1, 4),
            "areas": np.array([one.area for one in self.instances], dtype=np.int64),
            "scores": np.array([one.score for one in self.instances], dtype=np.float32),
            "stability": np.array([one.stability for one in self.instances], dtype=np.float32),
        }


def distinct_colours(count: int) -> NDArray[np.uint8]:
    """Bright colours, [N, 3] RGB, of which neighbours in the list are far apart in hue."""
    hues = [(0.55 + number * _GOLDEN) % 1 for number in range(count)]
    values = [colorsys.hsv_to_rgb(hue, 0.65 if number % 2 else 0.95, 1.0) for number, hue in enumerate(hues)]
    return np.asarray(np.rint(np.array(values).reshape(-1, 3) * 255), dtype=np.uint8)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask that have a side in common with what is not in it."""
    padded = np.pad(mask, 1)
    within = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~within
