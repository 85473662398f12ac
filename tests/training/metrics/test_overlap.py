"""Dice and IoU against set arithmetic and MONAI, and what empty masks are worth."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_iou

from samsdk_training.metrics.empty import EmptyPolicy
from samsdk_training.metrics.overlap import dice, iou


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=2, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shares = draw(st.tuples(*[st.sampled_from((0.05, 0.5, 1.0))] * 2))
    first, second = (rng.random(shape) < share for share in shares)
    # One pixel in common: empty masks have tests of their own.
    first.flat[0] = second.flat[-1] = True
    return first, second


@settings(max_examples=50, deadline=None)
@given(mask_pairs())
def test_against_sets_and_monai(pair: tuple[np.ndarray, np.ndarray]) -> None:
    mine, theirs = ({tuple(index) for index in np.argwhere(mask).tolist()} for mask in pair)
    assert dice(*pair) == pytest.approx(2 * len(mine & theirs) / (len(mine) + len(theirs)), abs=1e-12)
    assert iou(*pair) == pytest.approx(len(mine & theirs) / len(mine | theirs), abs=1e-12)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in pair]
    assert dice(*pair) == pytest.approx(float(compute_dice(*tensors)), abs=1e-6)
    assert iou(*pair) == pytest.approx(float(compute_iou(*tensors)), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(mask_pairs())
def test_bounds_symmetry_and_what_binds_the_two(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pair
    assert 0 <= iou(first, second) <= dice(first, second) <= 1
    assert dice(first, second) == dice(second, first)
    assert dice(first, second) == pytest.approx(2 * iou(first, second) / (1 + iou(first, second)), abs=1e-12)
    assert dice(first, first) == iou(first, first) == 1


def test_squares_by_hand() -> None:
    first, second = np.zeros((2, 20, 30), bool)
    first[5:15, 5:15] = True
    second[5:15, 8:18] = True  # 7 of 10 columns in common
    assert dice(first, second) == pytest.approx(0.7)
    assert iou(first, second) == pytest.approx(70 / 130)
    assert dice(np.ones((4, 4), bool), np.eye(4, dtype=bool)) == pytest.approx(2 * 4 / 20)


NOTHING, SOMETHING = np.zeros((6, 8), bool), np.eye(6, 8, dtype=bool)


@pytest.mark.parametrize("measure", [dice, iou])
def test_empty_masks(measure) -> None:
    perfect = EmptyPolicy(both="perfect")
    assert math.isnan(measure(NOTHING, NOTHING))
    assert measure(NOTHING, NOTHING, empty=perfect) == 1
    for empty in (EmptyPolicy(), perfect, EmptyPolicy(one="diagonal")):
        assert measure(NOTHING, SOMETHING, empty=empty) == measure(SOMETHING, NOTHING, empty=empty) == 0
        assert measure(SOMETHING, SOMETHING, empty=empty) == 1


def test_distances_of_empty_masks() -> None:
    undefined, ruled = EmptyPolicy(), EmptyPolicy("perfect", "diagonal")
    assert math.isnan(undefined.distance(False, False, (6, 8)))
    assert math.isnan(undefined.distance(True, False, (6, 8)))
    assert ruled.distance(False, False, (6, 8)) == 0
    assert ruled.distance(True, False, (6, 8)) == ruled.distance(False, True, (6, 8)) == 10
    assert ruled.distance(True, False, (6, 8), (2, 0.625)) == 13
    assert undefined.distance(True, True, (6, 8)) is None


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (np.zeros((4, 5), bool), np.zeros((4, 1), bool), r"one shape with 2 or 3 axes, got \(4, 5\) and \(4, 1\)"),
        (np.zeros(4, bool), np.zeros(4, bool), "2 or 3 axes"),
        (np.zeros((4, 5), np.uint8), np.zeros((4, 5), bool), "two bool masks, got uint8 and bool"),
    ],
)
def test_what_are_no_two_masks(first: np.ndarray, second: np.ndarray, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dice(first, second)
    with pytest.raises(ValueError, match=text):
        iou(first, second)
