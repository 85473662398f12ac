"""Moved prompts, and how far the answers to them agree."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk.masks import Region, mask_iou
from samsdk.measuring import measure
from samsdk.measuring.perturbation import perturbed
from samsdk.measuring.stability import agreement, ranges
from samsdk.prompts import Prompt

WINDOW = (0, 0, 100, 80)
NOTHING = np.zeros((80, 100), dtype=np.bool_)


def disc(radius: float, x: float = 50, y: float = 40) -> NDArray[np.bool_]:
    rows, columns = np.indices((80, 100))
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def region_of(mask: NDArray[np.bool_]) -> Region:
    """Stored over its own box, as the runtime has it."""
    whole = Region((80, 100), 0, 0, mask)
    if whole.box is None:
        return Region((80, 100), 0, 0, np.zeros((0, 0), dtype=np.bool_))
    x0, y0, x1, y1 = whole.box
    return Region((80, 100), y0, x0, mask[y0:y1, x0:x1])


def test_box_sides_move_by_a_share_of_the_box() -> None:
    prompt = Prompt(box=(20, 30, 60, 50))
    moved = perturbed(prompt, region_of(disc(10)), WINDOW, np.random.default_rng(0), count=4000, amount=0.05)
    boxes = np.array([one.box for one in moved])
    shift = (boxes - (20, 30, 60, 50)) / (40, 20, 40, 20)
    assert np.abs(shift).max() <= 0.1 + 1e-12
    np.testing.assert_allclose(shift.mean(axis=0), 0, atol=0.004)
    # A normal distribution that is cut to its value at two standard deviations keeps 0.9596 of its own.
    np.testing.assert_allclose(shift.std(axis=0), 0.05 * 0.9596, rtol=0.04)


def test_the_same_seed_gives_the_same_prompts_and_another_others() -> None:
    prompt = Prompt([(50, 40), (5, 5)], [1, 0], (30, 20, 70, 60))
    first, again, other = (
        perturbed(prompt, region_of(disc(18)), WINDOW, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert len(first) == 8
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one.points, same.points)
        np.testing.assert_array_equal(one.box, same.box)
        assert not np.array_equal(one.box, different.box)
        assert one.labels == [1, 0]


def test_points_stay_on_what_they_were_on() -> None:
    mask = disc(18)
    prompt = Prompt([(67, 40), (50, 40), (70, 40)], [1, 1, 0])
    moved = np.array(
        [
            one.points
            for one in perturbed(prompt, region_of(mask), WINDOW, np.random.default_rng(0), count=300, amount=0.1)
        ]
    )
    rows, columns = moved[..., 1].astype(int), moved[..., 0].astype(int)
    on = mask[rows, columns]
    assert on[:, :2].all()
    assert not on[:, 2].any()
    # The mask is 37 pixels wide.
    assert np.abs(moved[:, 1] - (50, 40)).max() <= 0.2 * 37
    assert moved[:, 1].std(axis=0) == pytest.approx([0.096 * 37] * 2, rel=0.15)


def test_nothing_leaves_the_window() -> None:
    window = (10, 10, 60, 50)
    prompt = Prompt([(59, 49), (10, 10)], [1, 0], (10, 10, 60, 50))
    for one in perturbed(prompt, region_of(disc(18)), window, np.random.default_rng(0), count=200, amount=0.3):
        points, box = np.asarray(one.points), np.asarray(one.box)
        assert (points >= (10, 10)).all()
        assert (np.floor(points) + 1 <= (60, 50)).all()
        assert (box >= (10, 10, 10, 10)).all()
        assert (box <= (60, 50, 60, 50)).all()
        assert box[2] - box[0] >= 1 - 1e-9
        assert box[3] - box[1] >= 1 - 1e-9


def test_what_was_not_given_is_not_made_up() -> None:
    logits = np.zeros((128, 128), dtype=np.float32)
    [one] = perturbed(Prompt(mask=logits), region_of(disc(18)), WINDOW, np.random.default_rng(0), count=1)
    assert one.mask is logits
    assert one.kinds == ("mask",)
    # Nothing was found: nothing says how large the object is.
    empty = region_of(NOTHING)
    [one] = perturbed(Prompt([3, 4]), empty, WINDOW, np.random.default_rng(0), count=1)
    np.testing.assert_array_equal(one.points, [[3, 4]])


def test_a_negative_amount_is_refused() -> None:
    with pytest.raises(ValueError, match=r"amount must not be negative, got -0\.1"):
        perturbed(Prompt(box=(0, 0, 9, 9)), region_of(disc(9)), WINDOW, np.random.default_rng(0), amount=-0.1)


def test_agreement_is_the_mean_iou() -> None:
    masks = [disc(20), disc(20, 53), disc(12, 80, 60), disc(4, 5, 5), NOTHING]
    first, *others = (region_of(mask) for mask in masks)
    expected = np.mean([mask_iou(masks[0], mask) for mask in masks[1:]])
    assert agreement(first, others) == pytest.approx(float(expected))
    assert agreement(first, [first]) == 1.0
    assert agreement(others[-1], [others[-1]]) == 1.0


def test_ranges_are_percentiles_of_what_all_have() -> None:
    values = [{"area_px2": float(number), "perimeter_px": 1.0} for number in range(101)]
    assert ranges(values) == {"area_px2": (5.0, 95.0), "perimeter_px": (1.0, 1.0)}
    assert ranges([{"area_px2": 0.0}, {"area_px2": 4.0, "longest_diameter_px": 2.0}]) == {
        "area_px2": pytest.approx((0.2, 3.8))
    }


def test_an_unstable_mask_shows_itself() -> None:
    region = region_of(disc(20))
    steady = measure(region, (0.5, 0.5), [region_of(disc(radius)) for radius in (19.9, 20, 20.2)])
    shaky = measure(region, (0.5, 0.5), [region_of(disc(radius)) for radius in (8, 20, 31)])
    assert steady.stability.agreement > 0.97
    assert shaky.stability.agreement < 0.6
    low, high = shaky.stability.ranges["ellipse_circumference_mm"]
    # Linear between the four values: 15 % of the way from the smallest to the next, and as much from the largest.
    assert low == pytest.approx(math.pi * (8 + 0.15 * 12), rel=0.02)
    assert high == pytest.approx(math.pi * (31 - 0.15 * 11), rel=0.02)
    assert shaky.values() == measure(region, (0.5, 0.5)).values()
    assert shaky.to_dict()["stability"]["ranges"]["area_px2"] == list(shaky.stability.ranges["area_px2"])


def test_the_default_model_is_sure_of_a_disc_and_of_nothing_in_noise() -> None:
    predictor = samsdk.load(device="cpu", threads=1)
    rng = np.random.default_rng(0)
    rows, columns = np.indices((300, 400))
    inside = (columns - 180) ** 2 + (rows - 140) ** 2 <= 40**2
    images = [np.where(inside, 200, 40) + rng.normal(0, 8, (300, 400)), rng.normal(120, 30, (300, 400))]
    found = []
    for image in images:
        pixels = image.clip(0, 255).astype(np.uint8)
        prompt = Prompt(points=[(180, 140)])
        result = predictor.segment(pixels, points=prompt.points)
        # The second look's window: the moved prompts are asked there, too.
        window = result.frame.window
        moved = perturbed(prompt, result.region, window, np.random.default_rng(0))
        answers = predictor.decode_batch(predictor.encode(pixels, window=window), moved)
        found.append(measure(result.region, (0.2, 0.2), [one.region for one in answers]).stability)
    sure, unsure = found
    assert sure.agreement > 0.97
    assert unsure.agreement < sure.agreement - 0.05
    low, high = sure.ranges["ellipse_circumference_mm"]
    assert low == pytest.approx(2 * math.pi * 40 * 0.2, rel=0.05)
    assert high - low < 2
