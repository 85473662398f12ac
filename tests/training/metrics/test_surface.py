"""Surface measures: against definitions written out pixel by pixel, published tools' numbers, and by hand."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_surface_dice

from samsdk_training.metrics.empty import EmptyPolicy
from samsdk_training.metrics.protocols import class_scores
from samsdk_training.metrics.surface import average_surface_distance, hd95, nsd


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    grid = np.indices(shape, dtype=float)
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True)) <= 1


DISCS = ball((48, 64), (20, 24), (12, 15)), ball((48, 64), (25.5, 30), (14, 11))
CUT = ball((48, 64), (0, 24), (12, 15)), ball((48, 64), (3, 30), (14, 11))
BALLS = ball((24, 28, 32), (12, 14, 13), (8, 9, 10)), ball((24, 28, 32), (11, 15.5, 17), (9, 7, 8))

# medpy 0.5.2: `hd95`; surface-distance 0.1: `compute_robust_hausdorff` at 95, and surface Dice at 2 and at 5.
PUBLISHED = [
    (DISCS, (1.0, 1.0), 10.0, 10.198039027185569, 0.3171572875253809, 0.5602537281524961),
    (DISCS, (0.7, 1.3), 13.0, 13.0, 0.29517812083766104, 0.6037575044893165),
    (CUT, (1.0, 1.0), 8.439776372388755, 9.055385138137417, 0.479553181797629, 0.7864063588481944),
    (BALLS, (1.0, 1.0, 1.0), 5.486207008773689, 5.830951894845301, 0.6183260707457274, 0.941624944786081),
    (BALLS, (3.0, 0.8, 1.1), 6.264982043070834, 6.363175307973213, 0.5602574073086047, 0.8983360427624315),
]


@pytest.mark.parametrize(("masks", "spacing", "medpy", "deepmind", "at_2", "at_5"), PUBLISHED)
def test_published_tools(masks, spacing, medpy: float, deepmind: float, at_2: float, at_5: float) -> None:
    assert hd95(*masks, convention="medpy", spacing=spacing) == pytest.approx(medpy, rel=1e-6)
    assert hd95(*masks, convention="deepmind", spacing=spacing) == pytest.approx(deepmind, rel=1e-6)
    assert nsd(*masks, tolerance=2, spacing=spacing) == pytest.approx(at_2, rel=1e-6)
    assert nsd(*masks, tolerance=5, spacing=spacing) == pytest.approx(at_5, rel=1e-6)


def surface_voxels(mask: np.ndarray) -> np.ndarray:
    """[N, axes] foreground voxels with a neighbour across a face that is background or outside."""
    inside = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}
    steps = [step for step in itertools.product((-1, 0, 1), repeat=mask.ndim) if sum(map(abs, step)) == 1]
    return np.array(
        [voxel for voxel in sorted(inside) if any(tuple(np.add(voxel, step).tolist()) not in inside for step in steps)]
    )


def contour(mask: np.ndarray, spacing: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """[N, 2] corners between four pixels that the outline passes, and its length at each."""
    half = math.hypot(*spacing) / 2
    padded = np.pad(mask, 1)
    corners, lengths = [], []
    for row, column in np.ndindex(padded.shape[0] - 1, padded.shape[1] - 1):
        four = padded[row : row + 2, column : column + 2]
        if four.sum() in (1, 3):
            length = half
        elif four.sum() == 2:
            rows, columns = four.any(axis=1).sum(), four.any(axis=0).sum()
            # Two that meet at the corner alone, or side by side: then the outline runs along that side.
            length = 2 * half if rows == columns == 2 else spacing[0] if columns == 1 else spacing[1]
        else:
            continue
        corners.append((row, column))
        lengths.append(length)
    return np.array(corners), np.array(lengths)


def nearest(points: np.ndarray, others: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    return np.array([min(math.dist(p, o) for o in others * spacing) for p in points * spacing])


@st.composite
def mask_pairs(draw: st.DrawFn, axes: tuple[int, int] = (2, 3)) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=axes[0], max_size=axes[1])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    first, second = (rng.random(shape) < draw(st.sampled_from((0.1, 0.6, 1.0))) for _ in range(2))
    first.flat[0] = second.flat[-1] = True
    return first, second, tuple(draw(st.sampled_from((0.75, 1.0, 2.5))) for _ in shape)


@settings(max_examples=25, deadline=None)
@given(mask_pairs())
def test_voxel_surfaces_by_definition(pair) -> None:
    first, second, spacing = pair
    mine, theirs = surface_voxels(first), surface_voxels(second)
    both = np.concatenate([nearest(mine, theirs, spacing), nearest(theirs, mine, spacing)])
    got = hd95(first, second, convention="medpy", spacing=spacing)
    assert got == pytest.approx(np.percentile(both, 95), rel=1e-6, abs=1e-6)
    assert average_surface_distance(first, second, spacing=spacing) == pytest.approx(both.mean(), rel=1e-5, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(mask_pairs(axes=(2, 2)), st.sampled_from((0.0, 1.1, 2.9)))
def test_contours_by_definition(pair, tolerance: float) -> None:
    first, second, spacing = pair
    (mine, my_lengths), (theirs, their_lengths) = contour(first, spacing), contour(second, spacing)
    there, back = nearest(mine, theirs, spacing), nearest(theirs, mine, spacing)
    within = my_lengths[there <= tolerance].sum() + their_lengths[back <= tolerance].sum()
    expected = within / (my_lengths.sum() + their_lengths.sum())
    assert nsd(first, second, tolerance=tolerance, spacing=spacing) == pytest.approx(expected, abs=1e-6)

    def covers(distances: np.ndarray, lengths: np.ndarray, share: float) -> float:
        return min(d for d in distances if lengths[distances <= d].sum() >= share * lengths.sum())

    got = hd95(first, second, convention="deepmind", spacing=spacing)
    # Rounding may decide where exactly 95 % lie within a distance: between the answers for a hair less and more.
    low, high = (
        max(covers(there, my_lengths, share), covers(back, their_lengths, share))
        for share in (0.95 - 1e-9, 0.95 + 1e-9)
    )
    assert low - 1e-6 <= got <= high + 1e-6


@settings(max_examples=10, deadline=None)
@given(mask_pairs())
def test_symmetry_bounds_and_identity(pair) -> None:
    first, second, spacing = pair
    longest = math.dist((0,) * first.ndim, np.multiply(first.shape, spacing))
    for convention in ("medpy", "deepmind"):
        there = hd95(first, second, convention=convention, spacing=spacing)
        assert there == hd95(second, first, convention=convention, spacing=spacing)
        assert 0 <= there <= longest
        assert hd95(first, first, convention=convention, spacing=spacing) == 0
    loose, tight = (nsd(first, second, tolerance=tolerance, spacing=spacing) for tolerance in (2, 1))
    assert 0 <= tight <= loose <= 1
    assert tight == pytest.approx(nsd(second, first, tolerance=1, spacing=spacing), abs=1e-6)
    assert nsd(first, second, tolerance=longest, spacing=spacing) == pytest.approx(1, abs=1e-6)


def test_two_voxels_by_hand() -> None:
    first, second = np.zeros((2, 6, 7, 9), bool)
    first[2, 3, 3] = second[2, 3, 5] = True
    # As voxels, 2 apart. As surfels, each has four corners 1 away from the other's and four 2 away, of one area.
    assert average_surface_distance(first, second, spacing=(3, 2, 1)) == 2
    assert hd95(first, second, convention="medpy", spacing=(3, 2, 1)) == 2
    assert hd95(first, second, convention="deepmind", spacing=(3, 2, 1)) == 2
    assert nsd(first, second, tolerance=1, spacing=(3, 2, 1)) == pytest.approx(0.5)
    assert nsd(first, second, tolerance=2, spacing=(3, 2, 1)) == pytest.approx(1)


def test_a_stray_pixel_by_hand() -> None:
    """Why conventions have names: the stray pixel is 1 of 21 surface pixels, but a ninth of one outline."""
    clean = np.zeros((9, 40), bool)
    clean[4, 2:12] = True
    stray = clean.copy()
    stray[4, 30] = True
    assert hd95(clean, stray, convention="medpy") == 0
    # The far corners of the stray pixel are at column 30.5, the row's end at 11.5.
    assert hd95(clean, stray, convention="deepmind") == 19
    row, pixel = 18 + 2 * math.sqrt(2), 2 * math.sqrt(2)
    assert nsd(clean, stray, tolerance=0) == pytest.approx(2 * row / (2 * row + pixel))
    assert average_surface_distance(clean, stray) == pytest.approx(19 / 21)


def test_concentric_spheres_by_hand() -> None:
    inner, outer = ball((41, 41, 41), (20,) * 3, (11,) * 3), ball((41, 41, 41), (20,) * 3, (15,) * 3)
    for convention in ("medpy", "deepmind"):
        assert hd95(inner, outer, convention=convention) == pytest.approx(4, abs=0.6)
    assert average_surface_distance(inner, outer) == pytest.approx(4, abs=0.3)
    assert nsd(inner, outer, tolerance=2) == 0
    assert nsd(inner, outer, tolerance=5.5) == pytest.approx(1)


def test_a_full_image_has_the_border_as_its_surface() -> None:
    full, hole = np.ones((7, 7), bool), np.ones((7, 7), bool)
    hole[3, 3] = False
    assert hd95(full, full, convention="medpy") == hd95(full, full, convention="deepmind") == 0
    # The hole's 4 neighbours in 7x7 are 2 from the border; the border has 24 pixels: 4 of 52 distances are 2.
    assert average_surface_distance(full, hole) == pytest.approx(4 * 2 / 52)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@settings(max_examples=25, deadline=None)
@given(mask_pairs(), st.sampled_from((0.0, 1.1, 2.9)))
def test_monai_by_its_own_front_doors(pair, tolerance: float) -> None:
    first, second, spacing = pair
    masks = [torch.from_numpy(mask)[None, None] for mask in pair[:2]]
    how = {"include_background": True, "spacing": spacing}
    dice = compute_surface_dice(*masks, [tolerance], use_subvoxels=True, **how)
    assert nsd(first, second, tolerance=tolerance, spacing=spacing) == pytest.approx(float(dice), abs=1e-6)
    mean = compute_average_surface_distance(*masks, symmetric=True, **how)
    assert average_surface_distance(first, second, spacing=spacing) == pytest.approx(float(mean), abs=1e-5)


def test_what_is_just_as_far_as_the_tolerance_is_within() -> None:
    first, second = np.zeros((2, 12, 12), bool)
    first[2:6, 2:6], second[2:6, 5:9] = True, True
    assert 3 * 0.1 > 0.3  # in double precision
    assert nsd(first, second, tolerance=0.3, spacing=(0.1, 0.1)) == pytest.approx(1)
    assert nsd(first, second, tolerance=0.29, spacing=(0.1, 0.1)) < 1


def test_read_only_and_reversed_masks() -> None:
    first, second = DISCS
    kept = first.copy()
    kept.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nsd(kept, second, tolerance=2) == nsd(first, second, tolerance=2)
        assert hd95(first[::-1], second[::-1], convention="medpy") == hd95(*DISCS, convention="medpy")


def test_empty_masks() -> None:
    nothing, something = np.zeros((6, 8), bool), np.eye(6, 8, dtype=bool)
    ruled = EmptyPolicy("perfect", "diagonal")
    distances = [
        lambda *masks, **how: hd95(*masks, convention="medpy", **how),
        lambda *masks, **how: hd95(*masks, convention="deepmind", **how),
        average_surface_distance,
    ]
    for distance in distances:
        assert math.isnan(distance(nothing, nothing))
        assert math.isnan(distance(nothing, something))
        assert distance(nothing, nothing, empty=ruled) == 0
        assert distance(something, nothing, empty=ruled) == 10
        assert distance(nothing, something, empty=ruled, spacing=(2, 0.625)) == 13
    assert math.isnan(nsd(nothing, nothing, tolerance=1))
    assert nsd(nothing, nothing, tolerance=1, empty=ruled) == 1
    assert nsd(nothing, something, tolerance=99) == 0


def test_wrong_calls() -> None:
    with pytest.raises(TypeError, match="tolerance"):
        nsd(*DISCS)
    for tolerance in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a tolerance from 0 on"):
            nsd(*DISCS, tolerance=tolerance)
    with pytest.raises(ValueError, match="convention medpy or deepmind, got 'monai'"):
        hd95(*DISCS, convention="monai")
    for spacing in ((1,), (1, 1, 1), (1, 0), (1, math.nan)):
        with pytest.raises(ValueError, match="expected a spacing of 2 sizes above 0"):
            average_surface_distance(*DISCS, spacing=spacing)


def test_classes_of_a_volume() -> None:
    first, second = np.zeros((2, *BALLS[0].shape), np.uint8)
    first[BALLS[0]], second[BALLS[1]] = 3, 3
    first[0, 0, 0], second[23, 27, 31] = 1, 2
    scores = class_scores(first, second, (1, 2, 3, 4), protocol="deepmind", spacing=(3, 0.8, 1.1))
    assert scores[3].dice == pytest.approx(0.6091070372560615)  # surface-distance 0.1, compute_dice_coefficient
    assert scores[3].hd95 == pytest.approx(6.363175307973213, rel=1e-6)
    assert (scores[1].dice, scores[2].dice) == (0, 0)
    assert all(math.isnan(scores[one].hd95) for one in (1, 2, 4))
    assert math.isnan(scores[4].dice)
    ruled = class_scores(first, second, (1, 4), protocol="medpy", empty=EmptyPolicy("perfect", "diagonal"))
    assert ruled[1].hd95 == pytest.approx(math.hypot(24, 28, 32))
    assert (ruled[4].dice, ruled[4].hd95) == (1, 0)


def test_the_transunet_protocol() -> None:
    first, second = np.zeros((2, *BALLS[0].shape), np.uint8)
    first[BALLS[0]], second[BALLS[1]] = 3, 3
    first[0, 0, 0], second[23, 27, 31] = 1, 2
    scores = class_scores(first, second, (1, 2, 3, 4), protocol="transunet")
    got = {one: (score.dice, score.hd95) for one, score in scores.items()}
    # Reference empty; prediction empty; both there: medpy's numbers in voxels; both empty.
    assert got[1] == (1, 0)
    assert got[2] == (0, 0)
    assert got[3] == (pytest.approx(0.6091070372560615), pytest.approx(5.486207008773689, rel=1e-6))
    assert got[4] == (0, 0)
    for extra in ({"spacing": (1, 1, 1)}, {"empty": EmptyPolicy()}):
        with pytest.raises(ValueError, match="give neither"):
            class_scores(first, second, (1,), protocol="transunet", **extra)
