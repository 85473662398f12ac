"""Splitting: where the cut of two discs must run, and what must hold for any mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from samsdk.splitting import split_instances


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    return sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), centre, strict=True)) <= radius**2


def test_two_touching_discs_are_cut_at_the_neck() -> None:
    left, right = ball((40, 60), (20, 20), 10), ball((40, 60), (20, 37), 10)
    objects = split_instances(left | right)
    assert objects.max() == 2
    # The neck is at column 28.5, between the centres.
    columns = np.broadcast_to(np.arange(60), (40, 60))
    nearer = np.where(columns < 28.5, objects[20, 20], objects[20, 37])
    wrong = np.count_nonzero((left | right) & (objects != nearer))
    assert wrong <= 2
    assert np.array_equal(objects > 0, left | right)


def test_two_touching_balls() -> None:
    first, second = ball((24, 24, 40), (12, 12, 12), 8), ball((24, 24, 40), (12, 12, 25), 8)
    objects = split_instances(first | second)
    assert objects.max() == 2
    depths = np.broadcast_to(np.arange(40), objects.shape)
    nearer = np.where(depths < 18.5, objects[12, 12, 12], objects[12, 12, 25])
    assert np.mean((objects != nearer)[first | second]) < 0.01


def test_the_depth_decides_what_a_neck_is() -> None:
    # Radii of 10; half of the neck is sqrt(100 - 6^2) = 8: two pixels narrower.
    shape = ball((40, 60), (20, 20), 10) | ball((40, 60), (20, 32), 10)
    assert split_instances(shape, depth=1).max() == 2
    assert split_instances(shape, depth=4).max() == 1
    # Of unlike discs it is the smaller one that must stand out.
    unlike = ball((40, 60), (20, 20), 12) | ball((40, 60), (20, 36.5), 6)
    assert [split_instances(unlike, depth=depth).max() for depth in (1, 5)] == [2, 1]


def test_small_and_thin_objects_are_whole() -> None:
    mask = np.zeros((30, 30), bool)
    mask[2, 2] = True
    mask[10, 5:25] = True  # nowhere thicker than one pixel
    mask[20:24, 20:24] = True
    mask[24:28, 24:28] = True  # touches by a corner
    for depth in (0.5, 1, 3):
        objects = split_instances(mask, smallest=1, depth=depth)
        assert np.array_equal(objects > 0, mask)
        assert len(np.unique(objects[10, 5:25])) == 1
    dropped = split_instances(mask, smallest=10)
    assert dropped[2, 2] == 0
    assert set(np.unique(dropped)) == set(range(dropped.max() + 1))
    assert np.array_equal(dropped > 0, mask & (np.indices(mask.shape).sum(axis=0) > 4))
    assert split_instances(mask, smallest=21).max() <= 1


def test_full_and_empty_images() -> None:
    assert np.array_equal(split_instances(np.ones((12, 17), bool)), np.ones((12, 17)))
    assert not split_instances(np.zeros((12, 17), bool)).any()
    assert not split_instances(np.ones((3, 3), bool), smallest=10).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(((20, 24), (8, 9, 10))), st.sampled_from((0.5, 1.0, 2.0)))
def test_any_mask_is_parted_into_connected_objects(seed: int, shape: tuple[int, ...], depth: float) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 1.5)
    mask = noise > np.quantile(noise, 0.6)
    objects = split_instances(mask, smallest=1, depth=depth)
    assert objects.dtype == np.int32
    assert np.array_equal(objects > 0, mask)
    assert np.array_equal(np.unique(objects[mask]), np.arange(1, objects.max() + 1))
    corners = np.ones((3,) * mask.ndim)
    for one in range(1, objects.max() + 1):
        assert ndimage.label(objects == one, structure=corners)[1] == 1
    large = split_instances(mask, smallest=15, depth=depth)
    sizes = np.bincount(objects.ravel())
    assert np.array_equal(large > 0, mask & (sizes[objects] >= 15))


def test_wrong_calls() -> None:
    with pytest.raises(ValueError, match="expected a bool mask, got float64"):
        split_instances(np.ones((4, 4)))
    with pytest.raises(ValueError, match="depth above 0"):
        split_instances(np.ones((4, 4), bool), depth=0)
