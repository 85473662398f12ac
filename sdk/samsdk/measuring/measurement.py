"""What there is to measure of a mask, in pixels and, where the size of a pixel is known, in millimetres."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.masks import Region
from samsdk.measuring.ellipse import Ellipse, fit_ellipse
from samsdk.measuring.shapes import (
    Diameter,
    Spacing,
    border_points,
    convex_hull,
    longest_diameter,
    perimeter,
    shortest_diameter,
)
from samsdk.measuring.stability import Stability, agreement, ranges

PIXEL: Final = "px"
MILLIMETRE: Final = "mm"
_UNIT_PIXEL: Final = (1.0, 1.0)


@dataclass(frozen=True)
class Dimensions:
    """The dimensions of one mask in one unit. Lengths and places are of geometry that was done in this unit.

    Places are (x, y) from the image's top left corner; in pixels, the middle of the first pixel is at (0.5, 0.5).

    Attributes:
        unit: of lengths: `px` or `mm`; areas are in its square.
        area: of the pixels, without holes.
        perimeter: of all borders, those of holes included (see `shapes.perimeter`).
        equivalent_diameter: of the disc of the same area.
        longest: the longest diameter over all parts; None of an empty mask.
        shortest: the shortest diameter over all parts; None of an empty mask.
        ellipse: fitted to the largest part, its holes filled; None of an empty mask.
    """

    unit: str
    area: float
    perimeter: float
    equivalent_diameter: float
    longest: Diameter | None
    shortest: Diameter | None
    ellipse: Ellipse | None

    def values(self) -> dict[str, float]:
        """Each measure by its name and unit, as `area_mm2`; those that an empty mask lacks are left out."""
        values = {
            f"area_{self.unit}2": self.area,
            f"perimeter_{self.unit}": self.perimeter,
            f"equivalent_diameter_{self.unit}": self.equivalent_diameter,
        }
        for name, diameter in self._diameters():
            values[f"{name}_diameter_{self.unit}"] = diameter.length
        if self.ellipse is not None:
            values[f"ellipse_circumference_{self.unit}"] = self.ellipse.circumference
            values[f"ellipse_major_{self.unit}"] = self.ellipse.major
            values[f"ellipse_minor_{self.unit}"] = self.ellipse.minor
        return values

    def to_dict(self) -> dict[str, Any]:
        """The values and where they were measured, as JSON can hold them."""
        places: dict[str, Any] = {
            f"{name}_diameter_ends_{self.unit}": [list(diameter.start), list(diameter.end)]
            for name, diameter in self._diameters()
        }
        if self.ellipse is not None:
            places[f"ellipse_centre_{self.unit}"] = list(self.ellipse.centre)
            places["ellipse_angle_degrees"] = self.ellipse.angle
        return {**self.values(), **places}

    def _diameters(self) -> Iterator[tuple[str, Diameter]]:
        for name, diameter in (("longest", self.longest), ("shortest", self.shortest)):
            if diameter is not None:
                yield name, diameter


@dataclass(frozen=True)
class Measurement:
    """What was measured of one mask.

    Attributes:
        px: in pixels.
        mm: in millimetres; None where the size of a pixel is not known.
        parts: number of connected parts, where corners connect.
        holes: number of holes, which a corner does not connect with the outside.
        stability: how far all this depends on the prompt; None where that was not tried.
    """

    px: Dimensions
    mm: Dimensions | None
    parts: int
    holes: int
    stability: Stability | None = None

    def values(self) -> dict[str, float]:
        """All values by name and unit, see `Dimensions.values`."""
        return {**self.px.values(), **(self.mm.values() if self.mm else {})}

    def to_dict(self) -> dict[str, Any]:
        """The measurement as JSON can hold it; `mm` and `stability` are null where they are not known."""
        return {
            "parts": self.parts,
            "holes": self.holes,
            PIXEL: self.px.to_dict(),
            MILLIMETRE: self.mm.to_dict() if self.mm else None,
            "stability": self.stability.to_dict() if self.stability else None,
        }


def measure(
    mask: Region | NDArray[np.bool_], spacing: Sequence[float] | None = None, variations: Sequence[Region] = ()
) -> Measurement:
    """Measure a mask.

    Args:
        mask: a region, or [H, W] bool.
        spacing: (x, y) millimetres of a pixel; None where it is not known, and then nothing is in millimetres.
        variations: masks of the same object from moved prompts; they give each value a range.

    Raises:
        ValueError: the mask is not [H, W] bool, or the spacing is not two positive lengths.
    """
    scale = None if spacing is None else checked_spacing(spacing)
    region = mask if isinstance(mask, Region) else _as_region(mask)
    measurement = _measure(region, scale)
    if not variations:
        return measurement
    measured = [measurement.values(), *(_measure(one, scale).values() for one in variations)]
    stability = Stability(agreement(region, variations), ranges(measured), len(variations))
    return replace(measurement, stability=stability)


def _measure(region: Region, spacing: Spacing | None) -> Measurement:
    inside, corner = _tight(region)
    parts, holes, largest = _parts(inside)
    shape = _Shape(inside, largest, border_points(inside), corner)
    return Measurement(
        px=shape.dimensions(PIXEL, _UNIT_PIXEL),
        mm=None if spacing is None else shape.dimensions(MILLIMETRE, spacing),
        parts=parts,
        holes=holes,
    )


def checked_spacing(spacing: Sequence[float]) -> Spacing:
    """The size of a pixel (x, y) as two floats.

    Raises:
        ValueError: it is not two positive lengths.
    """
    lengths = np.asarray(spacing, dtype=np.float64)
    if lengths.shape != (2,) or not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise ValueError(f"spacing must be two positive lengths in mm, (x, y), got {spacing!r}")
    return float(lengths[0]), float(lengths[1])


@dataclass(frozen=True, eq=False)
class _Shape:
    """A mask [h, w] within its tight box, whose top left pixel is `corner` (x, y).

    `largest` is its largest part without holes, of the same shape, and `border` the points of all its borders.
    """

    inside: NDArray[np.bool_]
    largest: NDArray[np.bool_]
    border: NDArray[np.int32]
    corner: tuple[int, int]

    def dimensions(self, unit: str, spacing: Spacing) -> Dimensions:
        area = np.count_nonzero(self.inside) * spacing[0] * spacing[1]
        if area == 0:
            return Dimensions(unit, 0.0, 0.0, 0.0, None, None, None)
        hull = convex_hull(self.border + 2 * np.array(self.corner, dtype=np.int32), spacing)
        return Dimensions(
            unit=unit,
            area=float(area),
            perimeter=perimeter(self.inside, spacing),
            equivalent_diameter=math.sqrt(4 / math.pi * area),
            longest=longest_diameter(hull),
            shortest=shortest_diameter(hull),
            ellipse=fit_ellipse(self.largest, spacing, self.corner),
        )


def _as_region(mask: NDArray[np.bool_]) -> Region:
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"expected a bool mask [H, W], got {mask.dtype} of shape {list(mask.shape)}")
    height, width = mask.shape
    return Region((height, width), 0, 0, mask)


def _tight(region: Region) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """The mask within its tight box, and the box's first pixel (x, y)."""
    box = region.box
    if box is None:
        return np.zeros((0, 0), dtype=np.bool_), (0, 0)
    x0, y0, x1, y1 = box
    rows, columns = slice(y0 - region.top, y1 - region.top), slice(x0 - region.left, x1 - region.left)
    return region.inside[rows, columns], (x0, y0)


def _parts(inside: NDArray[np.bool_]) -> tuple[int, int, NDArray[np.bool_]]:
    """How many parts and holes a mask [h, w] has, and its largest part without holes."""
    if inside.size == 0:
        return 0, 0, inside
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(inside).view(np.uint8), connectivity=8
    )
    largest = numbers == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    holes, _ = _holes(inside)
    _, within = _holes(largest)
    return count - 1, holes, largest | within


def _holes(mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.bool_]]:
    """The number of a mask's holes, and their pixels [h, w]."""
    # All that the margin is connected with is outside.
    count, numbers = cv2.connectedComponents((~np.pad(mask, 1)).view(np.uint8), connectivity=4)
    holes = (numbers != numbers[0, 0]) & (numbers > 0)
    return count - 2, np.asarray(holes[1:-1, 1:-1])
