import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as coco

from samsdk.masks import Region, dice, encode_rle, mask_iou, polygons, reframe_logits, upsample_logits, upsample_region
from samsdk.transforms import Frame, Preprocessing

# pycocotools' own arrays lack an argument that numpy 2 asks for.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


def torch_logits(logits: NDArray[np.float32], frame: Frame) -> NDArray[np.float64]:
    """LiteMedSAM's postprocess_masks; for frames whose part of the logits is a whole number of cells.

    In float64: torch computes in float32 where a pixel lies among the cells, which alone costs it 1e-5 of a logit.
    """
    scale = logits.shape[0] / frame.input_size
    height, width = (side * scale for side in frame.resized_size)
    assert height == int(height)
    assert width == int(width)
    crop = torch.from_numpy(logits[None, None, : int(height), : int(width)]).double()
    size = frame.original_size
    return torch.nn.functional.interpolate(crop, size, mode="bilinear", align_corners=False)[0, 0].numpy()


def pixel_logits(logits: NDArray[np.float32], frame: Frame) -> NDArray[np.float64]:
    """The same by its formula, pixel by pixel in float64; the image may end within a cell."""
    side = logits.shape[0]
    taps = []
    for resized, original in zip(frame.resized_size, frame.original_size, strict=True):
        valid = resized * side / frame.input_size
        last = -(-resized * side // frame.input_size) - 1
        axis = []
        for pixel in range(original):
            centre = min(max((pixel + 0.5) * valid / original - 0.5, 0), last)
            axis.append((int(centre), min(int(centre) + 1, last), centre - int(centre)))
        taps.append(axis)
    full = np.empty(frame.original_size)
    cells = logits.astype(np.float64)
    for row, (top, bottom, down) in enumerate(taps[0]):
        for column, (left, right, across) in enumerate(taps[1]):
            above = cells[top, left] * (1 - across) + cells[top, right] * across
            below = cells[bottom, left] * (1 - across) + cells[bottom, right] * across
            full[row, column] = above * (1 - down) + below * down
    return full


def smooth(rng: np.random.Generator, side: int, blur: float, offset: float = 0.0) -> NDArray[np.float32]:
    """Random logits with blobs as large as `blur`, of about +-5."""
    noise = cv2.GaussianBlur(rng.normal(size=(side, side)).astype(np.float32), (0, 0), blur)
    return np.asarray(noise / noise.std() * 2 + offset, dtype=np.float32)


def check(region: Region, expected: NDArray[np.floating], threshold: float = 0.0) -> NDArray[np.bool_]:
    """Compare a region with full logits; only logits that float32 cannot tell from the threshold may differ."""
    assert region.size == expected.shape
    mask = region.full()
    assert mask.dtype == np.bool_
    wrong = mask != (expected > threshold)
    assert np.abs(expected[wrong] - threshold).max(initial=0) < 1e-5
    # A quarter of a per mille: enough for rounding, too little for a shifted edge.
    assert np.count_nonzero(wrong) <= max(1, wrong.size // 4000)
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None
    assert region.box == box
    assert region.area == len(rows)
    return mask


# With as many logits as input pixels, as LiteMedSAM has them, the padding always ends between two cells.
WHOLE = [
    ((660, 550), 256, 256),
    ((300, 470), 256, 256),
    ((512, 512), 256, 256),
    ((256, 256), 256, 256),  # nothing to interpolate
    ((40, 31), 256, 256),  # the image is smaller than its logits
    ((3, 2), 256, 256),
    ((1, 1), 256, 256),
    ((1, 500), 256, 256),
    ((500, 1), 256, 256),
    ((1500, 2000), 256, 256),
    ((640, 480), 1024, 256),  # SAM's own ratio: 1024 x 768 becomes 256 x 192
    ((96, 128), 64, 16),
]


@pytest.mark.parametrize(("size", "input_size", "side"), WHOLE)
def test_upsample_region_is_torchs_interpolation(size: tuple[int, int], input_size: int, side: int) -> None:
    frame = Preprocessing(input_size).frame(size)
    rng = np.random.default_rng(size)
    for blur, offset in ((side / 10, 0.0), (side / 40, 0.0), (side / 20, -4.0), (side / 20, 4.0)):
        logits = smooth(rng, side, blur, offset)
        expected = torch_logits(logits, frame)
        check(upsample_region(logits, frame), expected)
        np.testing.assert_allclose(upsample_logits(logits[None], frame)[0], expected, rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 32, 64]), st.integers(0, 2**32 - 1))
def test_upsample_region_is_torchs_interpolation_for_any_size(height: int, width: int, side: int, seed: int) -> None:
    frame = Preprocessing(side).frame((height, width))
    rng = np.random.default_rng(seed)
    logits = smooth(rng, side, rng.uniform(0.6, side / 4), rng.uniform(-5, 5))
    threshold = float(rng.choice([0.0, -2.0, 3.0]))
    expected = torch_logits(logits, frame)
    check(upsample_region(logits, frame, threshold), expected, threshold)
    np.testing.assert_allclose(upsample_logits(logits[None], frame)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "input_size", "side"),
    [
        ((66, 55), 64, 16),  # 64 x 53 of 64: the image ends a quarter into the 14th cell
        ((55, 66), 64, 16),
        ((31, 97), 64, 16),
        ((7, 100), 64, 16),  # 4 rows of 64: one cell
        ((1, 100), 64, 16),  # one row of 64: a quarter of a cell
        ((5, 3), 64, 16),
        ((100, 77), 1024, 256),
        ((45, 60), 224, 56),
    ],
)
def test_an_image_that_ends_within_a_cell(size: tuple[int, int], input_size: int, side: int) -> None:
    frame = Preprocessing(input_size).frame(size)
    rng = np.random.default_rng(size)
    for blur, offset in ((side / 8, 0.0), (side / 20, 1.0), (side / 20, -2.0)):
        logits = smooth(rng, side, blur, offset)
        expected = pixel_logits(logits, frame)
        check(upsample_region(logits, frame), expected)
        np.testing.assert_allclose(upsample_logits(logits[None], frame)[0], expected, rtol=0, atol=1e-5)


def test_the_two_references_agree() -> None:
    frame = Preprocessing(64).frame((66, 44))
    logits = smooth(np.random.default_rng(0), 64, 5)
    np.testing.assert_allclose(pixel_logits(logits, frame), torch_logits(logits, frame), atol=1e-5)


def test_what_lies_in_the_padding_has_no_part_in_the_mask() -> None:
    frame = Preprocessing(64).frame((100, 50))  # fills 64 x 32
    logits = np.full((64, 64), -3, np.float32)
    logits[:, 32:] = 50
    region = upsample_region(logits, frame)
    assert region.area == 0
    assert region.box is None
    np.testing.assert_array_equal(upsample_logits(logits[None], frame), np.full((1, 100, 50), -3, np.float32))


def test_upsample_logits_keeps_masks_apart() -> None:
    frame = Preprocessing(64).frame((70, 90))
    rng = np.random.default_rng(3)
    logits = np.stack([smooth(rng, 64, 4) for _ in range(3)])
    together = upsample_logits(logits, frame)
    assert together.shape == (3, 70, 90)
    assert together.dtype == np.float32
    for one, full in zip(logits, together, strict=True):
        np.testing.assert_array_equal(full, upsample_logits(one[None], frame)[0])


def test_region_and_logits_agree_bit_for_bit() -> None:
    # The drop-in `predict` offers both, and thresholding the one must give the other.
    rng = np.random.default_rng(4)
    for size in ((660, 550), (200, 333), (50, 60)):
        frame = Preprocessing(256).frame(size)
        logits = smooth(rng, 256, 4, -1)
        np.testing.assert_array_equal(
            upsample_region(logits, frame).full(), upsample_logits(logits[None], frame)[0] > 0
        )


def test_an_empty_mask() -> None:
    for size in ((30, 40), (300, 400), (1, 1)):
        frame = Preprocessing(64).frame(size)
        # 0 is not above 0.
        for logits in (np.full((64, 64), -1, np.float32), np.zeros((64, 64), np.float32)):
            region = upsample_region(logits, frame)
            assert (region.area, region.box, polygons(region)) == (0, None, [])
            np.testing.assert_array_equal(region.full(), np.zeros(size, bool))


def test_a_cell_that_falls_between_the_pixels_of_a_small_image_is_an_empty_mask() -> None:
    # 4 pixels sample 64 cells at 7.5, 23.5, 39.5 and 55.5; cell 30 is at none of them.
    frame = Preprocessing(64).frame((4, 4))
    logits = np.full((64, 64), -1, np.float32)
    logits[:, 30] = 9
    region = upsample_region(logits, frame)
    assert (region.area, region.box, polygons(region)) == (0, None, [])
    np.testing.assert_array_equal(region.full(), np.zeros((4, 4), bool))
    # Cell 24 is a tap of the second pixel: half of -1 and half of 9.
    logits[:, 24] = 9
    np.testing.assert_array_equal(upsample_region(logits, frame).full(), np.tile([False, True, False, False], (4, 1)))


def test_a_full_mask_touches_all_borders() -> None:
    frame = Preprocessing(64).frame((91, 57))
    region = upsample_region(np.full((64, 64), 0.5, np.float32), frame)
    assert region.box == (0, 0, 57, 91)
    assert region.area == 91 * 57
    assert region.full().all()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 39), (63, 0), (63, 39), (20, 31)])
def test_one_cell_in_corners_and_middle(row: int, column: int) -> None:
    frame = Preprocessing(64).frame((640, 400))  # 64 x 40 cells of 10 x 10 pixels
    logits = np.full((64, 64), -1, np.float32)
    logits[row, column] = 1
    mask = check(upsample_region(logits, frame), torch_logits(logits, frame))
    assert mask[row * 10 + 5, column * 10 + 5]


def test_a_single_pixel() -> None:
    frame = Preprocessing(64).frame((64, 64))
    logits = np.full((64, 64), -1, np.float32)
    logits[40, 13] = 1e-6
    logits[40, 14] = logits[41, 13] = 0  # not above the threshold
    region = upsample_region(logits, frame)
    assert region.box == (13, 40, 14, 41)
    assert region.area == 1
    assert region.full()[40, 13]
    assert [contour.tolist() for contour in polygons(region)] == [[[13, 40]]]


def test_the_box_of_a_region_is_tight_whatever_its_margin() -> None:
    inside = np.zeros((5, 6), bool)
    inside[1:3, 2] = True
    region = Region((20, 30), 7, 11, inside)
    assert region.box == (13, 8, 14, 10)
    assert region.area == 2
    expected = np.zeros((20, 30), bool)
    expected[8:10, 13] = True
    np.testing.assert_array_equal(region.full(), expected)
    assert Region((20, 30), 7, 11, np.zeros((5, 6), bool)).box is None


def whole(mask: NDArray[np.bool_]) -> Region:
    return Region(mask.shape, 0, 0, mask)


def test_polygons_by_hand() -> None:
    # A 3 x 2 block: its contour runs through the centres of all of its pixels, from the top left, downwards first.
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:6] = True
    (contour,) = polygons(Region((100, 100), 10, 20, mask))
    assert contour.dtype == np.int32
    assert contour.tolist() == [[23, 12], [23, 13], [24, 13], [25, 13], [25, 12], [24, 12]]


def test_polygons_join_diagonal_neighbours_and_fill_holes() -> None:
    mask = np.zeros((7, 7), bool)
    mask[0, 0] = mask[1, 1] = True
    mask[2:7, 2:7] = True
    mask[4, 4] = False
    (contour,) = polygons(whole(mask))
    canvas = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [contour], 1)
    mask[4, 4] = True
    np.testing.assert_array_equal(canvas, mask)


@pytest.mark.parametrize("seed", range(12))
def test_polygons_drawn_again_give_the_mask_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = Preprocessing(64).frame((int(rng.integers(40, 400)), int(rng.integers(40, 400))))
    region = upsample_region(smooth(rng, 64, rng.uniform(2, 6), rng.uniform(-3, 1)), frame)
    mask = region.full()
    # Holes are what the background that reaches the outside does not reach; 4-connected, as foreground is 8-connected.
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    filled = outside[1:-1, 1:-1] != 2
    contours = polygons(region)
    canvas = cv2.fillPoly(np.zeros(mask.shape, np.uint8), contours, 1)
    np.testing.assert_array_equal(canvas.astype(bool), filled)
    # One contour for each part that is left when the holes are filled.
    assert len(contours) == cv2.connectedComponents(filled.astype(np.uint8), connectivity=8)[0] - 1
    assert all(mask[y, x] for contour in contours for x, y in contour)


MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


def check_rle(mask: NDArray[np.bool_]) -> None:
    ours = encode_rle(whole(mask))
    # A part of the image that holds the object says the same of all of it.
    x0, y0, x1, y1 = whole(mask).box or (0, 0, 0, 0)
    assert encode_rle(Region((mask.shape[0], mask.shape[1]), y0, x0, mask[y0:y1, x0:x1])) == ours
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert ours == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    np.testing.assert_array_equal(coco.decode(ours), mask)


@settings(deadline=None)
@given(MASKS)
def test_rle_is_pycocotools(mask: NDArray[np.bool_]) -> None:
    check_rle(mask)
    check_rle(~mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 4), (1500, 2000)])
def test_rle_of_nothing_and_of_everything(shape: tuple[int, int]) -> None:
    check_rle(np.zeros(shape, bool))
    check_rle(np.ones(shape, bool))


def test_rle_of_a_large_mask_has_long_and_falling_runs() -> None:
    # Runs of more than 2**15 need four characters; shrinking ones have negative differences.
    frame = Preprocessing(64).frame((700, 900))
    mask = upsample_region(smooth(np.random.default_rng(5), 64, 5), frame).full()
    mask[:, :60] = False
    check_rle(mask)


def test_rle_of_a_cell_on_a_huge_picture_costs_what_the_cell_costs() -> None:
    # 100 gigapixels: as a whole picture it would not fit into memory.
    region = Region((400_000, 250_000), 300_000, 200_000, np.ones((3, 2), bool))
    first = 200_000 * 400_000 + 300_000
    assert counts_of(encode_rle(region)["counts"]) == [first, 3, 399_997, 3, 400_000 * 250_000 - first - 400_003]


def counts_of(text: str) -> list[int]:
    """The run lengths in COCO's text (cocoapi, rleFrString)."""
    counts: list[int] = []
    value, place = 0, 0
    for character in text:
        chunk = ord(character) - 48
        value |= (chunk & 0x1F) << 5 * place
        place += 1
        if not chunk & 0x20:
            if chunk & 0x10:
                value |= -1 << 5 * place
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value, place = 0, 0
    return counts


def test_rle_by_hand() -> None:
    # Down the columns: 1 background, 2 foreground, 1 background.
    assert encode_rle(whole(np.array([[False, True], [True, False]]))) == {"size": [2, 2], "counts": "121"}
    # It starts with background, of which there is none.
    assert encode_rle(whole(np.array([[True], [False]]))) == {"size": [2, 1], "counts": "011"}


T, F = True, False


@pytest.mark.parametrize(
    ("first", "second", "iou", "coefficient"),
    [
        ([F, F, F, F], [F, F, F, F], 1.0, 1.0),
        ([F, F, F, F], [F, T, F, F], 0.0, 0.0),
        ([T, F, F, F], [F, T, F, F], 0.0, 0.0),
        ([T, T, F, F], [T, T, F, F], 1.0, 1.0),
        ([T, T, F, F], [F, T, T, F], 1 / 3, 1 / 2),
        ([T, T, T, F], [T, F, F, F], 1 / 3, 1 / 2),
        ([T, T, T, T], [T, T, T, F], 3 / 4, 6 / 7),
    ],
)
def test_measures_by_hand(first: list[bool], second: list[bool], iou: float, coefficient: float) -> None:
    for one, other in ((first, second), (second, first)):
        pair = np.array(one).reshape(2, 2), np.array(other).reshape(2, 2)
        assert mask_iou(*pair) == iou
        assert dice(*pair) == coefficient


@settings(deadline=None)
@given(MASKS, st.integers(0, 2**32 - 1))
def test_iou_is_pycocotools(mask: NDArray[np.bool_], seed: int) -> None:
    other = mask ^ (np.random.default_rng(seed).random(mask.shape) < 0.3)
    iou = mask_iou(mask, other)
    if mask.any() or other.any():
        assert iou == pytest.approx(coco.iou([encode_rle(whole(mask))], [encode_rle(whole(other))], [0])[0, 0])
    # The two measures are one another's functions.
    assert dice(mask, other) == pytest.approx(2 * iou / (1 + iou))


WHOLE_IMAGE = (0, 0, 90, 120)
REFRAMED = [
    (WHOLE_IMAGE, (20, 30, 60, 70)),
    ((20, 30, 60, 70), WHOLE_IMAGE),
    ((20, 30, 60, 70), (40, 10, 80, 50)),
    (WHOLE_IMAGE, (0, 80, 40, 120)),
    ((50, 0, 90, 30), (60, 0, 90, 40)),
]


def moved_by_hand(logits: NDArray[np.float32], source: Frame, target: Frame, outside: float) -> NDArray[np.float64]:
    """Cell by cell: where its centre lies in the image, and what the source's four cells around that say."""
    side = len(logits)
    valid = [-(-length * side // source.input_size) for length in source.resized_size]
    expected = np.full((side, side), float(outside))
    cells = [max(frame.window_size) / side for frame in (source, target)]
    for row in range(side):
        for column in range(side):
            x = target.window[0] + (column + 0.5) * cells[1] - source.window[0]
            y = target.window[1] + (row + 0.5) * cells[1] - source.window[1]
            if not (0 <= x < source.window_size[1] and 0 <= y < source.window_size[0]):
                continue
            across, down = x / cells[0] - 0.5, y / cells[0] - 0.5
            value = 0.0
            for at_y, share_y in ((np.floor(down), 1 - down % 1), (np.floor(down) + 1, down % 1)):
                for at_x, share_x in ((np.floor(across), 1 - across % 1), (np.floor(across) + 1, across % 1)):
                    nearest = logits[int(np.clip(at_y, 0, valid[0] - 1)), int(np.clip(at_x, 0, valid[1] - 1))]
                    value += share_y * share_x * nearest
            expected[row, column] = value
    return expected


@pytest.mark.parametrize(("before", "after"), REFRAMED)
def test_reframed_logits_are_those_at_the_same_places_of_the_image(
    before: tuple[int, int, int, int], after: tuple[int, int, int, int]
) -> None:
    preprocessing = Preprocessing(64)
    source, target = (preprocessing.frame((120, 90), window) for window in (before, after))
    logits = smooth(np.random.default_rng(3), 32, 2.5)
    got = reframe_logits(logits, source, target, -16.0)
    expected = moved_by_hand(logits, source, target, -16.0)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got == -16, expected == -16)
    # OpenCV knows places to 1/32 of a cell; neighbours differ by less than 3.
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.15)


def test_logits_of_the_same_window_are_left_as_they_are() -> None:
    frame = Preprocessing(64).frame((120, 90), (20, 30, 60, 70))
    logits = smooth(np.random.default_rng(4), 32, 1.0)
    np.testing.assert_array_equal(reframe_logits(logits, frame, frame, -16.0), logits)


def test_a_mask_that_runs_into_the_images_border_does_not_fade_there() -> None:
    preprocessing = Preprocessing(64)
    source, target = preprocessing.frame((640, 640)), preprocessing.frame((640, 640), (0, 0, 80, 80))
    got = reframe_logits(np.full((64, 64), 5, np.float32), source, target, -16.0)
    np.testing.assert_array_equal(got, np.full((64, 64), 5))


@pytest.mark.parametrize("window", [(7, 11, 61, 71), (0, 60, 90, 120), (50, 0, 90, 120)])
def test_the_mask_of_a_window_is_that_of_its_crop_and_nothing_outside(window: tuple[int, int, int, int]) -> None:
    preprocessing = Preprocessing(64)
    x0, y0, x1, y1 = window
    frame, crop = preprocessing.frame((120, 90), window), preprocessing.frame((y1 - y0, x1 - x0))
    logits = smooth(np.random.default_rng(5), 64, 4.0)
    expected = np.zeros((120, 90), bool)
    expected[y0:y1, x0:x1] = upsample_region(logits, crop).full()
    assert expected.any()
    np.testing.assert_array_equal(upsample_region(logits, frame).full(), expected)
    np.testing.assert_array_equal(upsample_logits(logits[None], frame), upsample_logits(logits[None], crop))


def test_masks_of_a_centred_image_are_sam_med2d_s() -> None:
    """Interpolated to the square, then cut out of it: SAM-Med2D's postprocess_masks of a padded image."""
    preprocessing = Preprocessing(64, "pad_center_or_resize", interpolation="nearest")
    for size in ((20, 41), (63, 30), (5, 7)):
        frame = preprocessing.frame(size)
        logits = np.random.default_rng(size[0]).normal(size=(1, 16, 16)).astype(np.float32)
        whole = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], (64, 64), mode="bilinear")[0].numpy()
        top, left = frame.offset
        expected = whole[:, top : top + size[0], left : left + size[1]]
        np.testing.assert_allclose(upsample_logits(logits, frame), expected, atol=1e-5)
        np.testing.assert_array_equal(upsample_region(logits[0], frame).full(), expected[0] > 0)


def test_masks_of_a_stretched_image_are_interpolated_along_each_axis() -> None:
    preprocessing = Preprocessing(64, "resize_square")
    frame = preprocessing.frame((100, 37))
    logits = np.random.default_rng(1).normal(size=(2, 16, 16)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], (100, 37), mode="bilinear")[0].numpy()
    np.testing.assert_allclose(upsample_logits(logits, frame), expected, atol=1e-5)
    np.testing.assert_array_equal(upsample_region(logits[0], frame).full(), expected[0] > 0)


def test_logits_move_between_windows_of_stretched_and_centred_frames() -> None:
    # A plane over the image: at every cell's place its value is known, whatever the frame.
    def places(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows, columns = (
            start + ((np.arange(16) + 0.5) * frame.input_size / 16 - offset) / scale
            for start, offset, scale in zip(frame.window[1::-1], frame.offset, frame.scales, strict=True)
        )
        return np.broadcast_to(rows[:, None], (16, 16)), np.broadcast_to(columns, (16, 16))

    for rule in ("resize_square", "pad_center_or_resize"):
        preprocessing = Preprocessing(64, rule)
        source, target = preprocessing.frame((90, 60)), preprocessing.frame((90, 60), (10, 20, 50, 60))
        rows, columns = places(source)
        moved = reframe_logits((0.3 * columns - 0.2 * rows).astype(np.float32), source, target, -99.0)
        rows, columns = places(target)
        shown = (rows >= 0) & (rows < 90) & (columns >= 0) & (columns < 60)
        np.testing.assert_array_equal(moved != -99, shown)
        # Not at the image's border, where the outermost cell is repeated.
        inner = (rows > 3) & (rows < 87) & (columns > 2) & (columns < 58)
        assert inner.mean() > 0.8
        np.testing.assert_allclose(moved[inner], (0.3 * columns - 0.2 * rows)[inner], atol=2e-2)
