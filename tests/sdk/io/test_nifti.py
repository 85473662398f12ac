import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from samsdk.errors import ImageError, MissingExtraError
from samsdk.io.nifti import read_volume, write_mask


def save(path: Path, values: np.ndarray, affine: np.ndarray, unit: str = "mm") -> Path:
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def test_any_orientation_is_turned_to_right_front_head(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    plain = read_volume(save(tmp_path / "a.nii.gz", values, np.diag([0.5, 2, 3, 1.0])))
    # Stored as z, x (backwards), y.
    affine = np.array([[0, -0.5, 0, 0.5], [0, 0, 2, 0], [3, 0, 0, 0], [0, 0, 0, 1.0]])
    turned = read_volume(save(tmp_path / "b.nii", values[::-1].transpose(2, 0, 1), affine))
    for volume in (plain, turned):
        np.testing.assert_array_equal(volume.values, values)
        assert volume.spacing == (0.5, 2, 3)
        np.testing.assert_allclose(volume.affine, np.diag([0.5, 2, 3, 1]))
        assert (volume.oriented, volume.dtype, volume.values.dtype) == (True, "int16", np.float32)


def test_scaled_values_and_lengths_in_other_units(tmp_path: Path) -> None:
    values = np.array([0, 0.5, 1.5], np.float64).reshape(3, 1, 1)
    image = nibabel.Nifti1Image(values, np.diag([300, 400, 500, 1.0]))
    image.header.set_xyzt_units("micron")
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(volume.values, values, atol=1e-4)
    assert volume.spacing == pytest.approx((0.3, 0.4, 0.5))
    assert volume.dtype == "int16"


def test_a_file_without_orientation_says_so(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert not read_volume(tmp_path / "a.nii.gz").oriented


def test_what_is_no_volume_is_an_image_error(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"no volume")
    for name in ("a.nii.gz", "b.nii.gz"):
        with pytest.raises(ImageError, match="is no NIfTI volume"):
            read_volume(tmp_path / name)


def test_without_nibabel_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    for call in (lambda: read_volume(tmp_path / "a.nii"), lambda: write_mask(tmp_path / "a.nii.gz", np.ones((2, 2)))):
        with pytest.raises(MissingExtraError, match=r"samsdk\[medical\]"):
            call()


def test_a_written_mask_reads_back(tmp_path: Path) -> None:
    mask = np.zeros((3, 5), bool)
    mask[1, 4] = True
    write_mask(tmp_path / "a.nii.gz", mask)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").values[:, :, 0].T, mask)
