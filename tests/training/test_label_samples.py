"""Samples of semantic models: image and label go the same way, and points lie in the class that they name."""

import numpy as np
import pytest
from scipy import ndimage

from samsdk.transforms import Preprocessing
from samsdk_training.data import DataError, LabelledImage
from samsdk_training.label_samples import LabelSource, as_picture, epochs
from samsdk_training.pictures import CellAugmentation, Picture, TurnAugmentation


def banded(height: int = 48, width: int = 64) -> Picture:
    """An image whose grey is 60 times its class, so that whatever moves one without the other shows."""
    label = np.zeros((height, width), dtype=np.uint8)
    label[5:30, 8:25], label[20:44, 35:60] = 1, 2
    return Picture(label * 60, label)


def source(picture: Picture, augmentation=None, **changes) -> LabelSource:
    given = {"classes": 2, "label_side": 32, "points": 3, **changes}
    return LabelSource(lambda index: picture, Preprocessing(64), augmentation or TurnAugmentation(), **given)


def test_a_sample_is_a_function_of_its_number() -> None:
    one, other = source(banded()), source(banded())
    first = [one.sample(index) for index in range(6)]
    for index in reversed(range(6)):
        for got, expected in zip(other.sample(index)[:4], first[index][:4], strict=True):
            np.testing.assert_array_equal(got, expected)
    assert any(not np.array_equal(first[0].image, sample.image) for sample in first[1:])


@pytest.mark.parametrize("augmentation", [TurnAugmentation(), CellAugmentation(tone=0, zoom=1)])
def test_image_and_label_move_together(augmentation) -> None:
    for seed in range(20):
        image, label = augmentation.apply(banded(), np.random.default_rng(seed))
        # Away from borders, where scaling mixes the greys of two classes, also with what is just out of sight.
        inside = ndimage.minimum_filter(label, 3) == ndimage.maximum_filter(label, 3)
        inside[[0, -1]] = inside[:, [0, -1]] = False
        np.testing.assert_array_equal(image[inside], label[inside] * 60)
        assert label.max() == 2


def test_samed_s_rotation_is_small_and_its_turns_are_square() -> None:
    picture = banded()
    turned = [TurnAugmentation(1, 0).apply(picture, np.random.default_rng(seed)).label for seed in range(40)]
    ways = [np.flip(np.rot90(picture.label, k), axis) for k in range(4) for axis in (0, 1)]
    assert all(any(np.array_equal(one, way) for way in ways) for one in turned)
    assert len({one.tobytes() for one in turned}) == len({np.ascontiguousarray(way).tobytes() for way in ways})
    still = TurnAugmentation(0, 0).apply(picture, np.random.default_rng(0))
    assert still.label is picture.label
    rotated = [TurnAugmentation(0, 1).apply(picture, np.random.default_rng(seed)).label for seed in range(40)]
    shares = [float((one == picture.label).mean()) for one in rotated]
    assert min(shares) > 0.7
    assert min(shares) < 0.95


def test_labels_are_brought_to_the_logits_by_samed_s_rule() -> None:
    sample = source(banded(64, 64), TurnAugmentation(0, 0)).sample(0)
    np.testing.assert_array_equal(sample.label, ndimage.zoom(banded(64, 64).label, 0.5, order=0))
    full = source(banded(64, 64), TurnAugmentation(0, 0), label_side=64).sample(0)
    np.testing.assert_array_equal(full.label, banded(64, 64).label)


def test_points_lie_in_the_class_that_they_name() -> None:
    for index in range(10):
        sample = source(banded(), TurnAugmentation(0.5, 0.5), label_side=64).sample(index)
        assert sample.point_classes.tolist() == [1, 1, 1, 2, 2, 2]
        columns, rows = sample.points.astype(int).T
        assert sample.label[rows, columns].tolist() == sample.point_classes.tolist()
    empty = Picture(*(np.zeros((40, 40), dtype=np.uint8) for _ in range(2)))
    assert source(empty).sample(0).point_classes.tolist() == [-1] * 6


def test_a_small_image_in_the_middle_has_its_label_there_too() -> None:
    picture = banded(40, 40)
    centred = Preprocessing(64, rule="pad_center_or_resize")
    sample = LabelSource(lambda index: picture, centred, TurnAugmentation(0, 0), classes=2, label_side=64).sample(0)
    assert sample.frame.offset == (12, 12)
    np.testing.assert_array_equal(sample.label[12:52, 12:52], picture.label)
    assert np.count_nonzero(sample.label) == np.count_nonzero(picture.label)


def test_every_epoch_shows_each_picture_once_in_its_own_order() -> None:
    pictures = [Picture(np.full((4, 4), value, np.uint8), np.zeros((4, 4), np.uint8)) for value in range(7)]
    draw = epochs(pictures, seed=3)
    orders = [[int(draw(index).image[0, 0]) for index in range(start, start + 7)] for start in (0, 7, 14)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert orders[0] != orders[1]
    with pytest.raises(DataError, match="at least one image"):
        epochs([])


def test_labels_that_are_no_classes_are_refused() -> None:
    image = np.zeros((4, 4), dtype=np.uint8)
    label = np.array([[0, 1, 2, 3]] * 4)
    cells = LabelledImage("cells", image, label, instances=True)
    with pytest.raises(DataError, match="cells: its labels number objects"):
        as_picture(cells, "uint8_or_minmax", classes=3)
    with pytest.raises(DataError, match="expected labels from 0 to 2, got 0 to 3"):
        as_picture(LabelledImage("slice", image, label, instances=False), "uint8_or_minmax", classes=2)
    with pytest.raises(DataError, match="expected at most 255 classes, got 300"):
        as_picture(LabelledImage("slice", image, label, instances=False), "uint8_or_minmax", classes=300)
    united = as_picture(cells, "uint8_or_minmax", classes=1, union=True)
    assert united.label.tolist() == [[0, 1, 1, 1]] * 4


def test_the_cell_augmentation_survives_json_and_keeps_grey_images_grey() -> None:
    changed = CellAugmentation(zooms=(0.5, 2.0), tone=1.0)
    assert CellAugmentation.from_dict(changed.to_dict()) == changed
    with pytest.raises(ValueError, match="unknown fields"):
        CellAugmentation.from_dict({**changed.to_dict(), "blur": 1})
    grey = Picture(np.repeat(banded().image[..., None], 3, axis=2), banded().label)
    image = changed.apply(grey, np.random.default_rng(1)).image
    assert (image == image[..., :1]).all()
