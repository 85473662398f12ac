"""Changes of grey values that keep the labels: tone, blur and noise."""

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk_training.synthesis.config import IntensityChange


def tone_curve(gamma: float, contrast: float, brightness: float, pivot: float = 0.0) -> NDArray[np.uint8]:
    """What each of the 256 grey values becomes, values 0 to 1.

    `clip(contrast * value^gamma + brightness)`; with a pivot p, `value^gamma - p^gamma` and `brightness + p^gamma`.

    Args:
        gamma: exponent, positive.
        contrast: factor; where it is positive, the curve never falls.
        brightness: offset, as share of white.
        pivot: the value, 0 to 1, at which the contrast changes nothing.

    Returns:
        [256] uint8.
    """
    level = pivot**gamma
    curve = contrast * (np.linspace(0, 1, 256) ** gamma - level) + level + brightness
    return np.asarray((curve.clip(0, 1) * 255).round(), dtype=np.uint8)


def change_intensity(
    image: NDArray[np.uint8],
    rng: np.random.Generator,
    change: IntensityChange,
    inside: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Draw one change and apply it.

    Args:
        image: [H, W] grey or [H, W, 3] RGB, uint8.
        rng: the only source of chance.
        change: what may happen.
        inside: [H, W], the pixels whose mean is the pivot, not empty; None takes all. The whole image changes.

    Returns:
        An image of the same shape, uint8.
    """
    low, high = np.log(change.gammas)
    gamma = float(np.exp(rng.uniform(low, high)))
    pivot = float((image if inside is None else image[inside]).mean()) / 255 if change.pivot == "mean" else 0.0
    curve = tone_curve(gamma, rng.uniform(*change.contrasts), rng.uniform(*change.brightnesses), pivot)
    changed = np.asarray(cv2.LUT(image, curve), dtype=np.uint8)
    if rng.random() < change.blur:
        deviation = rng.uniform(*change.blurs)
        # cv2 takes 0 for "find out", and a kernel this narrow has a single entry.
        if deviation > 0.05:
            changed = np.asarray(cv2.GaussianBlur(changed, (0, 0), deviation), dtype=np.uint8)
    if rng.random() < change.noise:
        level = np.float32(255 * rng.uniform(*change.noises))
        noisy = changed + level * rng.standard_normal(changed.shape, dtype=np.float32)
        changed = noisy.round().clip(0, 255).astype(np.uint8)
    if change.keep_black:
        changed[outside_body(image)] = 0
    return changed


def outside_body(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[H, W], where an image is 0 in all its channels."""
    return np.asarray(image == 0 if image.ndim == 2 else (image == 0).all(axis=2))
