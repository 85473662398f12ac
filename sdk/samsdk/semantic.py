"""The answer of a semantic bundle: the class of each pixel, without any prompt."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.masks import Region, encode_rle, polygons, upsample_labels
from samsdk.measuring.measurement import Measurement, measure
from samsdk.results import OVERLAY_COLOUR, Colour, Result
from samsdk.splitting import Splitting, number_objects
from samsdk.transforms import Frame

# Okabe and Ito's colours, told apart by any colour vision, the single mask's first.
PALETTE: Final = (
    OVERLAY_COLOUR,
    (230, 159, 0),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
# Each further round through the palette is darker by this.
_DARKER: Final = 0.6


@dataclass(frozen=True, eq=False)
class SemanticResult(Result):
    """A label map of the image as given. `mask`, `box` and `area` are those of all classes together.

    Attributes:
        regions: K masks, in the order of `labels`; `masks` are the same as [K, H, W] bool.
        scores: empty; the model has no estimate of its masks' quality, and so no `best`, `score` or `confidence`.
        low_res_logits: [1 + K, 4E, 4E] float32, the first of the background.
        labels: name of each class by its number as text, `1` to K.
        label_map: [H, W] uint8, the number of each pixel's class, 0 where there is none.
    """

    label_map: NDArray[np.uint8]

    @property
    def best(self) -> int:
        """There is none: each class has its own mask."""
        raise AttributeError("a semantic result has a mask for each class and no scores; see labels and masks")

    @cached_property
    def region(self) -> Region:
        """The pixels of any class."""
        return Region(self.frame.original_size, 0, 0, self.label_map > 0)

    def polygons(self, label: int | str | None = None) -> list[NDArray[np.int32]]:
        """Outer contours of a class, [N, 2] arrays of (x, y) pixel centres; holes are filled.

        Args:
            label: number or name of the class; None is all of them together.

        Raises:
            ValueError: there is no such class.
        """
        return polygons(self._region_of(label))

    def rle(self, label: int | str | None = None) -> dict[str, list[int] | str]:
        """The mask of a class in COCO's compressed run-length encoding; arguments and errors as `polygons`."""
        return encode_rle(self._region_of(label))

    def instances(self, splitting: Splitting, label: int | str | None = None) -> NDArray[np.int32]:
        """The mask of a class split into its objects, see `Result.instances`; `label` and errors as `polygons`."""
        return number_objects(self._region_of(label), splitting)

    def measure(self, label: int | str | None = None) -> Measurement:
        """Measure a class, see `Result.measure`; `label` and errors as `polygons`."""
        return measure(self._region_of(label), self.spacing)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON can hold it; `classes` has what there is to say of each class."""
        classes = [
            {
                "id": number,
                "name": name,
                "area": region.area,
                "box": list(region.box) if region.box else None,
                "rle": encode_rle(region),
            }
            for (number, name), region in zip(self.labels.items(), self.regions, strict=True)
        ]
        return {"classes": classes, **self._summary()}

    def _region_of(self, label: int | str | None) -> Region:
        if label is None:
            return self.region
        for (number, name), region in zip(self.labels.items(), self.regions, strict=True):
            if str(label) in (number, name):
                return region
        known = ", ".join(f"{number} ({name})" for number, name in self.labels.items())
        raise ValueError(f"unknown class {label!r}, expected one of: {known}")

    def _coloured(self) -> Iterable[tuple[Region, Colour]]:
        return zip(self.regions, _colours(), strict=False)

    def _plane(self) -> NDArray[np.uint8]:
        return self.label_map

    def _arrays(self) -> dict[str, Any]:
        return {"label_map": self.label_map, "masks": self.masks, "low_res_logits": self.low_res_logits}


def name_pixels(
    logits: NDArray[np.float32],
    frame: Frame,
    classes: Mapping[str, str],
    timings: Mapping[str, float],
    provider: str,
    bundle: str,
) -> SemanticResult:
    """Make a result of the decoder's logits.

    Args:
        logits: [1 + K, 4E, 4E] float32.
        frame: the image's frame.
        classes: name of each class by its number as text, `0`, the background, to K.
        timings: milliseconds so far; `postprocess` is added.
        provider: see `Result`.
        bundle: see `Result`.
    """
    start = time.perf_counter()
    label_map = upsample_labels(logits, frame)
    labels = dict(list(classes.items())[1:])
    regions = _split(label_map, len(labels))
    spent = {**timings, "postprocess": (time.perf_counter() - start) * 1e3}
    return SemanticResult(regions, np.zeros(0, np.float32), logits, frame, labels, spent, provider, bundle, label_map)


def _split(label_map: NDArray[np.uint8], count: int) -> tuple[Region, ...]:
    """The masks of the classes 1 to `count` of a label map [H, W]."""
    regions = []
    for number in range(1, count + 1):
        found = label_map == number
        rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
        top, bottom, left, right = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if len(rows) else (0, 0, 0, 0)
        # A copy of the box, so that the mask of the whole image can go.
        regions.append(Region(label_map.shape, int(top), int(left), found[top:bottom, left:right].copy()))
    return tuple(regions)


def _colours() -> Iterator[Colour]:
    strength = 1.0
    while True:
        for red, green, blue in PALETTE:
            yield round(red * strength), round(green * strength), round(blue * strength)
        strength *= _DARKER
