import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from samsdk.resampling import resize_antialiased


def pillow(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Pillow's, along the rows first: newer releases begin with the columns of some upright images."""
    picture = PIL.Image.fromarray(image)
    for length in ((size[1], image.shape[0]), (size[1], size[0])):
        picture = picture.resize(length, PIL.Image.Resampling.BILINEAR)
    return np.asarray(picture)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        pytest.param((97, 131), (64, 86), id="grey, smaller"),
        pytest.param((97, 131, 3), (256, 346), id="colour, larger"),
        pytest.param((300, 40, 3), (128, 17), id="narrow"),
        pytest.param((33, 250, 3), (64, 100), id="larger one way, smaller the other"),
        pytest.param((50, 60, 3), (50, 30), id="one axis alone"),
        pytest.param((50, 60, 3), (50, 60), id="as it is"),
        pytest.param((1, 1, 3), (7, 5), id="one pixel"),
        pytest.param((700, 1), (64, 1), id="one column"),
        pytest.param((513, 257), (1, 1), id="to one pixel"),
    ],
)
def test_is_pillow_s_bit_for_bit(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    image = np.random.default_rng(sum(shape)).integers(0, 256, shape).astype(np.uint8)
    result = resize_antialiased(image, size)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, pillow(image, size))


def test_real_images_too(cell: NDArray[np.uint8], tissue: NDArray[np.uint8]) -> None:
    for image, size in ((cell, (256, 213)), (tissue, (1024, 1024)), (tissue[:, ::-1], (100, 100))):
        np.testing.assert_array_equal(resize_antialiased(image, size), pillow(np.ascontiguousarray(image), size))


def test_extreme_pixels_do_not_run_over() -> None:
    for value in (0, 255):
        image = np.full((64, 90, 3), value, np.uint8)
        assert (resize_antialiased(image, (31, 200)) == value).all()
