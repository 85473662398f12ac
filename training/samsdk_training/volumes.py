"""Volumes as images: planes that stand upright, and 8 bits out of Hounsfield units or a scanner's arbitrary ones."""

from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

_Number = TypeVar("_Number", bound=np.generic)

AXES: Final = "xyz"
# Hounsfield units, (lowest, highest): soft tissue, lung, and wide enough for bone.
CT_WINDOWS: Final = ((-160.0, 240.0), (-1000.0, 200.0), (-500.0, 900.0))
# Air is -1000 HU; no MR or z-score volume reaches so low.
_CT_FLOOR: Final = -500.0


def upright(volume: NDArray[_Number], axis: str) -> NDArray[_Number]:
    """The planes of a volume across one axis.

    Args:
        volume: [X, Y, Z] as `samsdk.io.nifti.CanonicalVolume` has it.
        axis: out of `AXES`.

    Returns:
        [D, H, W], a view. Rows go downwards: from front to back across z, from head to foot across x and y; columns
        run along x, across x along y.
    """
    return np.rot90(np.moveaxis(volume, AXES.index(axis), 0), axes=(1, 2))


def plane_spacing(spacing: tuple[float, float, float], axis: str) -> tuple[float, float]:
    """What a pixel of `upright` measures: (down, across), in the unit of the spacing along x, y and z."""
    across, down = (length for name, length in zip(AXES, spacing, strict=True) if name != axis)
    return down, across


def intensity_bounds(
    values: NDArray[np.floating], windows: Sequence[tuple[float, float]] = CT_WINDOWS
) -> list[tuple[float, float]]:
    """The (lowest, highest) values that 8 bits shall hold.

    Args:
        values: of a whole volume, finite.
        windows: for CT, in Hounsfield units.

    Returns:
        The windows where the volume is CT; else the percentiles 0.5 and 99.5 alone.
    """
    if values.min() <= _CT_FLOOR:
        return list(windows)
    low, high = np.percentile(values, [0.5, 99.5])
    return [(float(low), max(float(high), float(low) + 1e-6))]


def to_eight_bits(values: NDArray[np.floating], bounds: tuple[float, float]) -> NDArray[np.uint8]:
    """Clip values at the bounds and scale them to 0-255."""
    low, high = bounds
    return np.round((values.clip(low, high) - low) * (255 / (high - low))).astype(np.uint8)
