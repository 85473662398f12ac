"""Results: masks of the image as given, with where they came from, and the files that can be made of them."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.errors import ImageError, OutputError
from samsdk.intensity import to_uint8
from samsdk.io.atomic import atomic_write
from samsdk.io.dicom import Source
from samsdk.io.dicom_spacing import Spacing
from samsdk.io.images import as_array, write_png
from samsdk.masks import Region, encode_rle, polygons
from samsdk.measuring.calibration import Calibration
from samsdk.measuring.measurement import Measurement, measure
from samsdk.splitting import Splitting, number_objects
from samsdk.transforms import Frame

SUFFIXES: Final = (".png", ".npz", ".nii.gz", ".coco.json", ".json")
# Okabe and Ito's sky blue: stands out from grey scans, red fundus and brown or pink stains, for any colour vision.
OVERLAY_COLOUR: Final = (86, 180, 233)
Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Result:
    """The answer to one prompt.

    Attributes:
        regions: M masks, each stored over its own box.
        scores: [M] float32, the model's own estimate of each mask's IoU.
        low_res_logits: [M, 4E, 4E] float32 logits over the network's input square, which shows the frame's window.
        frame: the part of the image that the network saw, and how. Give the whole result as the next prompt's `mask`:
            the logits alone do not say where they lie.
        labels: name of each class by its number as text for semantic bundles, else empty.
        timings: milliseconds of `preprocess`, `encode`, `decode` and `postprocess`; the first two are the
            embedding's own, and 0.0 where `segment` or a file had it already.
        provider: the execution provider that ran the decoder.
        bundle: name and content hash of the bundle.
        spacing: (x, y) millimetres a pixel of the image as given, None if unknown.
        source: the DICOM object that the image comes from, None if it comes from another file.
        variations: what prompts that were moved a little gave, see `samsdk.measuring.perturbation`.
        calibration: what scores are worth after such a prompt; None where the bundle does not say.
    """

    regions: tuple[Region, ...]
    scores: NDArray[np.float32]
    low_res_logits: NDArray[np.float32]
    frame: Frame
    labels: Mapping[str, str]
    timings: Mapping[str, float]
    provider: str
    bundle: str
    spacing: Spacing | None = field(default=None, kw_only=True)
    source: Source | None = field(default=None, kw_only=True)
    variations: tuple[Region, ...] = field(default=(), kw_only=True)
    calibration: Calibration | None = field(default=None, kw_only=True)

    @property
    def best(self) -> int:
        """Index of the mask with the highest score."""
        return int(np.argmax(self.scores))

    @property
    def region(self) -> Region:
        """The best mask, stored over its own box."""
        return self.regions[self.best]

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The best mask, [H, W] bool, the size of the image as given."""
        return self.region.full()

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """All masks, [M, H, W] bool, in the order of `scores`."""
        return np.stack([region.full() for region in self.regions])

    @property
    def score(self) -> float:
        """The best mask's score."""
        return float(self.scores[self.best])

    @property
    def confidence(self) -> float:
        """The IoU to be expected of the best mask, 0 to 1.

        By the bundle's table for this kind of prompt, which was fitted to answers whose true IoU is known; where it
        has none, the score itself, cut to 0 to 1.
        """
        if self.calibration is None:
            return min(max(self.score, 0.0), 1.0)
        return self.calibration.expected_iou(self.score)

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Tight box of the best mask, (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None when it is empty."""
        return self.region.box

    @property
    def area(self) -> int:
        """Number of pixels of the best mask."""
        return self.region.area

    def polygons(self) -> list[NDArray[np.int32]]:
        """Outer contours of the best mask, [N, 2] arrays of (x, y) pixel centres; holes are filled."""
        return polygons(self.region)

    def rle(self) -> dict[str, list[int] | str]:
        """The best mask in COCO's compressed run-length encoding."""
        return encode_rle(self.region)

    def instances(self, splitting: Splitting) -> NDArray[np.int32]:
        """The best mask split into its objects.

        Args:
            splitting: how.

        Returns:
            [H, W] int32, 0 for background, objects numbered from 1 on without gaps.
        """
        return number_objects(self.region, splitting)

    def measure(self) -> Measurement:
        """Measure the best mask: in pixels, and in millimetres where the size of a pixel is known.

        With `variations` each value has a range, which shows whether the mask depends on where exactly somebody
        pointed. How well it is expected to fit is `confidence`.
        """
        return measure(self.region, self.spacing, self.variations)

    def overlay(self, image: object, *, opacity: float = 0.45) -> NDArray[np.uint8]:
        """Draw the best mask and its outline on the image.

        Args:
            image: the image that was segmented, in any form that `samsdk.segment` takes.
            opacity: of the mask's colour, 0 to 1.

        Returns:
            [H, W, 3] uint8, RGB.

        Raises:
            ImageError: the image is of another size.
            ValueError: the opacity is not within 0 to 1.
        """
        canvas = overlay_canvas(image, self.frame.original_size, opacity)
        for region, colour in self._coloured():
            _paint(canvas, region, colour, opacity)
        return canvas

    def _coloured(self) -> Iterable[tuple[Region, Colour]]:
        return [(self.region, OVERLAY_COLOUR)]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON can hold it; the mask as COCO run-length encoding."""
        scores = [float(score) for score in self.scores]
        return {"score": self.score, "scores": scores, "confidence": self.confidence, **self._summary()}

    def _summary(self) -> dict[str, Any]:
        return {
            "size": list(self.frame.original_size),
            "area": self.area,
            "box": list(self.box) if self.box else None,
            "window": list(self.frame.window),
            "spacing": list(self.spacing) if self.spacing else None,
            "rle": self.rle(),
            "labels": dict(self.labels),
            "timings": {stage: round(value, 3) for stage, value in self.timings.items()},
            "provider": self.provider,
            "bundle": self.bundle,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result, by the path's suffix, under a temporary name first.

        `.png`: the best mask, 0 and 255. `.npz`: `masks`, `scores`, `low_res_logits`. `.json`: `to_dict()`;
        `.coco.json`: what was found, as `samsdk.io.coco` writes it (several images too). `.nii.gz`:
        the best mask as uint8 (axes x, y, 1; the affine holds the spacing, 1 mm where it is unknown), needs the extra
        `medical`.

        Raises:
            OutputError: the suffix is none of these, or the file cannot be written.
            MissingExtraError: `.nii.gz` without nibabel.
        """
        name = Path(path).name.lower()
        if name.endswith(".png"):
            write_png(path, self._plane())
        elif name.endswith(".npz"):
            with atomic_write(path) as file:
                np.savez_compressed(file, **self._arrays())
        elif name.endswith(".coco.json"):
            # It knows results, too.
            from samsdk.io.coco import CocoImage, write_coco
            from samsdk.io.objects import object_masks

            write_coco(path, [CocoImage(self.frame.original_size, object_masks(self), spacing=self.spacing)])
        elif name.endswith(".json"):
            with atomic_write(path) as file:
                file.write(json.dumps(self.to_dict(), indent=1).encode())
        elif name.endswith(".nii.gz"):
            from samsdk.io.nifti import write_mask

            write_mask(path, self._plane(), self.spacing)
        else:
            raise OutputError(f"cannot write {os.fspath(path)}: expected a name that ends in {', '.join(SUFFIXES)}")

    def _plane(self) -> NDArray[np.bool_] | NDArray[np.uint8]:
        return self.mask

    def _arrays(self) -> dict[str, Any]:
        return {"masks": self.masks, "scores": self.scores, "low_res_logits": self.low_res_logits}


def overlay_canvas(image: object, size: tuple[int, ...], opacity: float) -> NDArray[np.uint8]:
    """The image that an overlay is drawn on.

    Args:
        image: in any form that `samsdk.segment` takes.
        size: (H, W) of the image that was segmented.
        opacity: of what will be drawn, 0 to 1.

    Returns:
        A copy, [H, W, 3] uint8, RGB.

    Raises:
        ImageError: the image is of another size.
        ValueError: the opacity is not within 0 to 1.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be within 0 to 1, got {opacity}")
    pixels = to_uint8(as_array(image), "uint8_or_minmax")
    if pixels.shape[:2] != size:
        raise ImageError(f"overlay needs the image that was segmented, {size} (H, W), got {pixels.shape[:2]}")
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels.copy()


def _paint(canvas: NDArray[np.uint8], region: Region, colour: Colour, opacity: float) -> None:
    """Draw a mask and its outline on an image [H, W, 3]."""
    height, width = region.inside.shape
    part = canvas[region.top : region.top + height, region.left : region.left + width]
    mixed = part[region.inside] * (1 - opacity) + np.array(colour, dtype=np.float32) * opacity
    part[region.inside] = np.rint(mixed).astype(np.uint8)
    thickness = max(1, max(region.size) // 400)
    cv2.polylines(canvas, [outline.reshape(-1, 1, 2) for outline in polygons(region)], True, colour, thickness)
