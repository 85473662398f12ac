"""Points by hand on small maps, and what must hold on any map."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from samsdk.point_selection import MOST_POINTS, STRATEGIES, PointSelection, select_points
from samsdk.transforms import Frame, Preprocessing

SIDE = 64
# A pixel of a map of 64 is worth 4 of the reference side: these lengths are whole pixels here.
CENTROID = PointSelection(smallest=32.0, margin=4.0)
PROBABILITY = replace(CENTROID, strategy="probability")


def whole(side: int = SIDE) -> Frame:
    """The map is the image."""
    return Preprocessing(side).frame((side, side))


def blocks(*parts: tuple[int, int, int, int, float], side: int = SIDE) -> NDArray[np.float32]:
    """A map of rectangles (x0, y0, x1, y1, probability)."""
    image = np.zeros((side, side), np.float32)
    for x0, y0, x1, y1, probability in parts:
        image[y0:y1, x0:x1] = probability
    return image


def picked(probabilities: NDArray[np.float32], selection: PointSelection, frame: Frame | None = None) -> dict[int, Any]:
    points, labels = select_points(probabilities, frame or whole(len(probabilities)), selection)
    assert points.dtype == np.float64
    assert labels.dtype == np.float32
    # Positive points come first.
    assert np.array_equal(labels, np.sort(labels)[::-1])
    return {label: [tuple(point) for point in points[labels == label].tolist()] for label in (1, 0)}


def test_each_component_has_its_centroid_large_and_certain_ones_first() -> None:
    image = blocks((10, 10, 15, 15, 0.9), (30, 5, 36, 11, 0.6), (40, 40, 43, 43, 1.0), (50, 50, 51, 51, 1.0))
    # 0.9 * 5, 0.6 * 6, 1.0 * 3; a single pixel is smaller than two.
    assert picked(image, CENTROID)[1] == [(12, 12), (32.5, 7.5), (41, 41)]
    assert picked(image, replace(CENTROID, positives=2))[1] == [(12, 12), (32.5, 7.5)]
    assert picked(image, replace(CENTROID, threshold=0.6))[1] == [(12, 12), (41, 41)]
    assert picked(image, replace(CENTROID, smallest=16.0))[1][-1] == (50, 50)
    assert picked(image, replace(CENTROID, smallest=9 * 16 + 1))[1] == [(12, 12), (32.5, 7.5)]


def test_parts_that_touch_by_a_corner_are_one_component() -> None:
    assert picked(blocks((10, 10, 12, 12, 0.9), (12, 12, 14, 14, 0.9)), CENTROID)[1] == [(11.5, 11.5)]


def test_equal_components_come_row_by_row() -> None:
    image = blocks((40, 20, 43, 23, 0.9), (20, 20, 23, 23, 0.9), (50, 8, 53, 11, 0.9), (21, 40, 24, 43, 0.9))
    assert picked(image, CENTROID)[1] == [(51, 9), (21, 21), (41, 21), (22, 41)]
    # OpenCV numbers components by blocks of two rows.
    pixels = blocks((10, 1, 11, 2, 0.9), (20, 0, 21, 1, 0.9))
    assert picked(pixels, replace(CENTROID, smallest=0))[1] == [(20, 0), (10, 1)]


def test_a_concave_component_gets_the_pixel_farthest_from_its_border() -> None:
    # A ring whose bottom is thick: its centroid lies in the hole.
    image = blocks((10, 10, 31, 31, 0.9), (12, 12, 29, 26, 0.0))
    # The bottom has 5 rows; all pixels of its middle row are as far from the border, up to where the sides begin.
    assert picked(image, CENTROID)[1] == [(12, 28)]
    # An L along two borders of the image, which count as borders: else the image's corner would be the deepest.
    corner = blocks((0, 0, 9, 9, 0.9), (3, 3, 9, 9, 0.0))
    assert picked(corner, CENTROID)[1] == [(1, 1)]


def test_the_most_probable_pixels_whatever_they_belong_to() -> None:
    image = blocks((10, 10, 14, 14, 0.7), (30, 30, 31, 31, 0.95), (12, 11, 13, 12, 0.99))
    selection = replace(PROBABILITY, positives=4)
    # Of the sixteen equal ones, the first of the first row.
    assert picked(image, selection)[1] == [(12, 11), (30, 30), (10, 10), (11, 10)]
    # Two pixels of this map are eight of the reference side.
    assert picked(image, replace(selection, min_distance=8.0))[1] == [(12, 11), (30, 30), (10, 10), (10, 12)]
    assert picked(image, replace(selection, min_distance=8.1))[1] == [(12, 11), (30, 30), (10, 10), (10, 13)]
    assert picked(image, replace(selection, threshold=0.7))[1] == [(12, 11), (30, 30)]


def test_centroids_too_close_to_a_better_one_are_left_out() -> None:
    image = blocks((10, 10, 13, 13, 0.9), (10, 14, 13, 17, 0.8), (10, 18, 13, 21, 0.85))
    assert picked(image, replace(CENTROID, min_distance=16.0))[1] == [(11, 11), (11, 19), (11, 15)]
    assert picked(image, replace(CENTROID, min_distance=16.1))[1] == [(11, 11), (11, 19)]


def test_negative_points_spread_from_the_deepest_background_on() -> None:
    image = blocks((0, 0, 10, 10, 0.9), side=16)
    selection = PointSelection(negatives=5, smallest=0, margin=16.0)
    # One pixel of margin leaves the columns and rows from 11 on. The far corner, the ends of the two arms, and halfway.
    assert picked(image, selection)[0] == [(15, 15), (11, 0), (0, 11), (15, 7), (8, 11)]
    assert picked(image, replace(selection, min_distance=16 * 8.0))[0][3:] == [(15, 7), (8, 11)]
    assert picked(image, replace(selection, min_distance=16 * 8.1))[0] == [(15, 15), (11, 0), (0, 11)]
    # Five pixels of margin leave column and row 15, 10 pixels each, and 21 of the 6 x 6 beyond the object's corner.
    assert len(picked(image, replace(selection, margin=80.0, negatives=50))[0]) == 41


def test_negative_points_avoid_what_is_doubtful() -> None:
    image = np.full((16, 16), 0.3, np.float32)
    image[4, 4], image[12, 3], image[3, 12] = 0.9, 0.05, 0.02
    selection = PointSelection(smallest=0, margin=0)
    assert picked(image, selection) == {1: [(4, 4)], 0: [(12, 3), (3, 12)]}
    assert picked(image, replace(selection, strategy="probability")) == {1: [(4, 4)], 0: [(12, 3), (3, 12)]}
    assert picked(image, replace(selection, strategy="probability", negatives=1))[0] == [(12, 3)]
    assert picked(image, replace(selection, background=0.02))[0] == []
    assert picked(image, replace(selection, negatives=0))[0] == []


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("level", [0.0, 0.05, 0.5])
def test_a_map_without_objects_has_no_points(strategy: str, level: float) -> None:
    image = np.full((SIDE, SIDE), level, np.float32)
    assert picked(image, PointSelection(strategy=strategy)) == {1: [], 0: []}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_map_full_of_object_has_no_negative_points(strategy: str) -> None:
    got = picked(np.ones((SIDE, SIDE), np.float32), PointSelection(strategy=strategy, positives=1))
    assert got == {1: [(31.5, 31.5) if strategy == "centroid" else (0, 0)], 0: []}


@pytest.mark.parametrize("corner", [(0, 0), (60, 0), (0, 60), (60, 60)])
def test_objects_at_the_border(corner: tuple[int, int]) -> None:
    x, y = corner
    got = picked(blocks((x, y, x + 4, y + 4, 0.9)), replace(CENTROID, negatives=1))
    assert got == {1: [(x + 1.5, y + 1.5)], 0: [(63 if x == 0 else 0, 63 if y == 0 else 0)]}


@pytest.mark.parametrize(
    ("preprocessing", "size", "window", "expected"),
    [
        # The map's pixel (8, 4), centre (8.5, 4.5), in pixels of the image.
        pytest.param(Preprocessing(64), (64, 64), None, (8, 4), id="as it is"),
        pytest.param(Preprocessing(64), (128, 256), None, (33.5, 17.5), id="large"),
        pytest.param(Preprocessing(64), (16, 32), None, (3.75, 1.75), id="small"),
        pytest.param(Preprocessing(64, "resize_square"), (128, 32), None, (3.75, 8.5), id="stretched"),
        pytest.param(Preprocessing(128), (64, 64), None, (8, 4), id="coarser than the square"),
        pytest.param(Preprocessing(64), (300, 400), (100, 20, 228, 84), (116.5, 28.5), id="window"),
        pytest.param(Preprocessing(64, "pad_center_or_resize"), (60, 58), None, (5, 2), id="centred"),
    ],
)
def test_points_are_in_pixels_of_the_image(
    preprocessing: Preprocessing, size: tuple[int, int], window: Any, expected: tuple[float, float]
) -> None:
    image = blocks((7, 3, 10, 6, 0.9))
    frame = preprocessing.frame(size, window)
    assert picked(image, replace(CENTROID, negatives=0), frame)[1] == [pytest.approx(expected)]


def test_points_of_an_enlarged_image_lie_inside_it() -> None:
    image = blocks((0, 0, 1, 1, 0.9), (63, 63, 64, 64, 0.8))
    for window, expected in ((None, [(0, 0), (15, 15)]), ((4, 2, 12, 10), [(4, 2), (11, 9)])):
        frame = Preprocessing(SIDE).frame((16, 16), window)
        assert picked(image, replace(CENTROID, smallest=0, negatives=0), frame)[1] == expected


def test_padding_is_neither_object_nor_background() -> None:
    # The image fills 64 x 24 pixels of the square; the map says nonsense below.
    image = blocks((8, 8, 12, 12, 0.9), (30, 30, 50, 50, 1.0))
    frame = Preprocessing(SIDE).frame((24, 64))
    for selection in (CENTROID, replace(PROBABILITY, positives=100, negatives=MOST_POINTS - 100)):
        got = picked(image, selection, frame)
        assert len(got[1]) == (1 if selection is CENTROID else 16)
        assert len(got[0]) == selection.negatives
        assert max(y for points in got.values() for _, y in points) <= 23
    # An object that goes on in the padding is cut there.
    assert picked(blocks((8, 20, 12, 40, 0.9)), CENTROID, frame)[1] == [(9.5, 21.5)]


def test_lengths_mean_the_same_at_any_resolution() -> None:
    small = blocks((10, 10, 16, 16, 0.9), (40, 40, 42, 42, 0.9), (20, 10, 26, 16, 0.8))
    large = np.kron(small, np.ones((4, 4), np.float32))
    for smallest, min_distance in ((64.0, 40.0), (65.0, 40.0), (64.0, 40.1)):
        selection = PointSelection(smallest=smallest, min_distance=min_distance, negatives=0)
        fine = picked(large, selection, Preprocessing(256).frame((64, 64)))[1]
        assert fine == [pytest.approx(point) for point in picked(small, selection)[1]]
        assert len(fine) == 3 - (smallest > 64) - (min_distance > 40)


def test_a_thousand_objects_are_fast() -> None:
    tile = np.zeros((16, 16), np.float32)
    tile[3:11, 3:11], tile[3:9, 5:11] = 0.9, 0.0  # an L, whose centroid lies outside
    image = np.tile(tile, (32, 32))
    selection = PointSelection(positives=200, negatives=40, smallest=1, margin=1)
    start = time.process_time()
    got = picked(image, selection)
    # It takes a twentieth of a second.
    assert time.process_time() - start < 1.5
    # The inner corner of the L is deeper than its arms.
    assert got[1][:3] == [(4, 9), (20, 9), (36, 9)]
    assert (len(set(got[1])), len(set(got[0]))) == (200, 40)


def random_map(seed: int, side: int, share: float) -> NDArray[np.float32]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), side / 24)
    logits = (noise - np.quantile(noise, 1 - share)) / noise.std() * 4
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from((24, 48, 100)),
    st.sampled_from((0.02, 0.2, 0.7)),
    st.sampled_from(STRATEGIES),
    st.integers(1, 30),
    st.integers(0, 30),
    st.sampled_from((0.0, 13.0, 40.0)),
    st.sampled_from((0.0, 5.0, 20.0)),
)
def test_on_any_map(
    seed: int, side: int, share: float, strategy: str, positives: int, negatives: int, apart: float, margin: float
) -> None:
    image = random_map(seed, side, share)
    selection = PointSelection(strategy, positives, negatives, min_distance=apart, margin=margin)
    points, labels = select_points(image, whole(side), selection)
    scale = side / 256
    mine, theirs = points[labels == 1], points[labels == 0]
    assert len(mine) <= positives
    assert len(theirs) <= (negatives if len(mine) else 0)
    # A positive point lies on foreground, a negative one on background that is far enough from it.
    columns, rows = np.floor(mine + 0.5).astype(int).T
    assert (image[rows, columns] > 0.5).all()
    columns, rows = theirs.astype(int).T
    assert (image[rows, columns] < 0.1).all()
    assert (ndimage.distance_transform_edt(image <= 0.5)[rows, columns] > margin * scale).all()
    for group in (mine, theirs):
        distances = np.linalg.norm(group[:, None] - group, axis=-1)[np.triu_indices(len(group), 1)]
        assert (distances >= apart * scale - 1e-9).all()
        assert (distances > 0).all()
    # Fewer points are the first of more.
    if len(mine):
        fewer = replace(selection, positives=max(1, positives // 2), negatives=negatives // 2)
        less, kinds = select_points(image, whole(side), fewer)
        assert np.array_equal(less[kinds == 1], mine[: fewer.positives])
        assert np.array_equal(less[kinds == 0], theirs[: fewer.negatives])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_mirrored_map_has_mirrored_centroids(seed: int) -> None:
    # Components of an odd number of pixels across, so that no centroid lies on the border of two pixels.
    rng = np.random.default_rng(seed)
    image = np.zeros((SIDE, SIDE), np.float32)
    for row in range(4):
        for column in range(4):
            x, y, r = 8 + 16 * column + rng.integers(-3, 4), 8 + 16 * row + rng.integers(-3, 4), rng.integers(1, 4)
            image[y - r : y + r + 1, x - r : x + r + 1] = rng.uniform(0.6, 1.0)
    selection = replace(CENTROID, smallest=0, negatives=0, positives=9)
    mirrored = [(SIDE - 1 - x, y) for x, y in picked(image[:, ::-1], selection)[1]]
    assert mirrored == picked(image, selection)[1]


def test_a_selection_survives_json() -> None:
    for selection in (PointSelection(), replace(PROBABILITY, positives=7, negatives=0, threshold=0.4, min_distance=3)):
        assert PointSelection.from_dict(json.loads(json.dumps(selection.to_dict()))) == selection


WRONG: Sequence[tuple[dict[str, Any], str]] = [
    ({"strategy": "random"}, "strategy must be one of centroid, probability, got 'random'"),
    ({"strategy": 3}, "strategy must be a word, got 3"),
    ({"positives": 0}, "positives must be at least 1, got 0"),
    ({"positives": 2.0}, "positives must be a whole number, got 2.0"),
    ({"positives": True}, "positives must be a whole number, got True"),
    ({"negatives": -1}, "negatives must be at least 0, got -1"),
    ({"positives": 200, "negatives": 41}, "at most 240 points in all, got 241"),
    ({"threshold": 1.0}, "threshold must be from 0 to below 1, got 1.0"),
    ({"threshold": float("nan")}, "threshold must be a finite number, got nan"),
    ({"threshold": "0.5"}, "threshold must be a finite number, got '0.5'"),
    ({"background": 0.6}, "background must be from 0 to the threshold of 0.5, got 0.6"),
    ({"smallest": -1.0}, "smallest must be at least 0, got -1.0"),
    ({"min_distance": float("inf")}, "min_distance must be a finite number, got inf"),
    ({"margin": -0.5}, "margin must be at least 0, got -0.5"),
    ({"colour": 1}, r"missing fields \[\], unknown fields \['colour'\]"),
]


@pytest.mark.parametrize(("values", "text"), WRONG)
def test_a_selection_that_is_not_valid_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        PointSelection.from_dict({**PointSelection().to_dict(), **values})


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="positives must be at least 1, got 0; negatives must be at least 0, got -2"):
        PointSelection(positives=0, negatives=-2)
    values = {key: value for key, value in PointSelection().to_dict().items() if not key.startswith("m")}
    with pytest.raises(ValueError, match=r"missing fields \['margin', 'min_distance'\]"):
        PointSelection.from_dict(values)
    with pytest.raises(ValueError, match="must be an object, got list"):
        PointSelection.from_dict([])


def test_a_map_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"square map of probabilities, got shape \[1, 8, 8\]"):
        select_points(np.zeros((1, 8, 8), np.float32), whole(8), CENTROID)
    for wrong in (np.nan, -0.1, 1.5):
        with pytest.raises(ValueError, match="probabilities from 0 to 1"):
            select_points(np.full((8, 8), wrong, np.float32), whole(8), CENTROID)
