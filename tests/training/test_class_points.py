import numpy as np
import pytest
from scipy import ndimage

from samsdk_training.class_points import ABSENT, joint_points, points_per_class


def label() -> np.ndarray:
    classes = np.zeros((40, 60), np.uint8)
    classes[0:20, 5:25] = 1
    classes[20:35, 5:25] = 2
    classes[10:12, 40:55] = 4  # two pixels high: nothing is left of it after an erosion
    return classes


def test_points_lie_in_the_eroded_mask_and_anywhere_in_it() -> None:
    classes = label()
    rng = np.random.default_rng(0)
    drawn = [points_per_class(classes, rng, 3) for _ in range(600)]
    assert all(list(one) == [1, 2, 4] for one in drawn)
    for value in (1, 2, 4):
        points = np.concatenate([one[value] for one in drawn]).astype(int)
        inner = ndimage.binary_erosion(classes == value)
        expected = inner if inner.any() else classes == value
        hits = np.zeros(classes.shape, int)
        np.add.at(hits, (points[:, 1], points[:, 0]), 1)
        assert not hits[~expected].any()
        # Uniform: 1800 points on at most 324 pixels, each is hit, and halves are hit alike.
        assert (hits[expected] > 0).mean() > 0.98
        left = expected & (np.arange(60) < np.median(np.nonzero(expected)[1]))[None]
        assert hits[left].sum() / 1800 == pytest.approx(left.sum() / expected.sum(), abs=0.05)


def test_a_larger_erosion_keeps_away_from_the_edge() -> None:
    points = np.concatenate([points_per_class(label(), np.random.default_rng(i), erosion=6)[1] for i in range(200)])
    # Rows 0 to 19, columns 5 to 24: more than six from the nearest pixel outside, the image's edge included.
    assert points.min(axis=0).tolist() == [11, 6]
    assert points.max(axis=0).tolist() == [18, 13]


def test_no_pixel_twice_unless_there_are_too_few() -> None:
    tiny = np.zeros((5, 5), np.uint8)
    tiny[2, 2:4] = 1
    assert sorted(points_per_class(tiny, np.random.default_rng(0), 2)[1].tolist()) == [[2, 2], [3, 2]]
    assert points_per_class(tiny, np.random.default_rng(0), 5)[1].shape == (5, 2)


def test_a_joint_row_has_a_place_for_every_class() -> None:
    rows = joint_points(label(), 5, np.random.default_rng(3), 2)
    assert rows.classes.tolist() == [1, 1, 2, 2, ABSENT, ABSENT, 4, 4, ABSENT, ABSENT]
    assert rows.points.shape == (10, 2)
    for (x, y), value in zip(rows.points.astype(int), rows.classes, strict=True):
        assert (label()[y, x] == value) if value != ABSENT else (x, y) == (0, 0)
    apart = points_per_class(label(), np.random.default_rng(3), 2)
    assert np.array_equal(rows.points[rows.classes == 4], apart[4])


def test_an_image_without_objects_has_no_points() -> None:
    nothing = np.zeros((5, 5), np.uint8)
    assert points_per_class(nothing, np.random.default_rng(0)) == {}
    assert joint_points(nothing, 2, np.random.default_rng(0)).classes.tolist() == [ABSENT, ABSENT]


def test_a_class_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 3, got 4"):
        joint_points(label(), 3, np.random.default_rng(0))
