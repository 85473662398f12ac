"""Images with several of their objects: masks lie where the network sees the objects, whatever the geometry."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from samsdk.transforms import GEOMETRY_RULES, Preprocessing
from samsdk_training.augment import Augmentation
from samsdk_training.image_samples import ImageSource
from samsdk_training.samples import SampleSet

IDENTITY = Augmentation().with_probabilities(0.0)
SHADES = {1: 90, 2: 160, 3: 240}


def picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Three objects, each of one brightness, on black."""
    label = np.zeros((height, width), np.uint16)
    cv2.circle(label, (width // 4, height // 2), height // 6, 1, -1)
    label[height // 8 : height // 3, width // 2 : width - 4] = 2
    cv2.ellipse(label, (3 * width // 4, 3 * height // 4), (width // 6, height // 8), 0, 0, 360, 3, -1)
    image = np.zeros((height, width), np.uint8)
    for number, shade in SHADES.items():
        image[label == number] = shade
    return image, label


def source(folder: Path, size: tuple[int, int], preprocessing: Preprocessing, augmentation: Augmentation = IDENTITY):
    for part, array in zip(("images", "masks"), picture(*size), strict=True):
        (folder / part).mkdir(parents=True)
        cv2.imwrite(str(folder / part / "a.png"), array)
    (folder / "train.txt").write_text("a\n")
    return ImageSource([SampleSet(folder)], preprocessing, augmentation, seed=3, smallest=1)


@pytest.mark.parametrize("size", [(60, 100), (100, 60), (40, 50), (256, 192)])
@pytest.mark.parametrize("rule", GEOMETRY_RULES)
def test_masks_lie_where_the_network_sees_the_objects(tmp_path: Path, rule: str, size: tuple[int, int]) -> None:
    preprocessing = Preprocessing(64, rule, interpolation="nearest", normalisation="unit")
    drawn = source(tmp_path / "set", size, preprocessing)
    image, _ = picture(*size)
    images, masks = drawn.images(0, 4, 6)
    assert images.shape == (4, 3, 64, 64)
    assert masks.shape == (4, 6, 64, 64)
    if max(size) <= 128:
        assert np.array_equal(images[0], preprocessing.apply_image(image)[0][0])
    shades = set()
    for mask in masks[1]:
        seen = np.rint(images[1, 0] * 255)
        shade = np.median(seen[mask])
        shades.add(shade)
        whole = np.abs(seen - shade) < 20
        # Nearest and area disagree along the border by less than a pixel.
        assert (mask & whole).sum() / (mask | whole).sum() > 0.8
    assert shades <= set(SHADES.values())


def test_objects_are_drawn_anew_for_each_image_and_with_replacement(tmp_path: Path) -> None:
    drawn = source(tmp_path / "set", (60, 100), Preprocessing(64))
    seen = [[mask.sum() for mask in drawn.image(index, 5).masks] for index in range(30)]
    assert len({tuple(row) for row in seen}) > 10
    # Five out of three objects: some come twice, and each comes somewhere.
    assert len({value for row in seen for value in row}) == 3
    again = drawn.image(7, 5)
    first = drawn.image(7, 5)
    assert np.array_equal(again.masks, first.masks)
    assert np.array_equal(again.image, first.image)


def test_one_warp_moves_the_image_and_all_of_its_objects(tmp_path: Path) -> None:
    _, label = picture(76, 128)
    # Each object in a colour of its own, so that the picture shows where it went, to half a pixel.
    colours = np.stack([255 * (label == number) for number in SHADES], axis=-1).astype(np.uint8)
    still = ("tone", "invert", "tint", "grey", "shuffle", "low_resolution", "blur", "speckle", "noise")
    preprocessing = Preprocessing(64, normalisation="unit")
    drawn = source(tmp_path / "set", (76, 128), preprocessing, Augmentation().with_probabilities(0.0, still))
    cv2.imwrite(str(tmp_path / "set" / "images" / "a.png"), colours[..., ::-1])
    drawn = ImageSource([SampleSet(tmp_path / "set")], preprocessing, drawn.augmentation, seed=3, smallest=1)
    plain, _ = preprocessing.apply_image(colours)
    moved, several = 0, 0
    for index in range(40):
        sample = drawn.image(index, 4)
        moved += not np.array_equal(sample.image, plain[0])
        found = set()
        for mask in sample.masks:
            shown = sample.image > 0.5  # [3, 64, 64], one object in each
            overlap = (shown & mask).sum((1, 2)) / (shown | mask).sum((1, 2))
            assert overlap.max() > 0.97
            found.add(int(overlap.argmax()))
        several += len(found) > 1
    assert moved > 30
    assert several > 20


def test_chance_in_the_intensities_leaves_the_masks_alone(tmp_path: Path) -> None:
    preprocessing = Preprocessing(64, normalisation="unit")
    quiet = Augmentation().with_probabilities(0.0, ("tone", "invert", "low_resolution", "blur", "speckle", "noise"))
    one = source(tmp_path / "one", (120, 200), preprocessing, quiet)
    other = ImageSource([SampleSet(tmp_path / "one")], preprocessing, Augmentation(), seed=3, smallest=1)
    pairs = [(one.image(index, 4), other.image(index, 4)) for index in range(12)]
    assert all(np.array_equal(mine.masks, theirs.masks) for mine, theirs in pairs)
    assert sum(not np.array_equal(mine.image, theirs.image) for mine, theirs in pairs) > 6
