import math

import numpy as np
import pytest
from skimage import data

from samsdk_training.synthesis import IntensityChange
from samsdk_training.synthesis.intensity import change_intensity, tone_curve

IMAGE = np.ascontiguousarray(data.camera()[100:200, 200:300])
PLAIN = IntensityChange(gammas=(1, 1), contrasts=(1, 1), brightnesses=(0, 0), noise=0, blur=0)


def test_curves_by_hand() -> None:
    assert tone_curve(1, 1, 0).tolist() == list(range(256))
    curve = tone_curve(2, 1.2, -0.1)
    for value in (0, 100, 200, 255):
        expected = min(max(1.2 * (value / 255) ** 2 - 0.1, 0), 1) * 255
        assert curve[value] == round(expected)
    # About a pivot, the pivot itself only brightens.
    assert tone_curve(1, 3, 0.1, pivot=100 / 255)[100] == round(100 + 25.5)


def test_the_order_of_grey_values_is_kept() -> None:
    rng = np.random.default_rng(0)
    for pivot in ("black", "mean"):
        change = IntensityChange(noise=0, blur=0, pivot=pivot)  # type: ignore[arg-type]
        ramp = np.arange(256, dtype=np.uint8)[None].repeat(3, axis=0)
        changed = np.stack([change_intensity(ramp, rng, change)[0] for _ in range(200)]).astype(int)
        assert (np.diff(changed, axis=1) >= 0).all()
        # ... and the curves differ.
        assert changed.std(axis=0).min() > 5


def test_gamma_lies_within_its_range_and_as_often_below_one_as_above() -> None:
    rng = np.random.default_rng(1)
    change = IntensityChange(contrasts=(1, 1), brightnesses=(0, 0), noise=0, blur=0)
    middle = np.full((1, 1), 128, np.uint8)
    values = np.array([change_intensity(middle, rng, change)[0, 0] for _ in range(400)]) / 255
    gammas = np.log(values) / math.log(128 / 255)
    assert math.exp(-0.5) - 0.01 < gammas.min() < 0.65
    assert 1.55 < gammas.max() < math.exp(0.5) + 0.02
    assert 0.4 < (gammas < 1).mean() < 0.6


def test_noise_has_the_strength_it_says() -> None:
    flat = np.full((200, 200), 128, np.uint8)
    change = IntensityChange(**{**vars(PLAIN), "noise": 1.0, "noises": (0.04, 0.04)})
    noisy = change_intensity(flat, np.random.default_rng(0), change)
    assert noisy.std() == pytest.approx(0.04 * 255, rel=0.03)
    assert noisy.mean() == pytest.approx(128, abs=0.3)


def test_blur_has_the_width_it_says() -> None:
    point = np.zeros((41, 41), np.uint8)
    point[20, 20] = 255
    change = IntensityChange(**{**vars(PLAIN), "blur": 1.0, "blurs": (2.0, 2.0)})
    blurred = change_intensity(point, np.random.default_rng(0), change).astype(float)
    place = np.arange(41) - 20
    assert math.sqrt((blurred.sum(axis=0) * place**2).sum() / blurred.sum()) == pytest.approx(2.0, abs=0.25)


def test_black_stays_black_where_it_should() -> None:
    image = IMAGE.copy()
    image[:40] = 0
    bright = IntensityChange(brightnesses=(0.15, 0.15), noise=1.0, noises=(0.05, 0.05), blur=1.0, blurs=(2, 2))
    kept = IntensityChange(**{**vars(bright), "keep_black": True})
    rng = np.random.default_rng(0)
    assert change_intensity(image, rng, bright)[:40].mean() > 30
    assert not change_intensity(image, rng, kept)[:40].any()
    assert change_intensity(image, rng, kept)[41:].mean() > 60


def test_the_pivot_is_the_mean_of_the_pixels_inside() -> None:
    image = np.array([[40, 60], [200, 240]], np.uint8)
    inside = np.array([[True, True], [False, False]])
    change = IntensityChange(gammas=(1, 1), contrasts=(2, 2), brightnesses=(0, 0), noise=0, blur=0, pivot="mean")
    rng = np.random.default_rng(0)
    assert change_intensity(image, rng, change, inside).tolist() == [[30, 70], [255, 255]]
    assert change_intensity(image, rng, change).tolist() == [[0, 0], [255, 255]]


def test_colours_change_alike() -> None:
    image = np.ascontiguousarray(data.astronaut()[:50, :50])
    change = IntensityChange(noise=0, blur=0)
    changed = change_intensity(image, np.random.default_rng(5), change)
    for channel in range(3):
        grey = np.ascontiguousarray(image[..., channel])
        assert np.array_equal(changed[..., channel], change_intensity(grey, np.random.default_rng(5), change))
