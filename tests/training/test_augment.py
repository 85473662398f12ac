import json
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
from skimage import data

from samsdk.masks import mask_iou
from samsdk_training.augment import GEOMETRY, INTENSITY, PROBABILITIES, Augmentation, augment
from samsdk_training.data import tight_box

IDENTITY = Augmentation().with_probabilities(0)
# The frame shows the whole image unless a test says otherwise: nothing about the object limits the warp.
FREE = replace(IDENTITY, smallest=1e-3, largest=10.0, magnification=100.0, overhang=0.0, fewest=1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ellipse(shape: tuple[int, int] = (200, 200), centre=(100, 100), axes=(40, 25)) -> np.ndarray:
    canvas = np.zeros(shape, np.uint8)
    return cv2.ellipse(canvas, centre, axes, 20, 0, 360, 1, -1).astype(bool)


def square(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((200, 200), bool)
    mask[top:bottom, left:right] = True
    return mask


@cache
def tissue(size: int = 200) -> np.ndarray:
    return np.ascontiguousarray(data.immunohistochemistry()[:size, :size])


def only(config: Augmentation, *names: str, **values: object) -> Augmentation:
    return replace(config.with_probabilities(1, names), **values)


def test_same_generator_gives_the_same_bits() -> None:
    image, mask = tissue(), ellipse()
    for seed in range(20):
        first, second = (augment(image, mask, rng(seed), Augmentation(), 128) for _ in range(2))
        assert np.array_equal(first[0], second[0])
        assert np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], augment(image, mask, rng(77), Augmentation(), 128)[0])


def test_identity_changes_nothing() -> None:
    image, mask = tissue(), ellipse()
    pixels, found = augment(image, mask, rng(), IDENTITY, 200)
    assert np.array_equal(pixels, image)
    assert np.array_equal(found, mask)


def test_identity_resizes_by_area_and_repeats_grey() -> None:
    image = np.ascontiguousarray(data.cell()[:400, :300])
    pixels, found = augment(image, ellipse((400, 300)), rng(), IDENTITY, 200)
    expected = cv2.resize(image, (150, 200), interpolation=cv2.INTER_AREA)
    assert np.array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))
    assert np.array_equal(found, cv2.resize(ellipse((400, 300)).astype(np.float32), (150, 200), None, 0, 0, 3) >= 0.5)


@pytest.mark.parametrize(("angle", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_right_angles_equal_rot90(angle: float, turns: int) -> None:
    image, mask = tissue(), ellipse(centre=(80, 120))
    pixels, found = augment(image, mask, rng(), only(FREE, "rotate", angles=(angle, angle)), 200)
    assert np.abs(pixels.astype(int) - np.rot90(image, turns)).max() <= 1
    assert np.array_equal(found, np.rot90(mask, turns))


def test_flips_are_exact() -> None:
    image, mask = tissue(), ellipse(centre=(70, 120))
    for name, axis in (("flip_horizontal", 1), ("flip_vertical", 0)):
        pixels, found = augment(image, mask, rng(), only(IDENTITY, name), 200)
        assert np.array_equal(pixels, np.flip(image, axis))
        assert np.array_equal(found, np.flip(mask, axis))


@pytest.mark.parametrize("zoom", [0.4, 0.6, 1.0, 1.5, 2.2])
def test_area_grows_with_the_square_of_the_scale(zoom: float) -> None:
    mask = ellipse()
    for config in (only(FREE, "zoom", zooms=(zoom, zoom)), only(FREE, "zoom", "rotate", "shear", zooms=(zoom, zoom))):
        _, found = augment(tissue(), mask, rng(3), config, 200)
        assert found.sum() == pytest.approx(mask.sum() * zoom**2, rel=0.02)


def test_zoom_keeps_the_middle_in_the_middle() -> None:
    mask = square(80, 120, 80, 120)
    _, found = augment(tissue(), mask, rng(), only(FREE, "zoom", zooms=(2.0, 2.0)), 200)
    assert np.array_equal(found, square(60, 140, 60, 140))


def test_mask_follows_the_image() -> None:
    mask = ellipse((300, 240), (90, 180), (60, 35))
    config = replace(Augmentation().with_probabilities(0, INTENSITY), overhang=0.3)
    for seed in range(150):
        pixels, found = augment(mask.astype(np.uint8) * np.uint8(255), mask, rng(seed), config, 160)
        assert mask_iou(pixels[..., 0] >= 128, found) > 0.97


@pytest.mark.parametrize("image", [tissue(), data.cell()[:200, :200]], ids=["colour", "grey"])
def test_intensities_leave_the_mask_alone(image: np.ndarray) -> None:
    mask = ellipse()
    for name in INTENSITY:
        pixels, found = augment(image, mask, rng(5), only(IDENTITY, name), 200)
        assert np.array_equal(found, mask)
        colour_only = name in ("tint", "grey", "shuffle") and image.ndim == 2
        changed = not np.array_equal(pixels, image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))
        assert changed != colour_only, name


def test_values_of_intensities() -> None:
    image, mask = tissue(), ellipse()
    assert np.array_equal(augment(image, mask, rng(), only(IDENTITY, "invert"), 200)[0], 255 - image)
    grey = augment(image, mask, rng(), only(IDENTITY, "grey"), 200)[0]
    assert np.array_equal(grey[..., 1], cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    doubled = augment(image // 2, mask, rng(), only(IDENTITY, "tint", tints=(2.0, 2.0)), 200)[0]
    assert np.array_equal(doubled, image // 2 * 2)
    brighter = only(IDENTITY, "tone", gammas=(1, 1), contrasts=(1, 1), brightnesses=(0.2, 0.2))
    assert np.array_equal(augment(image, mask, rng(), brighter, 200)[0], np.minimum(image.astype(int) + 51, 255))
    shuffled = augment(image, mask, rng(1), only(IDENTITY, "shuffle"), 200)[0]
    assert np.array_equal(np.sort(shuffled, axis=2), np.sort(image, axis=2))


def test_levels_of_noise() -> None:
    flat, mask = np.full((200, 200), 100, np.uint8), ellipse()
    noisy = augment(flat, mask, rng(), only(IDENTITY, "noise", noises=(0.04, 0.04)), 200)[0][..., 0]
    assert noisy.mean() == pytest.approx(100, abs=0.3)
    assert noisy.std() == pytest.approx(10.2, rel=0.03)
    speckled = [
        augment(np.full_like(flat, value), mask, rng(), only(IDENTITY, "speckle"), 200)[0].std() for value in (50, 100)
    ]
    assert speckled[1] == pytest.approx(2 * speckled[0], rel=0.02)


def test_object_is_never_lost() -> None:
    image = tissue(240)
    speck = np.zeros((240, 240), bool)
    speck[2:8, 230:237] = True
    config = replace(Augmentation().with_probabilities(1, GEOMETRY), overhang=1.0)
    for seed in range(300):
        assert augment(image, speck, rng(seed), config, 96)[1].sum() > 0
        assert augment(image, speck, rng(seed), Augmentation(), 240)[1].sum() >= 24


def test_a_warp_that_loses_the_object_is_not_made() -> None:
    image, mask = tissue(), ellipse()
    config = only(FREE, "rotate", "zoom", fewest=200 * 200 + 1)
    pixels, found = augment(image, mask, rng(), config, 200)
    assert np.array_equal(pixels, image)
    assert np.array_equal(found, mask)


def test_a_thin_object_keeps_its_best_pixels_when_the_image_shrinks() -> None:
    line = np.zeros((200, 200), bool)
    line[100, 20:180] = True
    _, found = augment(tissue(), line, rng(), IDENTITY, 50)
    assert found.any(axis=1).nonzero()[0].tolist() == [25]
    assert found.sum() == 40


def test_share_of_the_object_is_within_bounds() -> None:
    config = only(Augmentation().with_probabilities(0, INTENSITY), "focus", "shift", "rotate", "reframe")
    config = replace(config, smallest=0.2, largest=0.7, overhang=0.0, zooms=(0.01, 1.0), magnification=100.0)
    image, mask = tissue(), ellipse(centre=(60, 50))
    for seed in range(300):
        _, found = augment(image, mask, rng(seed), config, 200)
        x0, y0, x1, y1 = tight_box(found)
        share = max((x1 - x0) / found.shape[1], (y1 - y0) / found.shape[0])
        # The bound counts whole pixels of the image, whose corners reach beyond the thresholded mask when rotated.
        assert 0.2 * 0.93 - 0.01 <= share <= 0.7 + 0.01


def test_magnification_is_limited() -> None:
    mask = ellipse(axes=(8, 8))
    config = only(FREE, "focus", smallest=0.9, largest=0.95, magnification=2.0)
    _, found = augment(tissue(), mask, rng(), config, 200)
    assert found.sum() == pytest.approx(mask.sum() * 4, rel=0.03)


def test_the_frame_lies_within_the_image_as_far_as_the_object_allows() -> None:
    mask = square(90, 110, 10, 30)
    _, found = augment(tissue(), mask, rng(), only(FREE, "zoom", zooms=(2.0, 2.0)), 200)
    # Doubled, the object begins 20 pixels from the image's left border: the frame begins at 0 to 20, so at 10.
    assert np.array_equal(found, square(80, 120, 10, 50))
    ramp = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    for seed in range(50):
        pixels, found = augment(ramp, mask, rng(seed), only(FREE, "zoom", "shift", zooms=(2.0, 2.0)), 200)
        assert found.sum() == pytest.approx(mask.sum() * 4, rel=0.01)
        # Doubled, a row climbs by half a step a pixel; a part beyond the border would be flat. The outermost pixels may
        # lie half on the border.
        assert np.abs(pixels[:, -2, 0].astype(int) - pixels[:, 1, 0] - 98.5).max() <= 1


def test_beyond_the_border_lies_the_mean_of_the_border() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[[0, -1]], image[1:-1, [0, -1]] = (40, 80, 120), (40, 80, 120)
    pixels, _ = augment(image, ellipse(), rng(), only(FREE, "zoom", zooms=(0.5, 0.5)), 200)
    assert (pixels[:49] == (40, 80, 120)).all()


def test_overhang_leaves_its_share_outside() -> None:
    config = only(FREE, "zoom", "shift", zooms=(1.9, 1.9), overhang=0.5)
    mask = square(50, 150, 50, 150)
    seen = [augment(tissue(), mask, rng(seed), config, 200)[1].sum() / 190**2 for seed in range(100)]
    assert 0.25 <= min(seen) < 0.5
    assert 0.95 < max(seen) <= 1.01


def test_reframe_changes_the_shape_and_not_the_longest_side() -> None:
    config, mask = only(FREE, "reframe", frame_shapes=(0.5, 0.5)), square(80, 120, 80, 120)
    pixels, found = augment(tissue(), mask, rng(), config, 200)
    assert np.abs(pixels.astype(int) - tissue()[:, 50:150]).max() <= 1
    assert np.array_equal(found, mask[:, 50:150])


def test_configuration_goes_to_json_and_is_checked() -> None:
    values = json.loads(json.dumps(Augmentation().to_dict()))
    assert values["angles"] == [-180.0, 180.0]
    restored = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    assert Augmentation(**restored) == Augmentation()
    assert all(values[name] == 0 for name in PROBABILITIES for values in [IDENTITY.to_dict()])
    with pytest.raises(ValueError, match=r"blur must lie within 0 to 1, got 2"):
        Augmentation(blur=2)
    with pytest.raises(ValueError, match=r"zooms must be \(low, high\) .* \(2, 1\)"):
        Augmentation(zooms=(2, 1))
    with pytest.raises(ValueError, match=r"smallest <= largest, got 0.5 and 0.2"):
        Augmentation(smallest=0.5, largest=0.2)


def test_a_mask_without_object_or_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(200, 200\) with an object, got \(200, 200\), 0 pixels"):
        augment(tissue(), np.zeros((200, 200), bool), rng(), IDENTITY, 200)
    with pytest.raises(ValueError, match=r"got \(100, 200\)"):
        augment(tissue(), ellipse((100, 200)), rng(), IDENTITY, 200)
