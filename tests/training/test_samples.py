from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from samsdk.transforms import Preprocessing
from samsdk_training.augment import Augmentation
from samsdk_training.data import DataError
from samsdk_training.samples import SampleSet, SampleSource, TrainingSample

IDENTITY = Augmentation().with_probabilities(0)
PREPROCESSING = Preprocessing(64)


def write_set(folder: Path, images: dict[str, tuple[np.ndarray, np.ndarray]], list_name: str = "train.txt") -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for name, (image, label) in images.items():
        cv2.imwrite(str(folder / "images" / f"{name}.png"), image if image.ndim == 2 else image[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), label)
    (folder / list_name).write_text("\n".join(images) + "\n")
    return folder


def classes(dtype: type = np.uint8) -> np.ndarray:
    label = np.zeros((60, 100), dtype)
    label[5:20, 5:25] = 1
    label[30:50, 10:40] = 1
    label[10:40, 60:90] = 3
    label[55:57, 95:98] = 3
    return label


@pytest.fixture
def colour_set(tmp_path: Path) -> Path:
    return write_set(tmp_path / "stain", {"a": (data.immunohistochemistry()[:60, :100], classes())})


@pytest.fixture
def grey_set(tmp_path: Path) -> Path:
    image = np.ascontiguousarray(data.cell()[200:260, 100:200])
    return write_set(tmp_path / "cells", {name: (image, classes(np.uint16)) for name in "abcd"}, "list.txt")


def assert_equal(first: TrainingSample, second: TrainingSample) -> None:
    for field in fields(TrainingSample):
        assert np.array_equal(getattr(first, field.name), getattr(second, field.name)), field.name


def test_a_sample_depends_on_nothing_but_its_number(colour_set: Path, grey_set: Path) -> None:
    sets = [SampleSet(colour_set), SampleSet(grey_set, "list.txt")]
    one, other = (SampleSource(sets, PREPROCESSING, Augmentation(), seed=4) for _ in range(2))
    backwards = {index: other.sample(index) for index in reversed(range(30))}
    for index in range(30):
        assert_equal(one.sample(index), backwards[index])
    another = SampleSource(sets, PREPROCESSING, Augmentation(), seed=5)
    assert not np.array_equal(another.sample(0).image, one.sample(0).image)


def test_unaugmented_samples_are_what_the_runtime_sees(colour_set: Path, grey_set: Path) -> None:
    source = SampleSource([SampleSet(colour_set), SampleSet(grey_set, "list.txt")], PREPROCESSING, IDENTITY)
    images = {
        "stain": np.ascontiguousarray(data.immunohistochemistry()[:60, :100]),
        "cells": np.ascontiguousarray(data.cell()[200:260, 100:200]),
    }
    expected = {name: PREPROCESSING.apply_image(image)[0][0] for name, image in images.items()}
    for sample in map(source.sample, range(20)):
        assert np.array_equal(sample.image, expected[sample.set_name])
        assert sample.resized_size == (38, 64)


def test_large_images_are_cached_at_twice_the_input(tmp_path: Path) -> None:
    image = data.immunohistochemistry()[:300, :500]
    label = cv2.resize(classes(), (500, 300), interpolation=cv2.INTER_NEAREST)
    source = SampleSource([SampleSet(write_set(tmp_path / "large", {"a": (image, label)}))], PREPROCESSING, IDENTITY)
    half = cv2.resize(np.ascontiguousarray(image), (128, 77), interpolation=cv2.INTER_AREA)
    assert np.array_equal(source.sample(0).image, PREPROCESSING.apply_image(half)[0][0])
    sums = {int(sample.mask.sum()) for sample in map(source.sample, range(30)) if not sample.semantic}
    # 20x15, 30x20 and 30x30 of 100x60, at 64 pixels for 100.
    for area in (300, 600, 900):
        assert min(abs(found - area * 0.64**2) / (area * 0.64**2) for found in sums) < 0.08


def test_padding_is_empty_in_image_and_mask(colour_set: Path) -> None:
    source = SampleSource([SampleSet(colour_set)], PREPROCESSING, Augmentation())
    padded = 0
    for sample in map(source.sample, range(100)):
        height, width = sample.resized_size
        assert max(height, width) == 64
        outside = np.ones((64, 64), bool)
        outside[:height, :width] = False
        assert not sample.image[:, outside].any()
        assert not sample.mask[outside].any()
        assert sample.mask.any()
        assert (sample.image.min(), sample.image.max()) == (0, 1)
        padded += bool(outside.any())
    assert padded > 90


def test_objects_are_components_and_unions_are_classes(colour_set: Path) -> None:
    preprocessing = Preprocessing(100)  # the image's own longest side: nothing is resized
    label = classes()
    objects = {(1, 300), (1, 600), (3, 900)}
    source = SampleSource([SampleSet(colour_set)], preprocessing, IDENTITY, smallest=10, semantic=0)
    assert {(sample.class_id, int(sample.mask.sum())) for sample in map(source.sample, range(60))} == objects
    source = SampleSource([SampleSet(colour_set)], preprocessing, IDENTITY, smallest=1, semantic=1)
    for sample in map(source.sample, range(20)):
        assert sample.semantic
        assert np.array_equal(sample.mask[:60], label == sample.class_id)
    assert SampleSource([SampleSet(colour_set)], preprocessing, IDENTITY, smallest=1).summary() == {
        "stain": {"images": 1, "objects": 4, "share": 1.0}
    }


def test_small_objects_are_counted_in_the_smaller_of_image_and_square(colour_set: Path) -> None:
    for size, counted in ((50, 900 / 4), (200, 900)):
        for smallest, objects in ((counted, 1), (counted + 1, 0)):
            sets = [SampleSet(colour_set)]
            if objects:
                source = SampleSource(sets, Preprocessing(size), IDENTITY, smallest=int(smallest))
                assert source.summary()["stain"]["objects"] == objects
            else:
                with pytest.raises(DataError, match=r"no image with an object of at least \d+ pixels"):
                    SampleSource(sets, Preprocessing(size), IDENTITY, smallest=int(smallest))


def test_instances_are_objects_of_one_class(grey_set: Path) -> None:
    source = SampleSource([SampleSet(grey_set, "list.txt")], Preprocessing(100), IDENTITY, semantic=0)
    assert {(sample.class_id, int(sample.mask.sum())) for sample in map(source.sample, range(60))} == {
        (1, 900),
        (1, 906),
    }


@pytest.mark.parametrize(("weight", "share"), [(1.0, 1 / 3), (4.0, 2 / 3)])
def test_sets_are_drawn_by_weight_and_root_of_size(
    colour_set: Path, grey_set: Path, weight: float, share: float
) -> None:
    sets = [SampleSet(colour_set, weight=weight), SampleSet(grey_set, "list.txt")]
    source = SampleSource(sets, Preprocessing(16), IDENTITY, smallest=1)
    count = 2000
    samples = [source.sample(index) for index in range(count)]
    drawn = sum(sample.set_name == "stain" for sample in samples)
    assert abs(drawn - count * share) < 3 * (count * share * (1 - share)) ** 0.5
    assert {sample.set_name: sample.weight for sample in samples} == pytest.approx({"stain": share, "cells": 1 - share})
    images = [sum(sample.image_name == name for sample in samples if sample.set_name == "cells") for name in "abcd"]
    expected = (count - drawn) / 4
    assert max(abs(found - expected) for found in images) < 3 * (expected * 0.75) ** 0.5


def test_classes_of_an_image_are_drawn_alike(colour_set: Path) -> None:
    source = SampleSource([SampleSet(colour_set)], Preprocessing(16), IDENTITY, smallest=1)
    drawn = sum(source.sample(index).class_id == 1 for index in range(1000))
    assert abs(drawn - 500) < 3 * 250**0.5


def test_batches_go_on_where_the_last_one_ended(colour_set: Path) -> None:
    source = SampleSource([SampleSet(colour_set)], PREPROCESSING, Augmentation())
    batch = source.batch(3, 4)
    assert batch.images.dtype == np.float32
    for place, sample in enumerate(batch.samples):
        assert_equal(sample, source.sample(12 + place))
        assert np.array_equal(batch.images[place], sample.image)
        assert np.array_equal(batch.masks[place], sample.mask)


def test_errors_name_the_set(colour_set: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere has no train\.txt"):
        SampleSource([SampleSet(tmp_path / "nowhere")], PREPROCESSING, IDENTITY)
    with pytest.raises(DataError, match=r"each once, got: none"):
        SampleSource([], PREPROCESSING, IDENTITY)
    with pytest.raises(DataError, match=r"each once, got: stain, stain"):
        SampleSource([SampleSet(colour_set)] * 2, PREPROCESSING, IDENTITY)
    with pytest.raises(DataError, match=r"weight of .*stain must be positive, got 0"):
        SampleSource([SampleSet(colour_set, weight=0)], PREPROCESSING, IDENTITY)
    (colour_set / "val.txt").write_text("")
    with pytest.raises(DataError, match=r"val\.txt of .*stain names no image"):
        SampleSource([SampleSet(colour_set, "val.txt")], PREPROCESSING, IDENTITY)


def test_image_and_mask_lie_alike_in_a_stretched_square(tmp_path: Path) -> None:
    """An image that is not square, in the geometry that squeezes it: the mask is squeezed too."""
    mask = np.zeros((40, 80), np.uint8)
    mask[10:30, 50:76] = 1
    folder = write_set(tmp_path / "wide", {"a": (mask * 200, mask)})
    sample = SampleSource([SampleSet(folder)], Preprocessing(64, rule="resize_square"), IDENTITY).sample(0)
    np.testing.assert_array_equal(sample.mask, sample.image[0] > 0.5)
    rows, columns = np.nonzero(sample.mask)
    assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == pytest.approx((16, 40, 48, 61), abs=1)
