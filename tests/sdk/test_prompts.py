import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samsdk import Prompt, PromptError
from samsdk.prompts import DecoderInputs, encode_prompt
from samsdk.transforms import Preprocessing

# 100 rows and 80 columns come to lie in 64 x 51 of the square; 0.64 pixels of the square for each pixel.
PREPROCESSING = Preprocessing(64, box_rounding="truncate")
SIZE = (100, 80)
SIDE = 16
KINDS = ("points", "box", "mask")


def encode(kinds: Sequence[str] = KINDS, preprocessing: Preprocessing = PREPROCESSING, **parts: Any) -> DecoderInputs:
    return encode_prompt(Prompt(**parts), preprocessing.frame(SIZE), preprocessing, SIDE, kinds)


def tokens(feeds: DecoderInputs) -> list[tuple[float, float, float]]:
    """(x, y, label) of each token, in order."""
    assert feeds.point_coords.dtype == feeds.point_labels.dtype == feeds.mask_input.dtype == np.float32
    assert feeds.mask_input.shape == (SIDE, SIDE)
    return [
        (round(float(x), 4), round(float(y), 4), float(label))
        for (x, y), label in zip(feeds.point_coords, feeds.point_labels, strict=True)
    ]


def test_points_get_one_padding_point() -> None:
    feeds = encode(points=[[10, 20], [50, 75], [0.5, 0.25]], labels=[1, 0, 1])
    assert tokens(feeds) == [(6.4, 12.8, 1), (32, 48, 0), (0.32, 0.16, 1), (0, 0, -1)]
    assert feeds.has_mask_input == 0.0
    np.testing.assert_array_equal(feeds.mask_input, np.zeros((SIDE, SIDE)))


def test_a_box_is_two_labelled_corners_and_no_padding_point() -> None:
    # 11 * 0.64 = 7.04, 22 * 0.64 = 14.08, 79 * 0.64 = 50.56, 99 * 0.64 = 63.36: cut, not rounded.
    assert tokens(encode(box=[11, 22, 79, 99])) == [(7, 14, 2), (50, 63, 3)]
    exact = Preprocessing(64, box_rounding="none")
    assert tokens(encode(preprocessing=exact, box=[11, 22, 79, 99])) == [(7.04, 14.08, 2), (50.56, 63.36, 3)]


def test_points_come_before_the_box() -> None:
    feeds = encode(box=[0, 0, 25, 50], points=[[10, 20], [50, 75]], labels=[0, 1])
    # Points are never cut to whole pixels.
    assert tokens(feeds) == [(6.4, 12.8, 0), (32, 48, 1), (0, 0, 2), (16, 32, 3)]


def test_a_mask_alone_has_no_token() -> None:
    logits = np.random.default_rng(0).normal(size=(SIDE, SIDE))
    feeds = encode(mask=logits)
    assert tokens(feeds) == []
    assert feeds.point_coords.shape == (0, 2)
    assert feeds.has_mask_input == 1.0
    np.testing.assert_array_equal(feeds.mask_input, logits.astype(np.float32))
    np.testing.assert_array_equal(encode(mask=logits[None]).mask_input, feeds.mask_input)


def test_all_three_together() -> None:
    logits = np.full((SIDE, SIDE), 3.0, np.float32)
    feeds = encode(points=[[10, 20]], box=[0, 0, 25, 50], mask=logits)
    assert tokens(feeds) == [(6.4, 12.8, 1), (0, 0, 2), (16, 32, 3)]
    np.testing.assert_array_equal(feeds.mask_input, logits)


def test_labels_are_1_when_left_out() -> None:
    assert [label for _, _, label in tokens(encode(points=[[1, 1], [2, 2]]))] == [1, 1, -1]


@pytest.mark.parametrize(
    ("parts", "plain"),
    [
        ({"points": (10, 20)}, {"points": [[10, 20]]}),
        ({"points": (10, 20), "labels": 0}, {"points": [[10, 20]], "labels": [0]}),
        ({"points": np.array([[10, 20]], np.uint8)}, {"points": [[10, 20]]}),
        ({"points": [[10, 20]], "labels": [True]}, {"points": [[10, 20]], "labels": [1]}),
        ({"points": [[10, 20]], "labels": np.array([0.0])}, {"points": [[10, 20]], "labels": [0]}),
        ({"box": np.array([[1, 2, 30, 40]])}, {"box": (1, 2, 30, 40)}),
    ],
)
def test_other_ways_to_write_the_same_prompt(parts: dict[str, Any], plain: dict[str, Any]) -> None:
    assert tokens(encode(**parts)) == tokens(encode(**plain))


@pytest.mark.parametrize("point", [(0, 0), (79, 99), (79.99, 0), (0, 99.99), (79.99, 99.99)])
def test_points_on_the_border_are_inside(point: tuple[float, float]) -> None:
    assert tokens(encode(points=[point]))[0] == (round(point[0] * 0.64, 4), round(point[1] * 0.64, 4), 1)


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ((0, 0, 80, 100), [(0, 0, 2), (51, 64, 3)]),  # the whole image: 51.2 is cut
        ((79, 99, 80, 100), [(50, 63, 2), (51, 64, 3)]),  # its last pixel
        ((10.5, 10.5, 10.75, 10.75), [(6, 6, 2), (6, 6, 3)]),
    ],
)
def test_boxes_on_the_border_are_inside(box: tuple[float, ...], corners: list[tuple[float, ...]]) -> None:
    assert tokens(encode(box=box)) == corners


@given(st.floats(0, 80, exclude_max=True), st.floats(0, 100, exclude_max=True))
def test_every_point_inside_is_taken(x: float, y: float) -> None:
    feeds = encode(points=[[x, y]])
    np.testing.assert_array_equal(feeds.point_coords[0], np.float32([x * 0.64, y * 0.64]))


NAN, INF = float("nan"), float("inf")
INSIDE = "points must lie inside the image, 0 <= x < 80 and 0 <= y < 100, got (x, y) = "
POINT_SHAPE = "points must have shape [K, 2] with (x, y) rows and K >= 1, got shape "
BOX_INSIDE = "box must lie inside the image, 0 <= x0 < x1 <= 80 and 0 <= y0 < y1 <= 100, got "
BOX_SHAPE = "box must be 4 numbers (x0, y0, x1, y1), got shape "
BOX_ORDER = "box must have x0 < x1 and y0 < y1, got "
MASK_SHAPE = (
    "mask prompt of the wrong shape or dtype: expected [100, 80] bool or integers (the image's size), or low-res "
    "logits [16, 16] floats; got "
)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        # Points
        ({"points": [[80, 5]]}, INSIDE + "(80.0, 5.0)"),
        ({"points": [[5, 100]]}, INSIDE + "(5.0, 100.0)"),
        ({"points": [[-0.01, 5]]}, INSIDE + "(-0.01, 5.0)"),
        ({"points": [[5, -1]]}, INSIDE + "(5.0, -1.0)"),
        # (y, x) order is the common mistake: only those that give it away are named.
        ({"points": [[5, 5], [99, 7], [90, 79]]}, INSIDE + "(99.0, 7.0), (90.0, 79.0)"),
        ({"points": [[NAN, 5]]}, "points must be finite, got [[nan, 5.0]]"),
        ({"points": [[5, INF]]}, "points must be finite, got [[5.0, inf]]"),
        ({"points": [[5, None]]}, "points must be finite, got [[5.0, nan]]"),
        ({"points": []}, POINT_SHAPE + "[0]"),
        ({"points": np.zeros((0, 2))}, POINT_SHAPE + "[0, 2]"),
        ({"points": 5}, POINT_SHAPE + "[]"),
        ({"points": [1, 2, 3]}, POINT_SHAPE + "[3]"),
        ({"points": [[1, 2, 3]]}, POINT_SHAPE + "[1, 3]"),
        ({"points": [[[1, 2]]]}, POINT_SHAPE + "[1, 1, 2]"),
        ({"points": [[1, 2], [3]]}, "points must be numbers, got [[1, 2], [3]]"),
        ({"points": "center"}, "points must be numbers, got 'center'"),
        ({"points": [["left", "top"]]}, "points must be numbers, got [['left', 'top']]"),
        ({"points": [[1j, 2]]}, "points must be numbers, got [[1j, 2]]"),
        ({"points": [[10**400, 2]]}, "points must be numbers, got [[10000"),
        ({"points": {"x": 1, "y": 2}}, "points must be numbers, got {'x': 1, 'y': 2}"),
        # Labels
        ({"points": [[1, 2]], "labels": [1, 0]}, "labels must have one entry per point, expected 1, got shape [2]"),
        ({"points": [[1, 2]], "labels": []}, "labels must have one entry per point, expected 1, got shape [0]"),
        ({"points": [[1, 2]], "labels": [[1]]}, "labels must have one entry per point, expected 1, got shape [1, 1]"),
        ({"points": [[1, 2]], "labels": [2]}, "labels must be 1 (the object) or 0 (not the object), got [2.0]"),
        ({"points": [[1, 2]], "labels": [-1]}, "labels must be 1 (the object) or 0 (not the object), got [-1.0]"),
        ({"points": [[1, 2]], "labels": [0.5]}, "labels must be 1 (the object) or 0 (not the object), got [0.5]"),
        ({"points": [[1, 2]], "labels": [NAN]}, "labels must be finite, got [nan]"),
        ({"points": [[1, 2]], "labels": ["yes"]}, "labels must be numbers, got ['yes']"),
        ({"labels": [1]}, "got labels without points; expected at least one of: points, box, mask"),
        ({"labels": [1], "box": [1, 2, 3, 4]}, "got labels without points; give as many points as labels"),
        # Box
        ({"box": [30, 10, 20, 40]}, BOX_ORDER + "(30.0, 10.0, 20.0, 40.0)"),
        ({"box": [10, 40, 20, 30]}, BOX_ORDER + "(10.0, 40.0, 20.0, 30.0)"),
        ({"box": [10, 10, 10, 40]}, BOX_ORDER + "(10.0, 10.0, 10.0, 40.0)"),
        ({"box": [10, 10, 20, 10]}, BOX_ORDER + "(10.0, 10.0, 20.0, 10.0)"),
        ({"box": [-1, 0, 20, 20]}, BOX_INSIDE + "(-1.0, 0.0, 20.0, 20.0)"),
        ({"box": [0, -0.5, 20, 20]}, BOX_INSIDE + "(0.0, -0.5, 20.0, 20.0)"),
        ({"box": [0, 0, 80.5, 20]}, BOX_INSIDE + "(0.0, 0.0, 80.5, 20.0)"),
        ({"box": [0, 0, 20, 101]}, BOX_INSIDE + "(0.0, 0.0, 20.0, 101.0)"),
        ({"box": [1, 2, 3]}, BOX_SHAPE + "[3]"),
        ({"box": []}, BOX_SHAPE + "[0]"),
        ({"box": [[1, 2], [3, 4]]}, BOX_SHAPE + "[2, 2]"),
        ({"box": [[1, 2, 3, 4], [5, 6, 7, 8]]}, BOX_SHAPE + "[2, 4]"),
        ({"box": [1, 2, NAN, 4]}, "box must be finite, got [1.0, 2.0, nan, 4.0]"),
        ({"box": "1 2 3 4"}, "box must be numbers, got '1 2 3 4'"),
        # Mask
        ({"mask": np.zeros((80, 100), bool)}, MASK_SHAPE + "[80, 100] bool"),
        ({"mask": np.zeros((16, 16), np.uint8)}, MASK_SHAPE + "[16, 16] uint8"),
        ({"mask": np.zeros((2, 100, 80), bool)}, MASK_SHAPE + "[2, 100, 80] bool"),
        ({"mask": np.zeros((100, 80), np.float32)}, MASK_SHAPE + "[100, 80] float32"),
        ({"mask": np.zeros((32, 32))}, MASK_SHAPE + "[32, 32] float64"),
        ({"mask": np.zeros((3, 16, 16), np.float32)}, MASK_SHAPE + "[3, 16, 16] float32"),
        ({"mask": np.zeros((16, 16), complex)}, MASK_SHAPE + "[16, 16] complex128"),
        ({"mask": []}, MASK_SHAPE + "[0] float64"),
        ({"mask": "tumour.png"}, MASK_SHAPE + "[] <U10"),
        ({"mask": np.full((16, 16), NAN)}, "mask prompt must be finite, got NaN or infinity"),
        ({"mask": np.full((16, 16), -INF, np.float32)}, "mask prompt must be finite, got NaN or infinity"),
        ({"mask": [[True, False], [True]]}, "mask prompt must be one array, got something that is none: "),
        # Nothing
        ({}, "got no prompt at all; expected at least one of: points, box, mask"),
    ],
)
def test_errors_say_what_was_expected_and_what_came(parts: dict[str, Any], text: str) -> None:
    with pytest.raises(PromptError, match=re.escape(text)):
        encode(**parts)
    # Also for those who do not know this package.
    with pytest.raises(ValueError, match=re.escape(text)):
        encode(**parts)


@pytest.mark.parametrize(
    ("kinds", "parts", "text"),
    [
        (("box",), {"points": [[1, 2]]}, "this bundle takes no points; it takes: box"),
        (("points", "box"), {"mask": np.zeros((16, 16))}, "this bundle takes no mask; it takes: points, box"),
        (
            ("box",),
            {"points": [[1, 2]], "box": [0, 0, 5, 5], "mask": np.zeros((16, 16))},
            "this bundle takes no points and no mask; it takes: box",
        ),
        (("box",), {}, "got no prompt at all; expected at least one of: box"),
    ],
)
def test_a_kind_that_the_bundle_lacks(kinds: tuple[str, ...], parts: dict[str, Any], text: str) -> None:
    with pytest.raises(PromptError, match=re.escape(text)):
        encode(kinds=kinds, **parts)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_a_mask_of_the_image_becomes_certain_logits_in_its_place(dtype: type) -> None:
    # 128 x 96 fills 16 x 12 cells of 8 x 8 pixels.
    frame = PREPROCESSING.frame((128, 96))
    mask = np.zeros((128, 96), dtype)
    mask[16:48, 40:64] = True if dtype is bool else 255 // 2
    mask[64:72, 4:8] = 1  # half of one cell
    feeds = encode_prompt(Prompt(mask=mask), frame, PREPROCESSING, SIDE, KINDS)
    expected = np.full((SIDE, SIDE), -10.0, np.float32)  # the padding is certain not to be the object
    expected[2:6, 5:8] = 10
    expected[8, 0] = 0
    np.testing.assert_allclose(feeds.mask_input, expected, atol=1e-5)
    assert feeds.has_mask_input == 1.0
    as_list = encode_prompt(Prompt(mask=mask[None].tolist()), frame, PREPROCESSING, SIDE, KINDS)
    np.testing.assert_array_equal(as_list.mask_input, feeds.mask_input)


def test_the_dtype_tells_the_two_masks_apart_when_the_shapes_are_the_same() -> None:
    frame = PREPROCESSING.frame((SIDE, SIDE))
    ones = np.ones((SIDE, SIDE))
    for mask, logit in ((ones, 1.0), (ones.astype(np.int32), 10.0), (ones.astype(bool), 10.0)):
        feeds = encode_prompt(Prompt(mask=mask), frame, PREPROCESSING, SIDE, KINDS)
        np.testing.assert_array_equal(feeds.mask_input, np.full((SIDE, SIDE), logit, np.float32))


def test_kinds_are_named_in_the_order_of_the_decoder() -> None:
    assert Prompt().kinds == ()
    assert Prompt(labels=[1]).kinds == ()
    assert Prompt(mask=np.zeros((2, 2)), box=[0, 0, 1, 1], points=[[0, 0]]).kinds == ("points", "box", "mask")


def test_the_feeds_do_not_share_memory_with_the_users_logits() -> None:
    # Otherwise a change while another thread decodes would change the mask.
    logits = np.zeros((SIDE, SIDE), np.float32)
    feeds = encode(mask=logits)
    logits[:] = 5
    assert not feeds.mask_input.any()


def test_a_sigmoid_mask_prompt_is_the_probability() -> None:
    logits = np.random.default_rng(1).normal(size=(SIDE, SIDE)).astype(np.float32) * 200
    frame, preprocessing = PREPROCESSING.frame(SIZE), replace(PREPROCESSING, mask_prompt="sigmoid")
    feeds = encode_prompt(Prompt(mask=logits), frame, preprocessing, SIDE, KINDS)
    assert feeds.mask_input.dtype == np.float32
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(feeds.mask_input, 1 / (1 + np.exp(-logits.astype(np.float64))), atol=1e-6)
    whole = encode_prompt(Prompt(mask=np.ones(SIZE, bool)), frame, preprocessing, SIDE, KINDS).mask_input
    filled = [round(length * SIDE / 64) for length in frame.resized_size]
    np.testing.assert_allclose(whole[: filled[0], : filled[1]], 1, atol=1e-4)
    # The padding is certain not to be the object.
    np.testing.assert_allclose(whole[:, filled[1] :], 0, atol=1e-4)
    # Without a mask there is nothing to turn into a probability.
    assert not encode_prompt(Prompt(box=[1, 2, 3, 4]), frame, preprocessing, SIDE, KINDS).mask_input.any()
