"""What a screen shows of an image: levels of 8 or 16 bits, which it puts through a window of its own."""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.intensity import to_uint8
from samsdk.io.dicom_pixels import ModalityFrame

# Screens show fewer pixels, and canvases of browsers take few more.
_LONGEST_SHOWN: Final = 4096
# Levels of 8 bits and of 16; a grey image of any other range is scaled to these.
_FEW_LEVELS: Final = 255
_LEVELS: Final = 65535


@dataclass(frozen=True, eq=False)
class Shown:
    """What a screen needs of an image.

    Attributes:
        levels: (h, w) uint8 or little-endian uint16, or (h, w, 3) uint8 RGB; smaller than the image where that is huge.
        start: value of level 0 in the file's units.
        step: from one level to the next.
        least: value of the image.
        greatest: value of the image.
        low: value to show black at first.
        high: value to show white at first; below `low` where 0 is white.
    """

    levels: NDArray[Any]
    start: float
    step: float
    least: float
    greatest: float
    low: float
    high: float


def shown(pixels: NDArray[Any]) -> Shown:
    """Prepare an image for a screen, its grey values so that they can be windowed there.

    Args:
        pixels: (H, W) grey or (H, W, 3) RGB.
    """
    pixels = _small(pixels)
    if pixels.ndim == 3 or pixels.dtype in (np.uint8, np.bool_):
        levels = np.ascontiguousarray(to_uint8(pixels, "uint8_or_minmax"))
        return Shown(levels, 0.0, 1.0, 0.0, 255.0, 0.0, 255.0)
    levels, low, step, high = _levels(pixels)
    return Shown(levels, low, step, low, high, low, high)


def shown_modality(frame: ModalityFrame) -> Shown:
    """Prepare what a greyscale DICOM file means for a screen: also what its window cuts off can be shown."""
    levels, least, step, greatest = _levels(_small(frame.numbers))
    ends = sorted((frame.start + frame.step * least, frame.start + frame.step * greatest))
    return Shown(
        levels, frame.start + frame.step * least, frame.step * step, ends[0], ends[1], frame.black, frame.white
    )


def _small(pixels: NDArray[Any]) -> NDArray[Any]:
    """The image, no larger than a screen needs it."""
    height, width = pixels.shape[:2]
    scale = _LONGEST_SHOWN / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        # OpenCV resizes neither bool nor integers of 32 bits.
        small = pixels if pixels.dtype in (np.uint8, np.uint16, np.int16, np.float32) else pixels.astype(np.float32)
        pixels = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA))
    return pixels


def _levels(values: NDArray[Any]) -> tuple[NDArray[Any], float, float, float]:
    """Levels of 8 bits or 16 of grey values; the least value, which is level 0, the step of a level, the greatest."""
    low, high = float(values.min()), float(values.max())
    whole = values.dtype.kind in "iu" and high - low <= _LEVELS
    step = 1.0 if whole else max(high - low, 1e-12) / _LEVELS
    levels = np.rint((values.astype(np.float64) - low) / step)
    return (
        np.ascontiguousarray(levels.astype(np.uint8 if whole and high - low <= _FEW_LEVELS else "<u2")),
        low,
        step,
        high,
    )
