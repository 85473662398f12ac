"""The image, the weights and the sampling of the TinyViT goldens, shared by the script that makes them and the test.

Only additions, products, square roots and uniform draws are used, so every platform gets the same bits.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

SEED = 20240722
SIDE = 256

SAMPLE = (0, slice(None, None, 5), slice(None, None, 3), slice(None, None, 3))
"""What is kept of an embedding [1, 256, 64, 64]: 3 and 5 share no factor with the windows of 7 and 14, so that every
position within a window is met."""


def image() -> NDArray[np.float32]:
    """Draw a picture with flat areas, edges, a ramp, a texture and some noise: [1, 3, 256, 256], in [0, 1]."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    ramp = x / 255
    discs = sum((((x - cx) ** 2 + (y - cy) ** 2) < r * r) * v for cx, cy, r, v in DISCS)
    checks = ((x // 8 + y // 8) % 2) * (y > 192)
    noise = np.random.default_rng(SEED).random((3, SIDE, SIDE))
    channels = [0.5 * ramp + 0.5 * discs, 0.3 * discs + 0.4 * checks, 0.6 * (1 - ramp) + 0.2 * checks]
    picture = 0.9 * np.stack(channels) + 0.1 * noise
    return picture.clip(0, 1).astype(np.float32)[None]


DISCS = ((70, 60, 40, 0.9), (170, 90, 55, 0.5), (180, 95, 20, 0.4), (120, 170, 12, 1.0), (30, 150, 5, 0.7))
"""Centre x, centre y, radius, brightness."""


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    """Draw every tensor of a state dict, in the order of the sorted keys, each from its own seed.

    Matrices and kernels keep the scale of what flows through them; nothing is left at the value of a new model, so that
    a forgotten bias, statistic or norm shows.
    """
    drawn: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {}
    for index, key in enumerate(sorted(shapes)):
        shape = shapes[key]
        unit = 2 * np.random.default_rng((SEED, index)).random(shape) - 1  # in [-1, 1)
        if key.endswith("num_batches_tracked"):
            drawn[key] = np.zeros(shape, np.int64)
            continue
        if key.endswith("attention_biases"):
            values = 2 * unit
        elif len(shape) > 1:
            values = unit * np.sqrt(3 / np.prod(shape[1:]))
        elif key.endswith("running_var"):
            values = 1 + 0.5 * unit
        elif key.endswith("weight"):
            values = 1 + 0.3 * unit
        else:
            values = 0.2 * unit
        drawn[key] = values.astype(np.float32)
    return drawn


def digest(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """Hash arrays, to tell a changed random generator from a wrong model."""
    total = hashlib.sha256()
    for key in sorted(arrays):
        total.update(key.encode())
        total.update(np.ascontiguousarray(arrays[key]).tobytes())
    return total.hexdigest()
