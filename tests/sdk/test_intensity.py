import tracemalloc
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk import Predictor
from samsdk.intensity import normalise, to_uint8

RULE = "uint8_or_minmax"


@pytest.fixture(autouse=True)
def no_numeric_warnings():
    """A cast of NaN, a division by zero and an overflow are warnings of numpy, and all of them are bugs here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(np.array([False, True]), [0, 255], id="bool"),
        pytest.param(np.array([0, 7, 255], np.uint8), [0, 7, 255], id="uint8 is kept"),
        pytest.param(np.array([3, 5], np.uint8), [3, 5], id="uint8 of a narrow range is not stretched"),
        pytest.param(np.array([0, 255], np.uint16), [0, 255], id="uint16 within 255 is kept"),
        pytest.param(np.array([10, 255], np.uint16), [10, 255], id="uint16 up to 255 is not stretched"),
        pytest.param(np.array([10, 255], np.float32), [10, 255], id="float up to 255 is not stretched"),
        pytest.param(np.array([0, 1], np.uint16), [0, 1], id="integers within 0-1 are levels, not shares"),
        pytest.param(np.array([0, 256], np.uint16), [0, 255], id="uint16 just above 255"),
        pytest.param(np.array([1000, 1500, 65535], np.uint16), [0, 2, 255], id="12 to 16 bits"),
        pytest.param(np.array([-1, 0, 1], np.int8), [0, 128, 255], id="int8 negative"),
        pytest.param(np.array([-1000, 0, 3000], np.int16), [0, 64, 255], id="int16 HU"),
        pytest.param(np.array([0, 2**63 - 1], np.int64), [0, 255], id="int64"),
        pytest.param(np.array([0, 2**64 - 1], np.uint64), [0, 255], id="uint64"),
        pytest.param(np.array([0.0, 0.5, 1.0], np.float32), [0, 128, 255], id="float32 0-1"),
        pytest.param(np.array([0.25, 0.5], np.float16), [64, 128], id="float16 within 0-1 is not stretched"),
        pytest.param(np.array([0.0, 1.5, 2.5, 254.6], np.float64), [0, 2, 2, 255], id="float64 0-255, half to even"),
        pytest.param(np.array([-1024.0, 976.0, 1024.0], np.float32), [0, 249, 255], id="float32 HU"),
        pytest.param(np.array([0.0, 255.5], np.float32), [0, 255], id="float just above 255"),
        pytest.param(np.array([-0.5, 0.0, 0.5], np.float32), [0, 128, 255], id="float around 0"),
        pytest.param(np.array([-60000, 60000], np.float16), [0, 255], id="float16 whose range is beyond float16"),
    ],
)
def test_to_uint8_gives_the_levels_worked_out_by_hand(values: NDArray[np.generic], expected: list[int]) -> None:
    for image in (values[None], values[:, None], np.stack([values[None]] * 3, axis=-1)):
        result = to_uint8(image, RULE)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, np.asarray(expected, np.uint8).reshape(-1)[_levels(image)])


def _levels(image: NDArray[np.generic]) -> NDArray[np.intp]:
    """The index of each value in the sorted list; all parameter lists above are sorted and without duplicates."""
    return np.unique(image, return_inverse=True)[1].reshape(image.shape)


def test_colour_is_stretched_over_all_channels_at_once() -> None:
    # A stretch for each channel would make every channel 0 and 255 and change the hue.
    image = np.array([[[0, 100, 200], [50, 150, 510]]], np.uint16)
    np.testing.assert_array_equal(to_uint8(image, RULE), [[[0, 50, 100], [25, 75, 255]]])


@pytest.mark.parametrize("value", [-1000, 0, 1, 200, 300, 65535])
@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_a_constant_image_has_finite_levels(value: int, dtype: type) -> None:
    result = to_uint8(np.full((2, 3), value, dtype), RULE)
    # Out of 0-255 there is no range to stretch; within, the value is already a level, or for floats a share.
    level = 0 if not 0 <= value <= 255 else 255 if value == 1 and dtype is not np.int32 else value
    np.testing.assert_array_equal(result, np.full((2, 3), level))


def at_once(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The rule for what is not uint8 or bool, on the whole image in float64."""
    low, high = float(image.min()), float(image.max())
    values = image.astype(np.float64)
    if low < 0 or high > 255:
        values = (values - low) * (255.0 / max(high - low, 1e-8))
    elif high <= 1 and np.issubdtype(image.dtype, np.floating):
        values *= 255.0
    return np.rint(values).astype(np.uint8)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        *((np.uint16, 0, 65535), (np.uint16, 3, 250), (np.int16, -1024, 3071), (np.int64, -(2**40), 2**50)),
        *((np.float16, 0, 1), (np.float32, 0, 1), (np.float32, 0.5, 254.5), (np.float64, -1e5, 1e-3)),
    ],
)
@pytest.mark.parametrize("shape", [(701, 1601), (1, 1200), (600, 700, 3)])
def test_rows_some_at_a_time_have_the_bits_of_all_at_once(
    dtype: type, low: float, high: float, shape: tuple[int, ...]
) -> None:
    image = (np.random.default_rng(0).random(shape) * (high - low) + low).astype(dtype)
    for one in (image, image[::-1, ::2], np.asfortranarray(image)):
        np.testing.assert_array_equal(to_uint8(one, RULE), at_once(one))


def test_memory_does_not_grow_with_the_image_beside_its_levels() -> None:
    beside = []
    for rows in (1000, 4000):
        image = np.random.default_rng(0).integers(0, 4096, (rows, 4000)).astype(np.uint16)
        tracemalloc.start()
        levels = to_uint8(image, RULE)
        beside.append(tracemalloc.get_traced_memory()[1] - levels.nbytes)
        tracemalloc.stop()
    assert beside[1] < 1.1 * beside[0]
    # A band of 2**20 numbers in float64, and what rounds it; all at once it would be 128 MB and more.
    assert beside[1] < 20e6


def test_to_uint8_does_not_change_its_input() -> None:
    image = np.array([[-1.0, 3.0]])
    to_uint8(image, RULE)
    np.testing.assert_array_equal(image, [[-1.0, 3.0]])


def test_normalise_equals_float64_arithmetic_rounded_once() -> None:
    rng = np.random.default_rng(0)
    for low, high in ((0, 255), (17, 203), (5, 6), (0, 1)):
        image = rng.integers(low, high + 1, (40, 40, 3)).astype(np.uint8)
        image[0, 0] = low
        image[0, 1] = high
        # The published code divides in float64 and casts when it makes the tensor.
        expected = ((image.astype(np.float64) - low) / (high - low)).astype(np.float32)
        result = normalise(image, "minmax")
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(
        normalise(np.array([[10, 30, 50]], np.uint8), "minmax"), np.array([[0, 0.5, 1]], np.float32)
    )


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_a_constant_image_is_normalised_to_zeros(level: int) -> None:
    np.testing.assert_array_equal(normalise(np.full((3, 4, 3), level, np.uint8), "minmax"), np.zeros((3, 4, 3)))


def test_unknown_rules_are_named_with_the_known_ones() -> None:
    image = np.zeros((1, 1), np.uint8)
    with pytest.raises(ValueError, match=r"unknown intensity rule 'ct', expected one of: uint8_or_minmax"):
        to_uint8(image, "ct")
    with pytest.raises(ValueError, match=r"unknown normalisation rule 'imagenet', expected one of: minmax"):
        normalise(image, "imagenet")


def embed(predictor: Predictor, image: NDArray[np.generic]) -> NDArray[np.float32]:
    return predictor.encode(image).image_embeddings


@pytest.mark.parametrize(
    "same",
    [
        pytest.param(lambda image: image / 255, id="float64 0-1"),
        pytest.param(lambda image: (image / 255).astype(np.float32), id="float32 0-1"),
        pytest.param(lambda image: image.astype(np.float32), id="float32 0-255"),
        pytest.param(lambda image: image.astype(np.float16), id="float16 0-255"),
        pytest.param(lambda image: image.astype(np.uint16), id="uint16"),
        pytest.param(lambda image: image.astype(np.int64), id="int64"),
        pytest.param(lambda image: image.astype(">u2"), id="big endian"),
        pytest.param(lambda image: np.asfortranarray(image), id="Fortran order"),
        pytest.param(lambda image: np.dstack([image, image[..., :1] // 2]), id="RGBA"),
    ],
)
def test_other_forms_of_an_image_have_the_same_embedding(predictor: Predictor, tissue: NDArray[np.uint8], same) -> None:
    np.testing.assert_array_equal(embed(predictor, same(tissue)), embed(predictor, tissue))


def test_16_bits_have_the_embedding_of_their_8_bits(predictor: Predictor, cell: NDArray[np.uint8]) -> None:
    # Full range, so that the stretch from 0-65535 gives back the 8 bits.
    image = cell.copy()
    image[0, :2] = 0, 255
    np.testing.assert_array_equal(embed(predictor, image.astype(np.uint16) * 257), embed(predictor, image))


def test_grey_has_the_embedding_of_grey_repeated_three_times(predictor: Predictor, cell: NDArray[np.uint8]) -> None:
    grey = embed(predictor, cell)
    np.testing.assert_array_equal(embed(predictor, np.dstack([cell] * 3)), grey)
    np.testing.assert_array_equal(embed(predictor, cell[..., None]), grey)
    # Guards the comparisons of this file: another image has another embedding.
    assert np.abs(embed(predictor, 255 - cell) - grey).max() > 1e-3


@pytest.mark.parametrize("image", [np.zeros((9, 5), bool), np.full((4, 7), -3.5), np.full((5, 5, 3), 200, np.uint8)])
def test_constant_images_have_the_embedding_of_black(predictor: Predictor, image: NDArray[np.generic]) -> None:
    # The stretch leaves nothing of a constant but zeros, which the padding has too.
    embedding = embed(predictor, image)
    assert np.isfinite(embedding).all()
    np.testing.assert_array_equal(embedding, embed(predictor, np.zeros((64, 64), np.uint8)))
