"""Which pixel belongs to which object, against a plain account of the rule."""

import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk.everything.labelling import labelled_instances, numbered_regions, resolve_overlaps
from samsdk.masks import Region

SIZE = (30, 40)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Region:
    return Region(SIZE, y0, x0, np.ones((y1 - y0, x1 - x0), bool))


def reference(masks: list[NDArray[np.bool_]], overlap: float, smallest: int) -> tuple[NDArray[np.int32], list[int]]:
    """The rule in whole images: what is kept, as sets of pixels."""
    owned: list[NDArray[np.bool_]] = []
    chosen = []
    for index, mask in enumerate(masks):
        taken = np.logical_or.reduce([np.zeros(SIZE, bool), *owned])
        free = mask & ~taken
        if (mask & taken).sum() / mask.sum() > overlap or free.sum() < smallest:
            continue
        if any((mask & other).sum() / other.sum() > overlap for other in owned):
            continue
        owned.append(free)
        chosen.append(index)
    labels = np.zeros(SIZE, np.int32)
    for number, mask in enumerate(owned, start=1):
        labels[mask] = number
    return labels, chosen


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 1.0])
def test_it_is_what_the_rule_says(overlap: float) -> None:
    rng = np.random.default_rng(int(10 * overlap))
    regions = []
    for _ in range(60):
        (x0, y0), (width, height) = rng.integers(0, (34, 24)), rng.integers(2, 15, 2)
        inside = rng.random((min(height, 30 - y0), min(width, 40 - x0))) < 0.8
        inside[0, 0] = True
        regions.append(Region(SIZE, int(y0), int(x0), inside))
    labels, chosen = resolve_overlaps(regions, SIZE, overlap, 3)
    wanted, kept = reference([one.full() for one in regions], overlap, 3)
    assert chosen == kept
    assert np.array_equal(labels, wanted)
    assert 3 < len(chosen) < 60


def test_of_nested_masks_the_better_one_stays() -> None:
    nucleus, cell = rectangle(10, 10, 16, 16), rectangle(4, 4, 24, 24)
    assert resolve_overlaps([nucleus, cell], SIZE, 0.5, 1)[1] == [0]
    assert resolve_overlaps([cell, nucleus], SIZE, 0.5, 1)[1] == [0]
    # Unless all are wanted: then the cell is what the nucleus leaves of it.
    labels, chosen = resolve_overlaps([nucleus, cell], SIZE, 1.0, 1)
    assert chosen == [0, 1]
    assert np.bincount(labels.ravel()).tolist() == [1200 - 400, 36, 364]


def test_masks_that_overlap_a_little_share_no_pixel() -> None:
    left, right = rectangle(0, 0, 10, 10), rectangle(8, 0, 20, 10)
    labels, chosen = resolve_overlaps([right, left], SIZE, 0.5, 1)
    assert chosen == [0, 1]
    found = labelled_instances(labels, [(right, 0.9, 0.8), (left, 0.7, 0.6)])
    assert [one.area for one in found] == [120, 80]
    assert [one.box for one in found] == [(8, 0, 20, 10), (0, 0, 8, 10)]
    assert [(one.number, one.score, one.stability) for one in found] == [(1, 0.9, 0.8), (2, 0.7, 0.6)]
    for one in found:
        assert np.array_equal(one.region.full(), labels == one.number)


def test_a_label_map_comes_back_from_its_regions() -> None:
    labels = np.zeros(SIZE, np.int32)
    labels[3:9, 5:20] = 2
    labels[5:7, 10:12] = 1
    labels[20, 3] = labels[25, 9] = 3
    regions = numbered_regions(labels)
    assert [one.area for one in regions] == [4, 86, 2]
    assert np.array_equal(sum(number * one.full() for number, one in enumerate(regions, start=1)), labels)
    assert numbered_regions(np.zeros(SIZE, np.int32)) == []
