"""Contact sheets: many samples on one picture, because a wrong mask is seen at a glance and in no number."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_BACKDROP = 40  # dark grey, told apart both from black padding and from the picture


def contact_sheet(
    images: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.bool_]],
    columns: int = 8,
    *,
    side: int = 160,
    gap: int = 2,
    colour: tuple[int, int, int] = (255, 48, 48),
) -> NDArray[np.uint8]:
    """Draw images in rows, the outline of each one's mask on it.

    Each image is scaled so that its longest side fills its cell, from the cell's top left corner. The outline lies on
    the outermost pixels of the object, so that an object of one pixel is seen too.

    Args:
        images: each [H, W] grey or [H, W, 3] RGB, uint8; sizes may differ.
        masks: each [H, W] bool of its image's size.
        columns: cells of a row.
        side: of a cell, in pixels.
        gap: between cells and around them, in pixels.
        colour: of the outlines, RGB.

    Returns:
        [rows * (side + gap) + gap, columns * (side + gap) + gap, 3] RGB, uint8.

    Raises:
        ValueError: there are no images, not as many masks as images, or a mask is not of its image's size.
    """
    if not images or len(images) != len(masks):
        raise ValueError(f"expected as many masks as images and at least one, got {len(images)} and {len(masks)}")
    rows, step = -(-len(images) // columns), side + gap
    sheet = np.full((rows * step + gap, columns * step + gap, 3), _BACKDROP, dtype=np.uint8)
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if mask.shape != image.shape[:2]:
            raise ValueError(f"mask {index} must be of its image's size {image.shape[:2]}, got {mask.shape}")
        cell = _outlined(image, mask, side, colour)
        top, left = (gap + number * step for number in divmod(index, columns))
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet


def _outlined(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], side: int, colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    scale = side / max(mask.shape)
    height, width = (max(1, round(length * scale)) for length in mask.shape)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    cell = np.repeat(small[..., None], 3, axis=2) if small.ndim == 2 else small
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    inside = (share >= min(0.5, float(share.max()))) & (share > 0)
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.ascontiguousarray(cell), contours, -1, colour, 1), dtype=np.uint8)
