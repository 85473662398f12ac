"""Splitting against scikit-image: its h-maxima and its watershed, with ties settled as `split_instances` says."""

import time
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from samsdk.splitting import _squared_distances, split_instances

SHAPES: Final = {2: ((1, 1), (1, 9), (20, 24), (41, 37)), 3: ((1, 7, 9), (8, 9, 10), (12, 5, 14))}


def oracle(mask: NDArray[np.bool_], *, smallest: int, depth: float, settled: bool = True) -> NDArray[np.int32]:
    """The same by scikit-image; where not settled, equal seeds are taken in the order of its heap."""
    padded = np.pad(mask, 1)
    distance = ndimage.distance_transform_edt(padded)
    components = label(padded, connectivity=mask.ndim)
    levelled = reconstruction(distance - depth, distance, footprint=np.ones((3,) * mask.ndim))
    seeds = local_maxima(levelled, connectivity=mask.ndim) & padded
    seeds |= padded & ~np.isin(components, np.unique(components[seeds]))
    markers = label(seeds, connectivity=mask.ndim)
    height = -np.rint(distance**2)
    if settled:
        # Seeds before others of one level, and among themselves in the order of the image.
        height[seeds] -= np.linspace(0.9, 0.1, np.count_nonzero(seeds))
    objects = watershed(height, markers, mask=padded, connectivity=mask.ndim)
    objects = objects[(slice(1, -1),) * mask.ndim]
    kept = [number for number in range(1, objects.max() + 1) if np.count_nonzero(objects == number) >= smallest]
    numbers = np.zeros(objects.max() + 1, dtype=np.int32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    return numbers[objects]


def discs(
    rng: np.random.Generator, shape: tuple[int, int], count: int, radii: tuple[float, float]
) -> NDArray[np.bool_]:
    """Discs anywhere, so that many touch or overlap."""
    rows, columns = np.indices(shape)
    mask = np.zeros(shape, dtype=np.bool_)
    for _ in range(count):
        y, x = rng.uniform(0, shape)
        mask |= (rows - y) ** 2 + (columns - x) ** 2 <= rng.uniform(*radii) ** 2
    return mask


def test_two_touching_discs_by_hand() -> None:
    rows = ["..###.....", ".#####.##.", ".########.", ".#####.##.", "..###....."]
    mask = np.array([[sign == "#" for sign in row] for row in rows])
    # Peaks of sqrt(8) and sqrt(2), a neck of 1.
    objects = split_instances(mask, smallest=1, depth=0.41)
    expected = ["..111.....", ".11111.22.", ".11111222.", ".11111.22.", "..111....."]
    assert ["".join(".12"[number] for number in row) for row in objects] == expected
    assert split_instances(mask, smallest=1, depth=0.42).max() == 1
    kept = split_instances(mask, smallest=8, depth=0.41)
    assert np.array_equal(kept, np.where(objects == 1, 1, 0))


@pytest.mark.parametrize("settled", [True, False])
def test_nuclei_are_split_as_by_scikit_image(settled: bool) -> None:
    rng = np.random.default_rng(5)
    split, differing, foreground = 0, 0, 0
    for _ in range(4):
        mask = discs(rng, (128, 160), 30, (4, 14))
        objects = split_instances(mask, smallest=10, depth=1.0)
        expected = oracle(mask, smallest=10, depth=1.0, settled=settled)
        assert objects.max() == expected.max()
        split += objects.max() - ndimage.label(mask, np.ones((3, 3)))[1]
        differing += np.count_nonzero(objects != expected)
        foreground += np.count_nonzero(mask)
    assert split > 20  # the masks are such that there is something to split
    assert differing == 0 if settled else differing < 0.001 * foreground


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from((*SHAPES[2], *SHAPES[3])),
    st.sampled_from((0.0, 0.7, 1.5)),
    st.sampled_from((0.3, 0.6, 0.9)),
    st.sampled_from((0.25, 0.5, 1.0, 2.0, 2.5)),
    st.sampled_from((1, 10)),
)
def test_any_mask_is_split_as_by_scikit_image(
    seed: int, shape: tuple[int, ...], smooth: float, share: float, depth: float, smallest: int
) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), smooth)
    mask = noise >= np.quantile(noise, 1 - share)
    expected = oracle(mask, smallest=smallest, depth=depth)
    assert np.array_equal(split_instances(mask, smallest=smallest, depth=depth), expected)


@pytest.mark.parametrize("shape", [(700, 900), (40, 50, 60)])
def test_distances_are_exact(shape: tuple[int, ...]) -> None:
    mask = np.pad(np.random.default_rng(1).random(shape) > 1e-5, 1)
    expected = np.rint(ndimage.distance_transform_edt(mask) ** 2)
    assert expected.max() > 100
    assert np.array_equal(_squared_distances(mask), expected.ravel())


def test_many_objects_are_split_fast() -> None:
    rows, columns = np.indices((40, 20))
    pair = np.minimum(abs(rows - 12), abs(rows - 25)) ** 2 + (columns - 10) ** 2 <= 49
    mask = np.tile(pair, (16, 32))
    start = time.process_time()
    objects = split_instances(mask)
    # It takes a third of a second; the bound is for slow machines and still far below a loop over objects.
    assert time.process_time() - start < 3
    assert objects.max() == 2 * 16 * 32
    assert np.array_equal(objects > 0, mask)
    assert set(np.bincount(objects.ravel())[1:].tolist()) == {np.count_nonzero(pair) // 2}


def test_a_mask_of_other_axes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 or 3 axes, got shape \[4\]"):
        split_instances(np.ones(4, np.bool_))
