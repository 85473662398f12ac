import numpy as np
import pytest

from samsdk.errors import ImageError, SamsdkError, VolumeError
from samsdk.volumes import Volume


def test_an_array_with_a_spacing() -> None:
    volume = Volume.of(np.zeros((5, 4, 3), np.int16), spacing=(2.5, 0.5, 0.75))
    assert volume.shape == (5, 4, 3)
    assert volume.spacing == (2.5, 0.5, 0.75)
    np.testing.assert_array_equal(volume.affine, np.diag([0.75, 0.5, 2.5, 1]))
    assert volume.voxel_ml == pytest.approx(2.5 * 0.5 * 0.75 / 1000)


def test_a_sheared_grid_has_the_volume_of_its_cells() -> None:
    affine = np.array([[0, -2, 0, 5], [1.5, 0, 0.4, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    volume = Volume(np.zeros((2, 2, 2)), affine)
    assert volume.voxel_ml == pytest.approx(0.009)
    assert volume.spacing == pytest.approx((np.hypot(0.4, 3), 2, 1.5))


@pytest.mark.parametrize(
    "spacing",
    [(1, 0, 1), (1, -2, 1), (1, 1), (np.nan, 1, 1), (np.inf, 1, 1), ("a", 1, 1), None, 2.0, (1, (2, 3), 1), (1, 1j, 1)],
)
def test_a_spacing_must_be_positive(spacing: object) -> None:
    with pytest.raises(VolumeError, match="three positive lengths"):
        Volume.of(np.zeros((2, 2, 2)), spacing)


def test_lists_and_whole_numbers_become_arrays() -> None:
    voxels = [[[1, 2], [3, 4]]]
    for volume in (Volume(voxels, np.diag([2, 3, 4, 1])), Volume(voxels, np.diag([2.0, 3, 4, 1]).tolist())):
        np.testing.assert_array_equal(volume.array, np.array(voxels))
        assert volume.affine.dtype == np.float64
        assert (volume.shape, volume.spacing) == ((1, 2, 2), (4.0, 3.0, 2.0))
    assert Volume.of(voxels, [4, 3, 2]).spacing == (4.0, 3.0, 2.0)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((4, 4)), r"2-D image \(4, 4\).*array\[None\]"),
        (np.zeros((4, 4, 4, 2)), "4 of"),
        (np.zeros((0, 4, 4)), "expected 1 to"),
        (np.broadcast_to(np.uint8(0), (2**11, 2**10, 2**10)), "crop the volume"),
        (np.zeros((2, 2, 2), complex), "real numbers"),
        (np.array([[["a"]]]), "real numbers"),
        (np.array([[[None]]]), "real numbers, got object"),
        (None, r"three axes \[D, H, W\], got 0"),
        ("scan", "three axes"),
        ([[[1, 2], [3]]], r"array of numbers \[D, H, W\], got a list"),
        (np.array([[[1, np.nan, -np.inf]]]), "2 non-finite voxels"),
    ],
)
def test_what_is_no_volume_is_named(array: np.ndarray, text: str) -> None:
    with pytest.raises(VolumeError, match=text) as caught:
        Volume.of(array)
    assert isinstance(caught.value, (SamsdkError, ImageError, ValueError))


@pytest.mark.parametrize(
    ("affine", "text"),
    [
        (np.eye(3), r"\[4, 4\]"),
        (np.full((4, 4), np.nan), r"\[4, 4\]"),
        (None, r"\[4, 4\] finite numbers.*got None.*Volume\.of\(array, spacing\)"),
        ("RAS", r"got 'RAS'"),
        (np.eye(4) * 1j, r"\[4, 4\]"),
        ([[1, 0], [0]], r"\[4, 4\]"),
        (np.diag([1.0, 1, 1, 2]), "last row"),
        (np.diag([1.0, 0, 1, 1]), "positive spacing"),
        (np.array([[1.0, 2, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
    ],
)
def test_an_affine_must_span_a_volume(affine: np.ndarray, text: str) -> None:
    with pytest.raises(VolumeError, match=text):
        Volume(np.zeros((2, 2, 2)), affine)
