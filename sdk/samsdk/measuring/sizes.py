"""How large the objects of a label map are: their number, and how their sizes are distributed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.measuring.measurement import checked_spacing
from samsdk.measuring.shapes import Spacing

PERCENTILES: Final = (5, 25, 75, 95)


@dataclass(frozen=True, eq=False)
class ObjectSizes:
    """The sizes of the objects in an image.

    Attributes:
        numbers: [N] the objects' numbers in the label map, ascending.
        areas_px2: [N] number of pixels of each.
        cut: [N] whether it touches the image's border: behind it the object may go on, and it is larger than measured.
        spacing: (x, y) millimetres of a pixel; None where it is not known.
    """

    numbers: NDArray[np.int64]
    areas_px2: NDArray[np.int64]
    cut: NDArray[np.bool_]
    spacing: Spacing | None

    @property
    def count(self) -> int:
        """Number of objects, those that the border cuts included."""
        return len(self.numbers)

    def values(self) -> dict[str, NDArray[np.float64]]:
        """Each measure by its name and unit, [N]: the area, and the diameter of the disc of the same area."""
        pixels = {"px": 1.0}
        if self.spacing is not None:
            pixels["mm"] = self.spacing[0] * self.spacing[1]
        values: dict[str, NDArray[np.float64]] = {}
        for unit, pixel in pixels.items():
            values[f"area_{unit}2"] = np.asarray(self.areas_px2 * pixel, dtype=np.float64)
            values[f"equivalent_diameter_{unit}"] = np.sqrt(4 / math.pi * values[f"area_{unit}2"])
        return values

    def to_dict(self) -> dict[str, Any]:
        """`count`, how many the border `cut`, and of each value its `summary`, null where there is no object."""
        return {
            "count": self.count,
            "cut": int(np.count_nonzero(self.cut)),
            **{name: summary(values) if self.count else None for name, values in self.values().items()},
        }


def summary(values: NDArray[np.float64]) -> Mapping[str, float]:
    """How values [N] are distributed, N at least 1.

    Returns:
        `mean`, `sd` (of a sample; 0 of a single value), `median`, `smallest`, `largest`, and `p5` to `p95`: the value
        that so many per cent do not exceed, linear between two values.
    """
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "median": float(np.median(values)),
        "smallest": float(values.min()),
        "largest": float(values.max()),
        **{f"p{percent}": float(np.percentile(values, percent)) for percent in PERCENTILES},
    }


def object_sizes(label_map: NDArray[np.integer], spacing: Sequence[float] | None = None) -> ObjectSizes:
    """Measure the objects of a label map.

    Args:
        label_map: [H, W] integers, 0 is background, each other number one object; numbers may be left out.
        spacing: (x, y) millimetres of a pixel; None where it is not known, and then nothing is in millimetres.

    Raises:
        ValueError: the label map is not [H, W] integers from 0 on, or the spacing is not two positive lengths.
    """
    if label_map.ndim != 2 or not np.issubdtype(label_map.dtype, np.integer):
        raise ValueError(f"expected integers [H, W], got {label_map.dtype} of shape {list(label_map.shape)}")
    if label_map.size and label_map.min() < 0:
        raise ValueError(f"expected numbers from 0 on, got {label_map.min()}")
    numbers, counts = np.unique(label_map, return_counts=True)
    edges = [label_map[:1], label_map[-1:], label_map[:, :1], label_map[:, -1:]]
    objects = numbers > 0
    return ObjectSizes(
        numbers=numbers[objects].astype(np.int64),
        areas_px2=counts[objects].astype(np.int64),
        cut=np.isin(numbers[objects], np.concatenate([edge.ravel() for edge in edges])),
        spacing=None if spacing is None else checked_spacing(spacing),
    )
