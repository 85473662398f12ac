"""Which answers to believe, and which of those that are alike: tests of one mask, and of the masks of one tile."""

import math
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.masks import Region
from samsdk.transforms import Frame


def stability_scores(logits: NDArray[np.float32], frame: Frame, threshold: float, offset: float) -> NDArray[np.float64]:
    """IoU of each mask at a higher with the same at a lower threshold (segment-anything, `calculate_stability_score`).

    Args:
        logits: [M, L, L], over the network's input square; padding does not count.
        frame: the image's frame in it.
        threshold: of the bundle's masks.
        offset: how much higher and lower.

    Returns:
        [M], 0 where nothing is above the lower threshold.
    """
    if frame.offset == (0, 0):
        rows, columns = (
            math.ceil(length * logits.shape[-1] / frame.input_size - 1e-6) for length in frame.resized_size
        )
        logits = logits[:, :rows, :columns]
    sure = np.count_nonzero(logits > threshold + offset, axis=(1, 2))
    likely = np.count_nonzero(logits > threshold - offset, axis=(1, 2))
    return np.asarray(sure / np.maximum(likely, 1), dtype=np.float64)


def cleaned(region: Region, smallest: int) -> Region | None:
    """A mask without holes and parts of fewer pixels (segment-anything, `remove_small_regions`).

    Args:
        region: of an image.
        smallest: pixels; a mask none of whose parts has as many is nothing.

    Returns:
        The mask within its tight box; None if nothing is left.
    """
    # With a margin, so that what lies outside of the box is one part of the background.
    inside = np.pad(region.inside, 1).astype(np.uint8)
    _, holes, stats, _ = cv2.connectedComponentsWithStats(1 - inside, connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] < smallest
    small[0] = False
    inside |= small[holes].astype(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= max(smallest, 1)
    large[0] = False
    return tight(replace(region, inside=large[parts][1:-1, 1:-1]))


def tight(region: Region) -> Region | None:
    """A mask within its tight box; None if it has no pixel."""
    box = region.box
    if box is None:
        return None
    x0, y0, x1, y1 = box
    inside = region.inside[y0 - region.top : y1 - region.top, x0 - region.left : x1 - region.left]
    return Region(region.size, y0, x0, inside.copy())


def suppress_boxes(boxes: NDArray[np.integer], scores: NDArray[np.float64], threshold: float) -> list[int]:
    """Greedy non-maximum suppression of boxes.

    Args:
        boxes: [N, 4], (x0, y0, x1, y1), x1 and y1 exclusive, none of them empty.
        scores: [N]; of equal ones the earlier one is better.
        threshold: a box whose IoU with a better one that stays is larger does not.

    Returns:
        Indices of those that stay, the best first.
    """
    order = np.argsort(-scores, kind="stable")
    areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).astype(np.float64)
    kept: list[int] = []
    while len(order):
        best, rest = int(order[0]), order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.maximum(high - low, 0).prod(axis=1)
        order = rest[shared <= threshold * (areas[best] + areas[rest] - shared)]
    return kept
