import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from samsdk_training.simulate import border_distance, centre_point, correction, jittered_box, random_point


def disc(size: int, y: int, x: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[:size, :size]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def blobs(seed: int) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(40, 60)), 3)
    return noise > np.quantile(noise, 0.7)


@pytest.mark.parametrize("seed", range(5))
def test_border_distance_is_scipys_with_the_outside_as_background(seed: int) -> None:
    mask = blobs(seed)
    expected = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    np.testing.assert_allclose(border_distance(mask), expected, atol=1e-4)


def test_the_centre_point_is_the_deepest_pixel_in_x_y_order() -> None:
    assert centre_point(disc(50, y=12, x=33, radius=9)) == (33.0, 12.0)
    # A crescent's centre of mass lies outside it; the deepest pixel does not.
    crescent = disc(60, 30, 30, 20) & ~disc(60, 30, 38, 18)
    x, y = centre_point(crescent)
    assert crescent[int(y), int(x)]
    assert border_distance(crescent)[int(y), int(x)] == border_distance(crescent).max()


def test_an_object_that_fills_the_image_is_clicked_in_the_middle() -> None:
    assert centre_point(np.ones((21, 31), bool)) in {(float(x), 10.0) for x in range(10, 21)}


def test_random_points_lie_inside_and_away_from_the_edge() -> None:
    mask, rng = disc(60, 25, 35, 20), np.random.default_rng(0)
    points = [random_point(mask, rng, depth=0.5) for _ in range(300)]
    depths = [border_distance(mask)[int(y), int(x)] for x, y in points]
    assert min(depths) >= 0.5 * border_distance(mask).max()
    # They spread over the whole inner disc (radius about 10), not around its middle.
    assert np.ptp([x for x, _ in points]) > 14
    assert np.ptp([y for _, y in points]) > 14


def test_a_random_point_of_a_thin_line_is_on_it() -> None:
    line = np.zeros((9, 9), bool)
    line[4, 2:7] = True
    points = {random_point(line, np.random.default_rng(seed), depth=0) for seed in range(50)}
    assert points == {(float(x), 4.0) for x in range(2, 7)}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), jitter=st.floats(0, 1))
def test_jittered_boxes_stay_in_the_image_and_are_boxes(seed: int, jitter: float) -> None:
    mask = blobs(seed % 7)
    x0, y0, x1, y1 = jittered_box(mask, np.random.default_rng(seed), jitter)
    assert 0 <= x0 <= x1 - 1 <= 59
    assert 0 <= y0 <= y1 - 1 <= 39


def test_jitter_has_the_size_that_is_asked_for() -> None:
    mask = np.zeros((400, 400), bool)
    mask[100:200, 150:350] = True
    assert jittered_box(mask, np.random.default_rng(0), 0) == (150, 100, 350, 200)
    rng = np.random.default_rng(1)
    boxes = np.array([jittered_box(mask, rng, 0.1) for _ in range(4000)])
    np.testing.assert_allclose(boxes.mean(0), [150, 100, 350, 200], atol=1)
    # A normal distribution that is cut off at two deviations has 0.88 of one... and clipping piles a little up there.
    np.testing.assert_allclose(boxes.std(0), np.array([20, 10, 20, 10]) * 0.96, rtol=0.05)
    assert np.abs(boxes - [150, 100, 350, 200]).max(0).tolist() == pytest.approx([40, 20, 40, 20])


def test_corrections_name_the_largest_error_and_its_kind() -> None:
    truth = disc(80, 40, 40, 20)
    missed = truth & ~disc(80, 40, 50, 8)
    assert correction(missed, truth) == ((50.0, 40.0), 1)
    spilled = truth | disc(80, 8, 8, 6)
    assert correction(spilled, truth) == ((8.0, 8.0), 0)
    both = missed | disc(80, 8, 8, 5)
    assert correction(both, truth) == ((50.0, 40.0), 1)
    assert correction(truth, truth) is None


def test_random_corrections_fall_into_the_largest_error() -> None:
    truth = disc(80, 40, 40, 20)
    prediction = truth & ~disc(80, 40, 50, 8)
    rng = np.random.default_rng(0)
    clicks = [correction(prediction, truth, rng) for _ in range(50)]
    assert len(set(clicks)) > 10
    for (x, y), label in clicks:
        assert label == 1
        assert (prediction != truth)[int(y), int(x)]
