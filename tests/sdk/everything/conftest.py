"""The published code of everything mode, and images of which every object is known."""

import types
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk


@pytest.fixture(scope="session")
def amg(published: Callable[[str], types.ModuleType]) -> types.ModuleType:
    """The module `utils.amg` of segment-anything."""
    return published("segment_anything.utils.amg")


@pytest.fixture(scope="session")
def student() -> samsdk.Predictor:
    """The model in the package."""
    return samsdk.load(device="cpu", threads=1)


def discs(
    size: tuple[int, int], centres: list[tuple[int, int]], radius: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Bright discs on dark noise, and the label map of them."""
    labels = np.zeros(size, np.int32)
    for number, centre in enumerate(centres, start=1):
        cv2.circle(labels, centre, radius, number, -1)
    noise = np.random.default_rng(0).normal(0, 4, size)
    image = cv2.GaussianBlur(np.where(labels > 0, 170.0, 30.0), (0, 0), 1.0) + noise
    return image.clip(0, 255).astype(np.uint8), labels


# Centres (x, y) of discs of radius 8 in an image of 192 x 256: some touch, two are cut by the image's border.
CENTRES = [(20, 24), (60, 30), (110, 22), (150, 40), (210, 30), (26, 80), (41, 84), (90, 90), (140, 100), (200, 96)]
CENTRES += [(30, 150), (80, 160), (128, 140), (128, 170), (180, 150), (0, 120), (230, 191)]


@pytest.fixture(scope="session")
def dish() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """17 discs, [192, 256]: the image and its label map."""
    return discs((192, 256), CENTRES, 8)


@pytest.fixture(scope="session")
def borders() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """9 discs of 16 pixels across in an image of 384 x 384: where tiles of 192 and 96 pixels begin and end, or near."""
    places = [96, 192, 288]
    return discs((384, 384), [(x, y) for y in places for x in places], 8)
