"""Dead leaves: random pictures of overlapping shapes, in place of the images that a base was trained on.

Their edges, occlusions and sizes have the statistics of natural images (Lee, Mumford and Huang, Occlusion models for
natural images, 2001), and networks learn from them what serves elsewhere too (Baradad et al., Learning to see by
looking at noise, 2021). What a base answers on them says much of what it knows, without an image of anyone.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

# Radii as shares of the picture's side; as many small leaves as large ones by area.
_RADII: Final = (0.04, 0.4)
_LEAVES: Final = (12, 60)
# Standard deviation of a leaf's gradient from side to side, of 255.
_SHADE: Final = 40.0
_FULL: Final = 255


def dead_leaves(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Draw a picture.

    Args:
        rng: the source of chance.
        size: side in pixels.

    Returns:
        [size, size, 3] RGB uint8, grey half of the time.
    """
    tint = 0.0 if rng.random() < 0.5 else float(rng.uniform(5, 60))
    count = int(rng.integers(*_LEAVES))
    picture = np.empty((size, size, 3), np.float32)
    picture[:] = _colour(rng, tint)
    place = np.linspace(-0.5, 0.5, size)
    for _ in range(count):
        cover = cv2.fillPoly(np.zeros((size, size), np.uint8), [_leaf(rng, size)], 1).astype(bool)
        # A gradient over the whole picture, of which the leaf shows a part.
        across, down = rng.normal(0, _SHADE, 2)
        shade = (across * place + down * place[:, None]).astype(np.float32)
        picture[cover] = _colour(rng, tint) + shade[cover, None]
    picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.5, 2.5)))  # type: ignore[assignment]
    noise = rng.standard_normal(picture.shape[:2], dtype=np.float32)[..., None]
    picture += np.float32(rng.uniform(0, 0.08) * _FULL) * noise
    return picture.round().clip(0, _FULL).astype(np.uint8)


def _colour(rng: np.random.Generator, tint: float) -> NDArray[np.float32]:
    """A grey whose channels differ by about `tint`, a standard deviation."""
    return (rng.uniform(0, _FULL) + rng.normal(0, 1, 3) * tint).astype(np.float32)


def _leaf(rng: np.random.Generator, size: int) -> NDArray[np.int32]:
    """The outline [N, 2] of a blob: an ellipse whose radius wavers."""
    # Density of 1 / r^3: each octave of radii covers the same area.
    low, high = _RADII
    radius = size / np.sqrt(rng.uniform(high**-2, low**-2))
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    orders = np.arange(2, 6)[:, None]
    waves = rng.normal(0, 0.15 / orders) * np.cos(orders * angle + rng.uniform(0, 2 * np.pi, (4, 1)))
    radii = radius * np.maximum(1 + waves.sum(axis=0), 0.2)
    points = rng.uniform(0, size, 2) + radii[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(points, dtype=np.int32)
