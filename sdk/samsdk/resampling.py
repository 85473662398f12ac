"""Linear interpolation that is antialiased when it shrinks, as Pillow computes it.

Segment Anything and MobileSAM were trained on images that torchvision resized through Pillow. OpenCV's linear
interpolation skips pixels when it shrinks, and its area interpolation makes blocks when it enlarges, so neither gives
what these networks know.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

# Pillow sums 8-bit pixels with weights of so many binary places.
_PLACES: Final = 22


def resize_antialiased(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an 8-bit image, bit for bit as Pillow's `BILINEAR`, along the rows first and then along the columns.

    Args:
        image: HxW or HxWxC.
        size: (height, width) of the result.

    Returns:
        The image in that size.
    """
    height, width = size
    if image.shape[1] != width:
        image = _along_rows(image, width)
    if image.shape[0] != height:
        image = _along_rows(image.swapaxes(0, 1), height).swapaxes(0, 1)
    return np.ascontiguousarray(image)


def _along_rows(image: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    first, weights = _taps(image.shape[1], length)
    total = np.full((image.shape[0], length, *image.shape[2:]), 1 << (_PLACES - 1), dtype=np.int32)
    for tap, weight in enumerate(weights):
        # A tap beyond the border has no weight.
        pixels = image.take(np.minimum(first + tap, image.shape[1] - 1), axis=1)
        total += pixels * (weight if image.ndim == 2 else weight[:, None])
    total >>= _PLACES
    np.clip(total, 0, 255, out=total)
    return total.astype(np.uint8)


def _taps(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """The first source pixel of each target pixel, and the weights [taps, target] of it and those after it."""
    scale = source / target
    reach = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(np.intp), 0)
    last = np.minimum((centres + reach + 0.5).astype(np.intp), source)
    pixels = first + np.arange(int((last - first).max()))[:, None]  # [taps, target]
    weights = np.maximum(1 - np.abs((pixels - centres + 0.5) * (1 / reach)), 0)
    weights = np.where(pixels < last, weights, 0)
    weights /= weights.sum(axis=0)
    return first, (0.5 + weights * (1 << _PLACES)).astype(np.int32)
