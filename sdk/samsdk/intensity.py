"""Intensity rules: from the numbers that a file holds to what a network was trained on.

A rule is a word in the bundle's manifest, never a guess from a file name. Training, export and runtime all call
`to_uint8` and `normalise`, so that no two of them can differ.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

INTENSITY_RULES: Final = ("uint8_or_minmax",)
NORMALISATION_RULES: Final = ("minmax", "unit", "imagenet_rgb", "imagenet_bgr_quirk")
# Numbers that are stretched at a time: a whole image of 20,000 pixels a side would be 3.2 GB in float64.
_BAND: Final = 2**20
# Of the 0-255 values of red, green and blue over ImageNet, as Segment Anything uses them.
_IMAGENET_MEAN: Final = np.array([123.675, 116.28, 103.53], dtype=np.float32)
_IMAGENET_STD: Final = np.array([58.395, 57.12, 57.375], dtype=np.float32)


def to_uint8(image: NDArray[np.generic], rule: str) -> NDArray[np.uint8]:
    """Bring an image of any dtype to 8 bits by the bundle's intensity rule.

    `uint8_or_minmax` (LiteMedSAM, MedSAM/pre_grey_rgb.py): values that already mean 0-255 are kept; anything else is
    stretched from its minimum and maximum to 0-255. In detail: uint8 is kept; bool becomes 0 and 255; integers within
    0-255 are kept; floats within 0-1 are multiplied by 255; floats within 0-255 are rounded; all the rest is stretched.

    Rows are stretched some at a time: beside the levels themselves, memory does not grow with the image.

    Args:
        image: HxW or HxWx3 array, any real dtype, finite.
        rule: a name out of `INTENSITY_RULES`.

    Returns:
        An array of the same shape, uint8.

    Raises:
        ValueError: the rule is unknown.
    """
    if rule not in INTENSITY_RULES:
        raise ValueError(f"unknown intensity rule {rule!r}, expected one of: {', '.join(INTENSITY_RULES)}")
    if image.dtype == np.uint8:
        return image.view(np.uint8)
    if image.dtype == np.bool_:
        return image.astype(np.uint8) * np.uint8(255)
    low, high = float(image.min()), float(image.max())
    offset, factor = 0.0, 1.0
    if low < 0 or high > 255:
        # A constant image has no range to stretch: it becomes 0, as the published clip of the denominator does.
        offset, factor = low, 255.0 / max(high - low, 1e-8)
    elif high <= 1 and np.issubdtype(image.dtype, np.floating):
        factor = 255.0
    levels = np.empty(image.shape, dtype=np.uint8)
    rows = max(1, _BAND * len(image) // image.size)
    for first in range(0, len(image), rows):
        values = image[first : first + rows].astype(np.float64)
        values -= offset
        values *= factor
        levels[first : first + rows] = np.rint(values, out=values)
    return levels


def normalise(image: NDArray[np.uint8], rule: str) -> NDArray[np.float32]:
    """Turn a resized 8-bit image into what the encoder takes.

    `minmax` (LiteMedSAM, MedSAM): `(x - min) / max(max - min, 1e-8)` over all pixels and channels of the resized image,
    before it is padded; the range is [0, 1]. There is no mean and no standard deviation.
    `unit` (SAMed): `x / 255`.
    `imagenet_rgb` (Segment Anything, MobileSAM): each channel less its mean over ImageNet, by its standard deviation.
    `imagenet_bgr_quirk` (SAM-Med2D): the channels in the order blue, green, red, but means and deviations in the order
    of red, green, blue. The weights were trained so, hence nothing else will do for them.

    Args:
        image: HxW or HxWx3, uint8.
        rule: a name out of `NORMALISATION_RULES`.

    Returns:
        An array of the same shape, float32; of an HxW image HxWx3 where the rule treats the channels differently.

    Raises:
        ValueError: the rule is unknown.
    """
    if rule not in NORMALISATION_RULES:
        raise ValueError(f"unknown normalisation rule {rule!r}, expected one of: {', '.join(NORMALISATION_RULES)}")
    if rule == "minmax":
        low, high = int(image.min()), int(image.max())
        values = image.astype(np.float32)
        values -= np.float32(low)
        values /= np.float32(max(high - low, 1e-8))
        return values
    if rule == "unit":
        return image.astype(np.float32) / np.float32(255)
    colour = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image
    ordered = colour[:, :, ::-1] if rule == "imagenet_bgr_quirk" else colour
    return (ordered.astype(np.float32) - _IMAGENET_MEAN) / _IMAGENET_STD
