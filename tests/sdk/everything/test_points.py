"""Where to point: the published grid, and the spots of images in which every spot is known."""

import types

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk.everything import points
from samsdk.everything.points import grid_points, salient_points


@pytest.mark.parametrize("per_side", [1, 3, 32])
def test_the_grid_is_that_of_segment_anything(amg: types.ModuleType, per_side: int) -> None:
    wanted = amg.build_point_grid(per_side) * (60, 40)
    assert np.allclose(grid_points((40, 60), per_side).places, wanted)


@pytest.mark.parametrize("bright", [True, False])
@pytest.mark.parametrize("radius", [3, 8, 30])
def test_every_disc_gets_a_point_at_its_centre_and_of_its_size(radius: int, bright: bool) -> None:
    image = np.full((300, 400), 40, np.uint8)
    centres = [(70, 70), (200, 80), (330, 90), (90, 220), (255, 221)]
    for centre in centres:
        cv2.circle(image, centre, radius, 200, -1)
    found = salient_points(image if bright else 255 - image, 0.15)
    for centre in centres:
        apart = np.hypot(*(found.places - centre).T)
        near = int(apart.argmin())
        assert apart[near] <= max(1.0, 0.4 * radius)
        assert 0.6 < found.radii[near] / radius < 1.7


def test_a_few_small_objects_in_a_large_dark_image_stand_out() -> None:
    image = np.random.default_rng(0).normal(20, 3, (400, 400)).clip(0, 255).astype(np.uint8)
    centres = [(100, 90), (300, 120), (200, 333)]
    for centre in centres:
        cv2.circle(image, centre, 4, 220, -1)
    found = salient_points(image, 0.15)
    assert {int(np.hypot(*(np.array(centres) - place).T).argmin()) for place in found.places[:3]} == {0, 1, 2}
    assert all(np.hypot(*(np.array(centres) - place).T).min() < 2 for place in found.places[:3])


def test_colours_count_as_they_look() -> None:
    image = np.full((64, 64), 40, np.uint8)
    cv2.circle(image, (30, 33), 6, 200, -1)
    same = salient_points(np.repeat(image[..., None], 3, axis=2), 0.15)
    assert np.array_equal(same.places, salient_points(image, 0.15).places)


def test_nothing_stands_out_of_a_flat_image() -> None:
    assert len(salient_points(np.full((90, 80), 7, np.uint8), 0.15)) == 0


def test_blocks_change_nothing(tissue: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = salient_points(tissue[:300, :400], 0.1)
    monkeypatch.setattr(points, "_BLOCK", 64)
    blocks = salient_points(tissue[:300, :400], 0.1)
    assert len(whole) > 50
    assert np.array_equal(blocks.places, whole.places)
    assert np.array_equal(blocks.radii, whole.radii)
