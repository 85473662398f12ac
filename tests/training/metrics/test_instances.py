"""Object measures against definitions written out over sets of pixels, MONAI's panoptic quality, and by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics.panoptic_quality import compute_panoptic_quality

from samsdk_training.metrics.empty import EmptyPolicy
from samsdk_training.metrics.instances import (
    ObjectMatch,
    aggregated_jaccard,
    aggregated_jaccard_plus,
    match_objects,
)

PERFECT = EmptyPolicy(both="perfect")


def objects(labels: np.ndarray) -> list[frozenset[int]]:
    return [frozenset(np.flatnonzero(labels == one).tolist()) for one in sorted(set(labels.ravel().tolist()) - {0})]


def set_iou(first: frozenset[int], second: frozenset[int]) -> float:
    return len(first & second) / len(first | second)


def aji_of_sets(predicted: list[frozenset[int]], true: list[frozenset[int]]) -> float:
    shared = united = 0
    taken = set()
    for one in true:
        best = max(range(len(predicted)), key=lambda index: set_iou(predicted[index], one))
        if not one & predicted[best]:
            united += len(one)
            continue
        shared += len(one & predicted[best])
        united += len(one | predicted[best])
        taken.add(best)
    return shared / (united + sum(len(one) for index, one in enumerate(predicted) if index not in taken))


def pairings(predicted: list[frozenset[int]], true: list[frozenset[int]]):
    """Every way to pair as many as can be, one to one."""
    few, many = sorted((predicted, true), key=len)
    for chosen in itertools.permutations(range(len(many)), len(few)):
        yield list(zip(few, (many[index] for index in chosen), strict=True))


def aji_plus_of_sets(predicted: list[frozenset[int]], true: list[frozenset[int]]) -> set[float]:
    """Its values for all pairings with the largest sum of IoU."""
    ways = list(pairings(predicted, true))
    best = max(sum(set_iou(*pair) for pair in way) for way in ways)
    values = set()
    for way in ways:
        if sum(set_iou(*pair) for pair in way) < best - 1e-9:
            continue
        met = [pair for pair in way if pair[0] & pair[1]]
        shared, united = sum(len(a & b) for a, b in met), sum(len(a | b) for a, b in met)
        paired = [one for pair in met for one in pair]
        alone = sum(len(one) for one in predicted + true) - sum(len(one) for one in paired)
        values.add(shared / (united + alone))
    return values


@st.composite
def label_maps(draw: st.DrawFn, most: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Two maps of a few overlapping boxes each, at least one object in either, with ids that have gaps."""
    shape = tuple(draw(st.lists(st.integers(3, 8), min_size=2, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    maps = []
    for _ in range(2):
        labels = np.zeros(shape, draw(st.sampled_from((np.uint8, np.uint16, np.int64))))
        for _ in range(draw(st.integers(1, most))):
            start = [rng.integers(0, length) for length in shape]
            box = tuple(slice(one, one + rng.integers(1, 5)) for one in start)
            labels[box] = rng.integers(1, 256)
        maps.append(labels)
    return maps[0], maps[1]


@settings(max_examples=50, deadline=None)
@given(label_maps())
def test_aji_and_aji_plus_by_definition(maps: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, true = (objects(labels) for labels in maps)
    assert aggregated_jaccard_plus(*maps) in [
        pytest.approx(value, abs=1e-12) for value in aji_plus_of_sets(predicted, true)
    ]
    best = [sorted((set_iou(one, other) for other in predicted), reverse=True) for one in true]
    if all(len(row) < 2 or row[0] == 0 or row[0] - row[1] > 1e-9 for row in best):  # else either may be taken
        assert aggregated_jaccard(*maps) == pytest.approx(aji_of_sets(predicted, true), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(label_maps(), st.sampled_from((0.5, 0.7)))
def test_panoptic_quality_against_monai(maps: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    tensors = [torch.from_numpy(labels.astype(np.int32)) for labels in maps]
    found, wrong, missed, total = compute_panoptic_quality(
        *tensors, match_iou_threshold=threshold, output_confusion_matrix=True
    ).tolist()
    match = match_objects(*maps, threshold=threshold)
    assert (match.true_positives, match.false_positives, match.false_negatives) == (found, wrong, missed)
    assert match.iou_sum == pytest.approx(total, abs=1e-5)
    quality = compute_panoptic_quality(*tensors, match_iou_threshold=threshold, smooth_numerator=0)
    assert match.panoptic_quality() == pytest.approx(float(quality), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(label_maps(), st.sampled_from((0.0, 0.2, 0.5)))
def test_most_pairs_by_trying_all(maps: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    predicted, true = (objects(labels) for labels in maps)
    tried = []
    for way in pairings(predicted, true):
        good = [set_iou(*pair) for pair in way if set_iou(*pair) > threshold]
        tried.append((len(good), sum(good)))
    count, total = max(tried)
    match = match_objects(*maps, threshold=threshold)
    assert match.true_positives == count
    assert match.iou_sum == pytest.approx(max(t for c, t in tried if c == count), abs=1e-9)
    assert total == pytest.approx(match.iou_sum, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(label_maps(), st.integers(0, 2**32 - 1))
def test_bounds_symmetry_and_other_numbers_for_the_same_objects(maps, seed: int) -> None:
    first, second = maps
    match, back = match_objects(first, second), match_objects(second, first)
    assert 0 <= match.panoptic_quality() <= match.f1() <= 1
    assert match.f1() == pytest.approx(back.f1(), abs=1e-12)
    assert match.panoptic_quality() == pytest.approx(back.panoptic_quality(), abs=1e-12)
    assert 0 <= aggregated_jaccard(first, second) <= 1
    for measure in (aggregated_jaccard, aggregated_jaccard_plus):
        assert measure(first, first) == 1
    # Order decides between equal IoU, so only what has one best pairing keeps its value whatever the numbers are.
    numbers = np.append(0, np.random.default_rng(seed).permutation(60000)[:256] + 1)
    assert match_objects(numbers[first], numbers[second] * 7) == match
    gaps = np.arange(256) * 1000
    for measure in (aggregated_jaccard, aggregated_jaccard_plus):
        assert measure(gaps[first], gaps[second]) == measure(first, second)


def row(text: str) -> np.ndarray:
    return np.array([[int(character) for character in text]])


def test_neither_aji_bounds_the_other() -> None:
    # One prediction over two true objects: AJI counts it for both, 4 of 8; AJI+ leaves the second out, 2 of 4 + 2.
    assert aggregated_jaccard(row("1111"), row("1122")) == pytest.approx(4 / 8)
    assert aggregated_jaccard_plus(row("1111"), row("1122")) == pytest.approx(2 / 6)
    # The first true object wants 1 (3/9) more than 2 (1/4), and so does the second (6/9): AJI takes 1 twice, and 2 is
    # left over; AJI+ gives the first one 2, as 1/4 + 6/9 is the largest sum.
    predicted, true = row("2111111111"), row("1111222222")
    assert aggregated_jaccard(predicted, true) == pytest.approx((3 + 6) / (10 + 9 + 1))
    assert aggregated_jaccard_plus(predicted, true) == pytest.approx((1 + 6) / (4 + 9))


def test_what_nothing_overlaps_counts_as_united() -> None:
    predicted, true = row("110000330"), row("110022000")
    assert aggregated_jaccard(predicted, true) == pytest.approx(2 / (2 + 2 + 2))
    assert aggregated_jaccard_plus(predicted, true) == pytest.approx(2 / (2 + 2 + 2))


def test_f1_and_quality_by_hand() -> None:
    # IoU 1/2 is not above 1/2; IoU 3/4 is.
    match = match_objects(row("2200333300"), row("2222333011"))
    assert match == ObjectMatch(1, 1, 2, 0.75)
    assert match.f1() == pytest.approx(2 / (2 + 1 + 2))
    assert match.segmentation_quality == 0.75
    assert match.panoptic_quality() == pytest.approx(0.4 * 0.75)
    assert match + ObjectMatch(3, 0, 1, 2.25) == ObjectMatch(4, 1, 3, 3.0)
    assert match_objects(row("2200333300"), row("2222333011"), threshold=0.4).true_positives == 2


def test_more_pairs_are_worth_more_than_larger_overlaps() -> None:
    predicted, true = row("0011111122"), row("1111111222")
    # 1-1 5/8, 1-2 1/8 and 2-2 2/3.
    assert match_objects(predicted, true, threshold=0.0).true_positives == 2
    # 1-1 3/5 is the best pair, and forbids 1-2 and 2-1 (1/4 each), which are two.
    predicted, true = row("11112"), row("21111")
    assert match_objects(predicted, true, threshold=0.1) == ObjectMatch(2, 0, 0, 0.5)
    assert match_objects(predicted, true, threshold=0.3) == ObjectMatch(1, 1, 1, 0.6)


def test_many_objects_with_gaps() -> None:
    """A grid of 400 squares, every third one moved by one column of four: IoU 12/20 = 0.6."""
    true, predicted = np.zeros((160, 160), np.int32), np.zeros((160, 160), np.int32)
    for index, (top, left) in enumerate(itertools.product(range(0, 160, 8), repeat=2)):
        shift = int(index % 3 == 0)
        true[top : top + 4, left : left + 4] = 10 * index + 5
        predicted[top : top + 4, left + shift : left + 4 + shift] = 90000 - 7 * index
    match = match_objects(predicted, true)
    assert match.true_positives == 400
    assert match.iou_sum == pytest.approx(266 + 134 * 0.6)
    assert match_objects(predicted, true, threshold=0.6).true_positives == 266
    expected = (266 * 16 + 134 * 12) / (266 * 16 + 134 * 20)
    assert aggregated_jaccard(predicted, true) == pytest.approx(expected)
    assert aggregated_jaccard_plus(predicted, true) == pytest.approx(expected)


def test_a_single_pixel_and_a_full_image() -> None:
    full, pixel = np.ones((5, 6), np.uint8), np.zeros((5, 6), np.uint8)
    pixel[0, 0] = 200
    assert match_objects(full, full) == ObjectMatch(1, 0, 0, 1.0)
    assert match_objects(pixel, pixel) == ObjectMatch(1, 0, 0, 1.0)
    assert match_objects(full, pixel) == ObjectMatch(0, 1, 1, 0.0)
    assert aggregated_jaccard(full, pixel) == aggregated_jaccard_plus(full, pixel) == pytest.approx(1 / 30)


def test_no_objects() -> None:
    nothing, something = np.zeros((4, 4), np.uint8), np.eye(4, dtype=np.uint8)
    for measure in (aggregated_jaccard, aggregated_jaccard_plus):
        assert math.isnan(measure(nothing, nothing))
        assert measure(nothing, nothing, empty=PERFECT) == 1
        assert measure(nothing, something) == measure(something, nothing) == 0
    match = match_objects(nothing, nothing)
    assert match == ObjectMatch(0, 0, 0, 0.0)
    assert math.isnan(match.f1())
    assert math.isnan(match.panoptic_quality())
    assert match.f1(PERFECT) == match.panoptic_quality(PERFECT) == 1
    missed = match_objects(nothing, something)
    assert missed == ObjectMatch(0, 0, 1, 0.0)
    assert missed.f1() == missed.panoptic_quality() == 0
    assert math.isnan(missed.segmentation_quality)
    assert match_objects(something, nothing) == ObjectMatch(0, 1, 0, 0.0)


def test_wrong_calls() -> None:
    labels = np.ones((4, 4), np.int32)
    with pytest.raises(ValueError, match=r"one shape with 2 or 3 axes, got \(4, 4\) and \(4, 1\)"):
        aggregated_jaccard(labels, labels[:, :1])
    with pytest.raises(ValueError, match="expected labels from 0 on, got -1"):
        match_objects(-labels, labels)
    with pytest.raises(ValueError, match="label maps of integers, got float64"):
        aggregated_jaccard_plus(labels * 1.0, labels)
    with pytest.raises(ValueError, match="threshold from 0 to below 1"):
        match_objects(labels, labels, threshold=1)
