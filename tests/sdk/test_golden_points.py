"""When the points of a backend count as those of the original model."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk import BundleError, Embedding
from samsdk.golden_points import GoldenPoints, PointParity, measure_points, thin
from samsdk.point_selection import PointSelection, select_points
from samsdk.transforms import Preprocessing

# An image of 512 in a square of 256: a pixel of the map is two of the image.
FRAME = Preprocessing(256, rule="resize_square").frame((512, 512))
SELECTION = PointSelection(positives=30, negatives=8)


def discs(*centres: tuple[int, int]) -> NDArray[np.float32]:
    rows, columns = np.ogrid[:256, :256]
    image = np.zeros((256, 256), np.float32)
    for x, y in centres:
        image[(columns - x) ** 2 + (rows - y) ** 2 <= 36] = 0.9
    return image


GRID = [(x, y) for y in range(20, 240, 50) for x in range(20, 200, 50)]
MAP = discs(*GRID)


def measure(probabilities: NDArray[np.float32], selection: PointSelection = SELECTION) -> PointParity:
    golden = GoldenPoints(thin(MAP), *select_points(MAP, FRAME, selection))
    embedding = Embedding({}, FRAME, "a@0", "cpu", point_probabilities=probabilities.copy())
    return measure_points([embedding], [golden], selection)


def test_the_same_map_gives_the_same_points() -> None:
    assert measure(MAP) == PointParity(True, 0.0, 28, 0, 20, 0)
    assert thin(MAP).shape == (64, 64)
    assert thin(MAP[:40, :40]).shape == (40, 40)
    assert thin(np.zeros((100, 100), np.float32)).shape == (50, 50)


def test_probabilities_are_held_to_a_thousandth() -> None:
    assert measure(MAP * np.float32(0.9995)).passed
    parity = measure(MAP * np.float32(0.99))
    assert (parity.passed, parity.moved) == (False, 0)
    assert parity.max_probability_difference == pytest.approx(0.009, abs=1e-6)


def test_points_may_move_by_a_pixel_of_the_map_and_no_further() -> None:
    x, y = GRID[0]
    # Kept rows and columns are every fourth: the changes are between them.
    near, far = MAP.copy(), MAP.copy()
    near[y + 7, x - 1 : x + 2] = 0.9
    assert y + 7 == 27
    assert (measure(near).positives_moved, measure(near).passed) == (0, True)
    far[y + 7 : y + 40, x + 1] = 0.9
    parity = measure(far)
    assert (parity.max_probability_difference, parity.positives_moved) == (0.0, 1)
    # One of twenty is within a tenth.
    assert parity.passed


def test_more_than_a_tenth_of_the_points_on_objects_may_not_move() -> None:
    parity = measure(discs(*GRID[3:]))
    assert (parity.positives, parity.positives_moved, parity.passed) == (20, 3, False)
    more = measure(discs(*GRID, (220, 20), (220, 70), (220, 120)))
    assert (more.positives, more.positives_moved, more.passed) == (20, 3, False)


def test_the_most_probable_pixels_are_told_and_not_held() -> None:
    probable = replace(SELECTION, strategy="probability", min_distance=10.0)
    shifted = MAP.copy()
    # By less than the bound, and yet other pixels are the most probable ones.
    shifted[1::2, 1::2] += np.float32(5e-4) * (MAP[1::2, 1::2] > 0)
    parity = measure(shifted, probable)
    assert parity.positives_moved > 0
    assert parity.passed


def test_each_image_needs_its_points() -> None:
    embedding = Embedding({}, FRAME, "a@0", "cpu", point_probabilities=MAP.copy())
    with pytest.raises(BundleError, match=r"golden_points.npz tells of 0 images, the bundle has 1"):
        measure_points([embedding], [], SELECTION)
