"""An uploaded file becomes an image, and what a screen shows of an image."""

from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.errors import ImageError
from samsdk.intensity import to_uint8
from samsdk.io.dicom import is_dicom
from samsdk.io.dicom_headers import dicom_size, inflates_beyond
from samsdk.io.dicom_spacing import Spacing
from samsdk.io.headers import image_size
from samsdk.io.images import as_scan
from samsdk.io.scans import Scan, read_scan
from samsdk.serve.limits import Limits
from samsdk.serve.problems import Refused

# Screens show fewer pixels, and canvases of browsers take few more.
_LONGEST_SHOWN: Final = 4096
# Levels of 16 bits; a grey image of any other range is scaled to them.
_LEVELS: Final = 65535
# Of a deflated file: colours of 16 bits, and some frames.
_BYTES_A_PIXEL: Final = 16
_LARGEST_SPACING: Final = 1000.0


@dataclass(frozen=True)
class Choice:
    """What part of a file is wanted, and what its user knows about it.

    Attributes:
        frame: of a file of several, from 0 on.
        window: (centre, width) of a DICOM file's greyscale; None does as the file says.
        spacing: (x, y) mm of a pixel, where the file does not say.
    """

    frame: int | None = None
    window: tuple[float, float] | None = None
    spacing: Spacing | None = None


def read_upload(data: bytes, choice: Choice, limits: Limits) -> Scan:
    """Read an image file. This is the only place where the service looks into what it was sent.

    Args:
        data: the file.
        choice: of its frame, its greyscale, and its spacing if it has none.
        limits: of the service.

    Returns:
        The image, its pixels read-only.

    Raises:
        ImageError: it is no image that samsdk reads.
        MissingExtraError: reading it needs an extra that is not installed.
        Refused: it has more pixels than the service takes; or several frames, of which none was named.
    """
    check_size(data, limits)
    try:
        scan = as_scan(_read(data, choice))
    except MemoryError as error:
        raise ImageError("the image is larger than the memory of this machine; make it smaller first") from error
    _check_pixels(scan.pixels.shape[0] * scan.pixels.shape[1], limits)
    scan.pixels.setflags(write=False)
    return replace(scan, spacing=scan.spacing or choice.spacing)


def check_size(data: bytes, limits: Limits) -> None:
    """Look into a file's header before anything is decoded: a few kilobytes can hold gigabytes of pixels.

    Raises:
        Refused: it has more pixels than the service takes, or is deflated and grows beyond what they take.
    """
    most = _BYTES_A_PIXEL * limits.pixels
    if inflates_beyond(data, most):
        raise Refused(413, "too_large", f"expected at most {most} bytes in a deflated file; send a part of it")
    # As it will be read: a DICOM file may begin like a picture of another format.
    size = dicom_size(data) if is_dicom(data) else image_size(data)
    if size is not None:
        _check_pixels(size[0] * size[1], limits)


def _read(data: bytes, choice: Choice) -> Scan:
    try:
        return read_scan(data, frame=choice.frame, window=choice.window)
    except ImageError as error:
        if choice.frame is not None:
            raise
        try:
            read_scan(data, frame=0, window=choice.window)
        except ImageError:
            raise error from None
        # It can be read once a frame is named.
        raise Refused(422, "frame", f"{error}; here: ?frame=0") from error


def _check_pixels(count: int, limits: Limits) -> None:
    if count > limits.pixels:
        raise Refused(
            413, "too_large", f"expected at most {limits.pixels} pixels, got {count}; crop the image or make it smaller"
        )


def check_spacing(values: list[float]) -> Spacing:
    """The (x, y) sides of a pixel out of one number, for squares, or of two.

    Raises:
        Refused: they are none.
    """
    if len(values) not in (1, 2) or not all(0 < value <= _LARGEST_SPACING for value in values):
        raise Refused(
            422,
            "spacing",
            f"expected one or two lengths in mm (x, y), above 0 and up to {_LARGEST_SPACING:g}",
        )
    return values[0], values[-1]


@dataclass(frozen=True, eq=False)
class Shown:
    """What a screen needs of an image.

    Attributes:
        levels: (h, w) uint8 or little-endian uint16, or (h, w, 3) uint8 RGB; smaller than the image where that is huge.
        start: value of level 0 in the file's units.
        step: from one level to the next.
        low: value to show black.
        high: value to show white.
    """

    levels: NDArray[Any]
    start: float
    step: float
    low: float
    high: float


def shown(pixels: NDArray[Any]) -> Shown:
    """Prepare an image for a screen, its grey values so that they can be windowed there.

    Args:
        pixels: (H, W) grey or (H, W, 3) RGB.
    """
    height, width = pixels.shape[:2]
    scale = _LONGEST_SHOWN / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        # OpenCV resizes neither bool nor integers of 32 bits.
        small = pixels if pixels.dtype in (np.uint8, np.uint16, np.int16, np.float32) else pixels.astype(np.float32)
        pixels = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA))
    if pixels.ndim == 3 or pixels.dtype in (np.uint8, np.bool_):
        return Shown(np.ascontiguousarray(to_uint8(pixels, "uint8_or_minmax")), 0.0, 1.0, 0.0, 255.0)
    low, high = float(pixels.min()), float(pixels.max())
    whole = pixels.dtype.kind in "iu" and high - low <= _LEVELS
    step = 1.0 if whole else max(high - low, 1e-12) / _LEVELS
    levels = np.rint((pixels.astype(np.float64) - low) / step)
    return Shown(np.ascontiguousarray(levels.astype("<u2")), low, step, low, high)
