"""Prompts in millimetres: from where something lies on a scan to the pixels that show it."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samsdk.errors import PromptError
from samsdk.io.dicom_spacing import Spacing

# Of a pixel: what is nearer than this to the border between two pixels lies on it, whatever a division rounds to.
_ROUNDING: Final = 1e-6


def prompt_pixels(
    spacing: Spacing | None,
    points: ArrayLike | None,
    box: ArrayLike | None,
    points_mm: ArrayLike | None,
    box_mm: ArrayLike | None,
) -> tuple[ArrayLike | None, ArrayLike | None]:
    """Bring a prompt's points and box to pixels.

    Millimetres are counted from the image's upper left corner, the outer corner of its first pixel, x to the right and
    y down: pixel k of a row lies from k to k + 1 times the spacing. A point becomes the pixel that it lies in, a box
    the same box, its corners between pixels where they are.

    Args:
        spacing: (x, y) millimetres a pixel, None if unknown.
        points: [K, 2] in pixels, or None.
        box: [4] in pixels, or None.
        points_mm: [K, 2] or [2], (x, y) in millimetres, or None.
        box_mm: [4], (x0, y0, x1, y1) in millimetres, or None.

    Returns:
        Points and box in pixels of the image as given.

    Raises:
        PromptError: the spacing is unknown, the same thing is given in pixels and in millimetres, or it is malformed.
    """
    for name, pixels, lengths in (("points", points, points_mm), ("box", box, box_mm)):
        if lengths is None:
            continue
        if pixels is not None:
            raise PromptError(f"got {name} and {name}_mm: give the {name} in pixels or in millimetres, not in both")
        if spacing is None:
            raise PromptError(
                f"{name}_mm needs an image whose pixel size is known, and this one's is not: give {name} in pixels, or "
                "the image as samsdk.Scan(pixels, spacing=(x, y)) with the millimetres of a pixel"
            )
    if spacing is not None and points_mm is not None:
        points = np.floor(_pixels(points_mm, spacing, "points_mm"))
    if spacing is not None and box_mm is not None:
        box = _pixels(box_mm, spacing, "box_mm")
    return points, box


def _pixels(lengths: ArrayLike, spacing: Spacing, name: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(lengths, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise PromptError(f"{name} must be numbers, got {lengths!r}") from error
    if array.size == 0 or array.shape[-1] % 2:
        raise PromptError(f"{name} must be pairs of (x, y), got shape {list(array.shape)}")
    pixels = array / np.tile(spacing, array.shape[-1] // 2)
    borders = np.rint(pixels)
    return np.asarray(np.where(np.abs(pixels - borders) < _ROUNDING, borders, pixels))
