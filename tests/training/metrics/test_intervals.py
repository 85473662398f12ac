"""Intervals against distributions that are known exactly, and SciPy's bootstrap."""

import math

import numpy as np
import pytest
from scipy import stats

from samsdk_training.metrics.intervals import Cases, Interval, bootstrap_mean


def test_of_zeros_and_ones_the_resampled_mean_is_binomial() -> None:
    values = [1] * 12 + [0] * 28
    interval = bootstrap_mean(Cases(values), resamples=20000)
    exact = stats.binom(40, 0.3).ppf([0.025, 0.975]) / 40
    assert interval.mean == pytest.approx(0.3)
    assert [interval.low, interval.high] == pytest.approx(exact.tolist())
    assert (interval.count, interval.undefined, interval.clusters) == (40, 0, 40)
    half = bootstrap_mean(Cases(values), resamples=20000, level=0.5)
    assert [half.low, half.high] == pytest.approx((stats.binom(40, 0.3).ppf([0.25, 0.75]) / 40).tolist())


def test_of_several_sets_the_means_are_drawn_apart() -> None:
    interval = bootstrap_mean([Cases([1] * 12 + [0] * 28), Cases([1] * 5 + [0] * 5)], resamples=20000)
    assert interval.mean == pytest.approx(0.4)
    draws = np.add.outer(np.arange(41) / 40, np.arange(11) / 10).ravel() / 2
    chance = np.outer(stats.binom(40, 0.3).pmf(np.arange(41)), stats.binom(10, 0.5).pmf(np.arange(11))).ravel()
    order = np.argsort(draws)
    exact = draws[order][np.searchsorted(np.cumsum(chance[order]), [0.025, 0.975])]
    # One step of the grid of possible means is 1/80.
    assert [interval.low, interval.high] == pytest.approx(exact.tolist(), abs=1.01 / 80)
    assert (interval.count, interval.clusters) == (50, 50)


def test_of_many_values_it_is_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(0.7, 0.1, 900)
    interval = bootstrap_mean(Cases(values), resamples=4000)
    error = values.std() / 30
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.12 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.12 * error)


def test_objects_of_one_image_are_drawn_together() -> None:
    rng = np.random.default_rng(4)
    of_images = rng.random(15)
    alone = bootstrap_mean(Cases(of_images))
    # Nine equal objects an image say no more than one.
    together = bootstrap_mean(
        Cases(np.repeat(of_images, 9), np.repeat([f"{one}.png" for one in range(15)], 9).tolist())
    )
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    assert (together.count, together.clusters) == (135, 15)
    apart = bootstrap_mean(Cases(np.repeat(of_images, 9)))
    assert apart.high - apart.low < 0.5 * (alone.high - alone.low)


def test_unequal_clusters_against_scipy() -> None:
    rng = np.random.default_rng(5)
    sizes = rng.integers(1, 12, 30)
    names = np.repeat(np.arange(30), sizes)
    values = np.repeat(rng.random(30), sizes) + rng.normal(0, 0.1, sizes.sum())
    order = rng.permutation(len(values))
    interval = bootstrap_mean(Cases(values[order], names[order].tolist()), resamples=20000)
    sums = np.bincount(names, weights=values)
    drawn = stats.bootstrap(
        (sums, sizes),
        lambda total, count, axis: total.sum(axis) / count.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=20000,
        rng=np.random.default_rng(6),
    )
    width = interval.high - interval.low
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(drawn.confidence_interval.low, abs=0.03 * width)
    assert interval.high == pytest.approx(drawn.confidence_interval.high, abs=0.03 * width)
    assert drawn.standard_error == pytest.approx(width / 3.92, rel=0.05)


def test_classes_are_averaged_after_cases() -> None:
    values = [[1.0, 0.2], [0.5, math.nan], [math.nan, math.nan], [0.0, 0.6]]
    interval = bootstrap_mean(Cases(values))
    assert interval.mean == pytest.approx((1.5 / 3 + 0.8 / 2) / 2)
    assert (interval.count, interval.undefined, interval.clusters) == (5, 3, 4)
    assert 0 <= interval.low < interval.mean < interval.high <= 1
    # A class that no case has is not a class of mean 0.
    assert bootstrap_mean(Cases([[0.5, math.nan], [0.7, math.nan]])).mean == pytest.approx(0.6)


def test_undefined_values_are_counted_not_averaged() -> None:
    interval = bootstrap_mean(Cases([0.2, math.nan, 0.4, math.nan]))
    assert interval.mean == pytest.approx(0.3)
    assert (interval.count, interval.undefined) == (2, 2)
    assert (interval.low, interval.high) == pytest.approx((0.2, 0.4))
    nothing = bootstrap_mean(Cases([math.nan, math.nan]))
    assert all(math.isnan(value) for value in (nothing.mean, nothing.low, nothing.high))
    assert (nothing.count, nothing.undefined) == (0, 2)


def test_one_image_has_a_mean_but_no_interval() -> None:
    interval = bootstrap_mean(Cases([0.2, 0.4], ["a", "a"]))
    assert interval.mean == pytest.approx(0.3)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_one_seed_one_interval() -> None:
    values = Cases(np.random.default_rng(7).random(20))
    first, again, other = (bootstrap_mean(values, seed=seed, resamples=200) for seed in (0, 0, 1))
    assert isinstance(first, Interval)
    assert first == again
    assert first.low != other.low


@pytest.mark.parametrize(
    ("cases", "text"),
    [
        (Cases([]), "expected values"),
        (Cases([1.0, 2.0], ["a"]), r"N clusters, got \(2, 1\) and 1"),
        (Cases(np.zeros((2, 2, 2))), "expected values"),
        (Cases([1.0, math.inf]), "a value is infinite"),
        ([], "at least one set"),
    ],
)
def test_wrong_calls(cases, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        bootstrap_mean(cases)


def test_wrong_levels() -> None:
    for how in ({"level": 1.0}, {"level": 0.0}, {"resamples": 0}):
        with pytest.raises(ValueError, match="level between 0 and 1"):
            bootstrap_mean(Cases([1.0, 0.0]), **how)
