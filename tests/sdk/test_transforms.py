import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from samsdk.transforms import Frame, Preprocessing

LITE = Preprocessing(256, box_rounding="truncate")


def published_input(image: NDArray[np.uint8], size: int = 256) -> NDArray[np.float32]:
    """LiteMedSAM's preprocessing (CVPR24_LiteMedSAM_infer.py), stated again from its description."""
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=-1)
    old_h, old_w = image.shape[:2]
    scale = size * 1.0 / max(old_h, old_w)
    # The published code has no lower bound, and cannot resize an image narrower than half a pixel of the square.
    new_h, new_w = max(1, int(old_h * scale + 0.5)), max(1, int(old_w * scale + 0.5))
    image = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_AREA)
    scaled = (image - image.min()) / np.clip(image.max() - image.min(), a_min=1e-8, a_max=None)
    padded = np.pad(scaled, ((0, size - new_h), (0, size - new_w), (0, 0)))
    return padded.transpose(2, 0, 1)[None].astype(np.float32)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((660, 550), id="portrait"),
        pytest.param((301, 517), id="landscape"),
        pytest.param((512, 512), id="square"),
        pytest.param((256, 256), id="as it is"),
        pytest.param((256, 100), id="only padded"),
        pytest.param((3, 2), id="tiny"),
        pytest.param((1, 1), id="one pixel"),
        pytest.param((1, 500), id="one row"),
        pytest.param((700, 1), id="one column, thinner than a pixel of the square"),
        pytest.param((1100, 900), id="large"),
    ],
)
@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "RGB"])
def test_apply_image_is_the_published_preprocessing_bit_for_bit(size: tuple[int, int], channels: tuple[int]) -> None:
    rng = np.random.default_rng(sum(size))
    # Between 20 and 220, so that the min-max rule has something to do.
    image = rng.integers(20, 221, size + channels).astype(np.uint8)
    result, frame = LITE.apply_image(image)
    assert result.dtype == np.float32
    assert result.shape == (1, 3, 256, 256)
    np.testing.assert_array_equal(result, published_input(image))
    assert frame.original_size == size


def test_real_images_too(cell: NDArray[np.uint8], tissue: NDArray[np.uint8]) -> None:
    for image in (cell, tissue, tissue[:, 100:140], np.ascontiguousarray(tissue[::-1, ::-1])):
        np.testing.assert_array_equal(LITE.apply_image(image)[0], published_input(image))


def test_the_range_is_that_of_the_whole_resized_image_before_padding() -> None:
    # 100 is the minimum of the image; the padding must stay 0 and must not count as the minimum.
    image = np.full((128, 256, 3), 100, np.uint8)
    image[..., 1] = 150
    image[..., 2] = 200
    result = LITE.apply_image(image)[0][0]
    for channel, value in enumerate((0.0, 0.5, 1.0)):
        np.testing.assert_array_equal(result[channel, :128], np.full((128, 256), value, np.float32))
    np.testing.assert_array_equal(result[:, 128:], np.zeros((3, 128, 256)))


def test_linear_interpolation_is_opencvs() -> None:
    image = np.random.default_rng(1).integers(0, 256, (90, 60, 3)).astype(np.uint8)
    resized = cv2.resize(image, (21, 32), interpolation=cv2.INTER_LINEAR).astype(np.float64)
    expected = ((resized - resized.min()) / (resized.max() - resized.min())).astype(np.float32)
    result = Preprocessing(32, interpolation="linear").apply_image(image)[0]
    np.testing.assert_array_equal(result[0, :, :32, :21], expected.transpose(2, 0, 1))
    assert not result[..., 21:].any()


@pytest.mark.parametrize(
    ("original", "resized"),
    [
        ((660, 550), (256, 213)),
        ((550, 660), (213, 256)),
        ((512, 512), (256, 256)),
        ((3, 2), (256, 171)),
        ((1, 1), (256, 256)),
        ((1, 500), (1, 256)),
        ((1, 513), (1, 256)),  # 0.499 pixels: the published rounding alone would give no row at all
        ((3, 512), (2, 256)),  # 1.5 pixels: half goes up, where Python's round would go to the even number
        ((5, 512), (3, 256)),  # 2.5 pixels
        ((2400, 3000), (205, 256)),
    ],
)
def test_frames(original: tuple[int, int], resized: tuple[int, int]) -> None:
    assert LITE.frame(original) == Frame(original, resized, 256, (0, 0, original[1], original[0]))


def test_coordinates_take_one_factor_for_both_axes() -> None:
    frame = LITE.frame((640, 512))
    result = LITE.apply_coords(np.array([[0, 0], [511, 639], [10.5, 20.25], [512, 640]]), frame)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.float32([[0, 0], [204.4, 255.6], [4.2, 8.1], [204.8, 256]]))


SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_coordinates_come_back(height: int, width: int, shares: list[tuple[float, float]]) -> None:
    frame = LITE.frame((height, width))
    points = np.array(shares) * (width, height)
    square = LITE.apply_coords(points, frame)
    # Up to half a pixel of rounding of the resized side; nothing lands in the middle of the padding.
    assert (square >= 0).all()
    assert (square <= np.array(frame.resized_size[::-1]) + 0.5 + 1e-3).all()
    back = square.astype(np.float64) * (max(height, width) / 256)
    # float32 holds 24 bits.
    np.testing.assert_allclose(back, points, rtol=2**-23, atol=1e-30)


@given(SIDES, SIDES, st.data())
def test_boxes_are_the_published_loop(height: int, width: int, data: st.DataObject) -> None:
    box = [data.draw(st.floats(0, side)) for side in (width, height, width, height)]
    ratio = 256 / max(height, width)
    frame = LITE.frame((height, width))
    np.testing.assert_array_equal(LITE.apply_boxes(np.array(box), frame), [int(value * ratio) for value in box])
    exact = Preprocessing(256).apply_boxes(np.array(box), frame)
    np.testing.assert_array_equal(exact, np.float32([value * ratio for value in box]))


def test_boxes_by_hand() -> None:
    frame = LITE.frame((660, 550))
    # 256 / 660 = 0.38787...: 10 -> 3.88, 20 -> 7.76, 550 -> 213.3, 660 -> 256
    np.testing.assert_array_equal(LITE.apply_boxes(np.array([10, 20, 550, 660]), frame), [3, 7, 213, 256])
    boxes = np.array([[[0, 0, 1, 1]], [[100, 100, 200, 300]]])
    np.testing.assert_array_equal(LITE.apply_boxes(boxes, frame), [[[0, 0, 0, 0]], [[38, 38, 77, 116]]])


def test_apply_mask_holds_the_share_of_foreground_of_each_cell() -> None:
    rng = np.random.default_rng(2)
    mask = rng.random((64, 32)) < 0.4
    preprocessing = Preprocessing(64)
    result = preprocessing.apply_mask(mask, preprocessing.frame((64, 32)), 16)
    assert result.dtype == np.float32
    # 4x4 pixels to a cell.
    shares = mask.reshape(16, 4, 8, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(result[:, :8], shares, atol=1e-6)
    np.testing.assert_array_equal(result[:, 8:], np.zeros((16, 8)))


@pytest.mark.parametrize("value", [True, 1, 255, -3])
def test_apply_mask_takes_whatever_is_not_zero(value: int) -> None:
    mask = np.zeros((8, 8), type(value))
    mask[2:4, 4:8] = value
    preprocessing = Preprocessing(64)
    expected = np.zeros((16, 16), np.float32)
    expected[4:8, 8:16] = 1
    result = preprocessing.apply_mask(np.kron(mask, np.ones((8, 8), mask.dtype)), preprocessing.frame((64, 64)), 16)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("size", "cells"), [((1, 500), (1, 16)), ((900, 2), (16, 1)), ((3, 2), (16, 11))])
def test_apply_mask_fills_exactly_the_cells_of_the_image(size: tuple[int, int], cells: tuple[int, int]) -> None:
    preprocessing = Preprocessing(64)
    expected = np.zeros((16, 16), np.float32)
    expected[: cells[0], : cells[1]] = 1
    result = preprocessing.apply_mask(np.ones(size, bool), preprocessing.frame(size), 16)
    np.testing.assert_allclose(result, expected, atol=1e-6)


WINDOWS = [(0, 0, 60, 90), (7, 11, 40, 30), (59, 0, 60, 90), (20, 89, 21, 90), (0, 40, 60, 90)]


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_is_the_crop_by_hand_with_shifted_coordinates(window: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(4)
    image = rng.integers(20, 221, (90, 60, 3)).astype(np.uint8)
    x0, y0, x1, y1 = window
    got, frame = LITE.apply_image(image, window)
    expected, crop = LITE.apply_image(np.ascontiguousarray(image[y0:y1, x0:x1]))
    np.testing.assert_array_equal(got, expected)
    assert (frame.original_size, frame.window, frame.window_size) == ((90, 60), window, (y1 - y0, x1 - x0))
    assert (frame.resized_size, frame.scales) == (crop.resized_size, crop.scales)
    points = rng.uniform((x0, y0), (x1, y1), (5, 2))
    np.testing.assert_array_equal(LITE.apply_coords(points, frame), LITE.apply_coords(points - (x0, y0), crop))
    box = np.array([x0, y0, x1, y1])
    np.testing.assert_array_equal(LITE.apply_boxes(box, frame), LITE.apply_boxes(box - (x0, y0, x0, y0), crop))
    mask = rng.random((90, 60)) < 0.5
    np.testing.assert_array_equal(
        LITE.apply_mask(mask, frame, 64), LITE.apply_mask(np.ascontiguousarray(mask[y0:y1, x0:x1]), crop, 64)
    )


@pytest.mark.parametrize("window", [(-1, 0, 5, 5), (0, 0, 61, 5), (0, 0, 5, 91), (5, 0, 5, 5), (0, 6, 5, 5)])
def test_a_window_out_of_the_image_or_empty_is_refused(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"expected a window .* inside an image of 60 x 90, got"):
        LITE.frame((90, 60), window)
    with pytest.raises(ValueError, match="expected a window"):
        LITE.apply_image(np.zeros((90, 60), np.uint8), window)


IMAGENET = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def sam(size: int = 128) -> Preprocessing:
    return Preprocessing(size, interpolation="antialiased", normalisation="imagenet_rgb")


def med2d(size: int = 64) -> Preprocessing:
    return Preprocessing(size, "pad_center_or_resize", interpolation="nearest", normalisation="imagenet_bgr_quirk")


def square(size: int = 64) -> Preprocessing:
    return Preprocessing(size, "resize_square", interpolation="cubic")


@pytest.mark.parametrize("size", [(200, 150), (90, 60), (60, 128), (7, 300)])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "RGB"])
def test_segment_anything_s_input(size: tuple[int, int], channels: tuple[int]) -> None:
    image = np.random.default_rng(sum(size)).integers(0, 256, size + channels).astype(np.uint8)
    colour = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    height, width = (int(side * 128 / max(size) + 0.5) for side in size)
    picture = PIL.Image.fromarray(colour).resize((width, size[0]), PIL.Image.Resampling.BILINEAR)
    resized = np.asarray(picture.resize((width, height), PIL.Image.Resampling.BILINEAR))
    expected = np.zeros((1, 3, 128, 128))
    expected[0, :, :height, :width] = ((resized - IMAGENET[0]) / IMAGENET[1]).transpose(2, 0, 1)
    result, frame = sam().apply_image(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert (frame.resized_size, frame.offset) == ((height, width), (0, 0))


@pytest.mark.parametrize("size", [(63, 40), (20, 63), (64, 10), (100, 90), (40, 200), (64, 64), (1, 1)])
def test_sam_med2d_s_input(size: tuple[int, int]) -> None:
    """SAM-Med2D's DataLoader.py, stated again: BGR as OpenCV reads it, normalised as RGB, then padded or stretched."""
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3)).astype(np.uint8)
    values = (image[:, :, ::-1] - IMAGENET[0]) / IMAGENET[1]
    if max(size) < 64:
        top, left = int((64 - size[0]) / 2.0), int((64 - size[1]) / 2.0)
        margins = (top, 64 - size[0] - top), (left, 64 - size[1] - left), (0, 0)
        expected = np.pad(values, margins)
    else:
        expected = cv2.resize(values, (64, 64), interpolation=cv2.INTER_NEAREST)
    result, _ = med2d().apply_image(image)
    np.testing.assert_allclose(result[0].transpose(1, 2, 0), expected, atol=1e-6)


def test_medsam_s_input_fills_the_square() -> None:
    image = np.random.default_rng(3).integers(20, 221, (90, 50, 3)).astype(np.uint8)
    resized = cv2.resize(image, (64, 64), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    expected = (resized - resized.min()) / (resized.max() - resized.min())
    result, frame = square().apply_image(image)
    np.testing.assert_allclose(result[0].transpose(1, 2, 0), expected, atol=1e-6)
    assert frame == Frame((90, 50), (64, 64), 64, (0, 0, 50, 90))


def test_samed_s_input_is_the_share_of_255() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    result, _ = Preprocessing(16, "resize_square", normalisation="unit").apply_image(image)
    np.testing.assert_array_equal(result[0, 1], (image / 255).astype(np.float32))


@pytest.mark.parametrize(
    ("preprocessing", "size", "points", "expected"),
    [
        # Stretched: 64 / 128 down, 64 / 32 across.
        (square(), (128, 32), [[0, 0], [16, 64], [32, 128]], [[0, 0], [32, 32], [64, 64]]),
        (med2d(), (128, 32), [[8, 10]], [[16, 5]]),
        # Centred: 12 and 22 pixels of zeros come first.
        (med2d(), (20, 40), [[0, 0], [10.5, 3], [40, 20]], [[12, 22], [22.5, 25], [52, 42]]),
        # An odd rest: the smaller half comes first.
        (med2d(), (21, 63), [[1, 1]], [[1, 22]]),
    ],
)
def test_coordinates_of_stretched_and_centred_images(preprocessing, size, points, expected) -> None:
    frame = preprocessing.frame(size)
    np.testing.assert_allclose(preprocessing.apply_coords(np.array(points), frame), expected, atol=1e-5)
    box = np.array([*points[0], *points[-1]])
    np.testing.assert_allclose(preprocessing.apply_boxes(box, frame), [*expected[0], *expected[-1]], atol=1e-5)


def test_a_window_of_a_stretched_or_centred_image_is_the_crop_by_hand() -> None:
    image = np.random.default_rng(4).integers(0, 256, (90, 60, 3)).astype(np.uint8)
    points = np.array([[15.0, 30.0], [20.5, 31.0]])
    for preprocessing in (square(), med2d()):
        for x0, y0, x1, y1 in ((10, 20, 50, 50), (0, 5, 60, 90)):
            got, frame = preprocessing.apply_image(image, (x0, y0, x1, y1))
            expected, crop = preprocessing.apply_image(np.ascontiguousarray(image[y0:y1, x0:x1]))
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_allclose(
                preprocessing.apply_coords(points, frame), preprocessing.apply_coords(points - (x0, y0), crop)
            )


def test_masks_of_stretched_and_centred_images_lie_where_the_image_does() -> None:
    mask = np.zeros((20, 40), bool)
    mask[4:12, 8:24] = True
    centred = med2d().apply_mask(mask, med2d().frame((20, 40)), 16)
    expected = np.zeros((64, 64))
    expected[26:34, 20:36] = 1
    np.testing.assert_allclose(centred, expected.reshape(16, 4, 16, 4).mean(axis=(1, 3)), atol=1e-6)
    wide = np.zeros((128, 32), bool)
    wide[32:64, 8:16] = True
    expected = np.zeros((16, 16))
    expected[4:8, 4:8] = 1
    np.testing.assert_allclose(square().apply_mask(wide, square().frame((128, 32)), 16), expected, atol=1e-6)
