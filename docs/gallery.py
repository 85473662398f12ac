"""Pictures of what the default model does and where it fails, on images that scikit-image carries: docs/gallery.png.

python docs/gallery.py
"""

from pathlib import Path

import cv2
import numpy as np
import skimage.data
import skimage.io
from numpy.typing import NDArray

import samsdk
from samsdk.io.images import write_png

OUTPUT = Path(__file__).parent / "gallery.png"
SIDE = 300
# (image, what, points, labels); the first row works, the second shows limits: on a fundus it was taught vessels and
# small lesions alone, and answers next to nothing for the rest.
SHOTS = (
    ("immunohistochemistry", "a gland", [(316, 400)], [1]),
    ("immunohistochemistry", "not the tissue beside it", [(316, 400), (200, 380)], [1, 0]),
    ("cell", "a cell", [(406, 376)], [1]),
    ("immunohistochemistry", "one nucleus of many", [(439, 324)], [1]),
    ("retina", "the optic disc", [(245, 647)], [1]),
    ("retina", "a vessel: thin, branching", [(390, 359)], [1]),
    ("retina", "the macula: no border", [(740, 700)], [1]),
    ("cell", "nothing there", [(60, 60)], [1]),
)


def shot(name: str, text: str, points: list[tuple[int, int]], labels: list[int]) -> NDArray[np.uint8]:
    """One picture: the mask's outline, the clicks, and what was meant, with the model's own score."""
    image = getattr(skimage.data, name)()
    result = samsdk.segment(image, points=points, labels=labels)
    canvas = result.overlay(image)
    for (x, y), label in zip(points, labels, strict=True):
        size = max(canvas.shape) // 60
        cv2.circle(canvas, (x, y), size, (0, 200, 0) if label else (220, 0, 0), -1)
        cv2.circle(canvas, (x, y), size, (255, 255, 255), max(1, size // 4))
    scale = SIDE / max(canvas.shape[:2])
    small = cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cell = np.full((SIDE + 26, SIDE, 3), 255, np.uint8)
    cell[: small.shape[0], : small.shape[1]] = small
    cv2.putText(cell, f"{text} ({result.score:.2f})", (4, SIDE + 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, 16)
    return cell


def main() -> None:
    """Draw all pictures in two rows."""
    cells = [shot(*one) for one in SHOTS]
    half = len(cells) // 2
    write_png(OUTPUT, np.vstack([np.hstack(cells[:half]), np.hstack(cells[half:])]))


if __name__ == "__main__":
    main()
