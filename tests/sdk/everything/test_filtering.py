"""Tests of masks, against the published functions and against plain loops."""

import types

import numpy as np
import pytest
import torch

from samsdk.everything.filtering import cleaned, stability_scores, suppress_boxes, tight
from samsdk.masks import Region
from samsdk.transforms import Preprocessing


def smooth(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random blobs: noise, blurred by running sums along both axes."""
    values = rng.normal(size=shape)
    for axis in (-2, -1):
        values = sum(np.roll(values, step, axis) for step in range(-2, 3))
    return values.astype(np.float32)


@pytest.mark.parametrize(("threshold", "offset"), [(0.0, 1.0), (0.5, 2.0), (0.0, 0.0)])
def test_stability_is_that_of_segment_anything(amg: types.ModuleType, threshold: float, offset: float) -> None:
    logits = smooth(np.random.default_rng(1), 7, 32, 32)
    frame = Preprocessing(64).frame((50, 50))
    wanted = amg.calculate_stability_score(torch.from_numpy(logits), threshold, offset).numpy()
    assert np.allclose(stability_scores(logits, frame, threshold, offset), wanted, atol=1e-7)
    assert wanted.min() > 0.1


def test_padding_does_not_count_for_stability(amg: types.ModuleType) -> None:
    logits = smooth(np.random.default_rng(2), 3, 32, 32)
    frame = Preprocessing(64).frame((100, 50))  # the right half of the square is padding
    wanted = amg.calculate_stability_score(torch.from_numpy(logits[:, :, :16].copy()), 0.0, 1.0).numpy()
    assert np.allclose(stability_scores(logits, frame, 0.0, 1.0), wanted, atol=1e-7)


def test_a_mask_without_a_pixel_is_not_stable() -> None:
    frame = Preprocessing(64).frame((64, 64))
    assert stability_scores(np.full((1, 16, 16), -9, np.float32), frame, 0.0, 1.0).tolist() == [0.0]


@pytest.mark.parametrize("seed", range(6))
def test_small_parts_and_holes_go_as_in_segment_anything(amg: types.ModuleType, seed: int) -> None:
    mask = smooth(np.random.default_rng(seed), 40, 50) > 0
    mask[[0, -1]] = mask[:, [0, -1]] = False  # the outside is one part
    holes_filled, _ = amg.remove_small_regions(mask, 12, "holes")
    wanted, changed = amg.remove_small_regions(holes_filled, 12, "islands")
    region = cleaned(Region((60, 70), 5, 7, mask), 12)
    assert changed
    assert region is not None
    assert np.array_equal(region.full()[5:45, 7:57], wanted)
    assert region.inside.any(axis=0)[[0, -1]].all()  # the box is tight
    assert region.inside.any(axis=1)[[0, -1]].all()


def test_a_mask_of_small_parts_alone_is_nothing() -> None:
    mask = np.zeros((9, 9), bool)
    mask[1:3, 1:3] = mask[5:8, 5:8] = True
    assert cleaned(Region((9, 9), 0, 0, mask), 10) is None
    nine = cleaned(Region((9, 9), 0, 0, mask), 9)
    assert nine is not None
    assert nine.area == 9
    assert tight(Region((9, 9), 0, 0, np.zeros((3, 3), bool))) is None


def test_the_better_of_two_boxes_stays() -> None:
    rng = np.random.default_rng(3)
    corner, side = rng.integers(0, 40, (120, 2)), rng.integers(4, 30, (120, 2))
    boxes, scores = np.concatenate([corner, corner + side], axis=1), rng.integers(0, 20, 120) / 20
    wanted: list[int] = []
    for index in sorted(range(120), key=lambda one: (-scores[one], one)):
        if all(box_iou(boxes[index].tolist(), boxes[other].tolist()) <= 0.4 for other in wanted):
            wanted.append(index)
    assert suppress_boxes(boxes, scores, 0.4) == wanted
    assert 10 < len(wanted) < 110


def box_iou(first: list[int], second: list[int]) -> float:
    grid = np.zeros((2, 80, 80), bool)
    for plane, (x0, y0, x1, y1) in zip(grid, (first, second), strict=True):
        plane[y0:y1, x0:x1] = True
    return float((grid[0] & grid[1]).sum() / (grid[0] | grid[1]).sum())
