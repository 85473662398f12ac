import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from samsdk.errors import ImageError, MissingExtraError, OutputError, VolumeError
from samsdk.io.nifti import read_canonical, read_nifti, write_mask, write_nifti
from samsdk.volumes import Volume


def save(path: Path, values: np.ndarray, affine: np.ndarray, unit: str = "mm") -> Path:
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def test_any_orientation_is_turned_to_right_front_head(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    plain = read_canonical(save(tmp_path / "a.nii.gz", values, np.diag([0.5, 2, 3, 1.0])))
    # Stored as z, x (backwards), y.
    affine = np.array([[0, -0.5, 0, 0.5], [0, 0, 2, 0], [3, 0, 0, 0], [0, 0, 0, 1.0]])
    turned = read_canonical(save(tmp_path / "b.nii", values[::-1].transpose(2, 0, 1), affine))
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
    volume = read_canonical(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(volume.values, values, atol=1e-4)
    assert volume.spacing == pytest.approx((0.3, 0.4, 0.5))
    assert volume.dtype == "int16"


def test_a_file_without_orientation_says_so(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert not read_canonical(tmp_path / "a.nii.gz").oriented


def test_what_is_no_volume_is_an_image_error(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"no volume")
    for name in ("a.nii.gz", "b.nii.gz"):
        with pytest.raises(ImageError, match="is no NIfTI volume"):
            read_canonical(tmp_path / name)


def test_without_nibabel_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    volume = Volume.of(np.zeros((2, 2, 2)))
    for call in (
        lambda: read_canonical(tmp_path / "a.nii"),
        lambda: read_nifti(tmp_path / "a.nii"),
        lambda: write_mask(tmp_path / "a.nii.gz", np.ones((2, 2))),
        lambda: write_nifti(tmp_path / "a.nii.gz", np.ones((2, 2, 2), np.uint8), volume),
    ):
        with pytest.raises(MissingExtraError, match=r"samsdk\[medical\]"):
            call()


def test_a_written_mask_reads_back(tmp_path: Path) -> None:
    mask = np.zeros((3, 5), bool)
    mask[1, 4] = True
    write_mask(tmp_path / "a.nii.gz", mask)
    np.testing.assert_array_equal(read_canonical(tmp_path / "a.nii.gz").values[:, :, 0].T, mask)


OBLIQUE = np.array([[0.9, 0.2, -0.1, -30.0], [-0.25, 1.1, 0.3, 12.5], [0.15, -0.2, 2.4, 7.25], [0, 0, 0, 1]])


def test_a_volume_is_read_as_it_is_stored(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    volume = read_nifti(save(tmp_path / "a.nii.gz", values, OBLIQUE))
    assert volume.array.dtype == np.int16
    assert volume.shape == (4, 3, 2)
    assert volume.array[3, 1, 0] == values[0, 1, 3]
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-6)
    lengths = np.sqrt((OBLIQUE[:3, :3] ** 2).sum(axis=0))
    assert volume.spacing == pytest.approx(tuple(lengths[::-1]))
    assert volume.oriented


def test_a_header_scales_whole_numbers(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.array([0, 500, 3000], np.int16).reshape(3, 1, 1), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    # What nibabel writes it has scaled itself, unless it gets the stored numbers.
    image = nibabel.Nifti1Image(image.dataobj, np.eye(4), image.header)
    path = tmp_path / "a.nii"
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([2, -1024], "<f4").tobytes()
    path.write_bytes(content)
    volume = read_nifti(path)
    assert volume.array.dtype == np.float32
    assert volume.array.ravel().tolist() == [-1024, -24, 4976]


def test_micrometres_become_millimetres(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8), np.diag([300, 400, 500, 1.0]), unit="micron")
    assert read_nifti(path).spacing == pytest.approx((0.5, 0.4, 0.3))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_labels_have_the_header_of_the_volume(tmp_path: Path, kind: type) -> None:
    image = kind(np.arange(24, dtype=np.float32).reshape(2, 3, 4), None)
    image.header.set_sform(OBLIQUE, code=1)
    # A scanner's own frame beside the aligned one: other programs read either.
    image.header.set_qform(np.diag([1, 1.2, 2.4, 1]), code=3)
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 900
    nibabel.save(image, tmp_path / "in.nii.gz")
    stored = nibabel.load(tmp_path / "in.nii.gz")
    labels = np.arange(24, dtype=np.uint16).reshape(4, 3, 2) * 100
    write_nifti(tmp_path / "out.nii.gz", labels, read_nifti(tmp_path / "in.nii.gz"))
    written = nibabel.load(tmp_path / "out.nii.gz")
    assert type(written) is kind
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels.T)
    assert written.get_data_dtype() == np.uint16
    np.testing.assert_array_equal(written.affine, stored.affine)
    for name in ("sform", "qform"):
        matrix, code = getattr(stored.header, f"get_{name}")(coded=True)
        np.testing.assert_array_equal(getattr(written.header, f"get_{name}")(coded=True)[0], matrix)
        assert written.header[f"{name}_code"] == code
    assert written.header.get_xyzt_units() == ("mm", "sec")
    assert written.header["cal_max"] == 0


def test_a_volume_without_a_file_gets_its_affine(tmp_path: Path) -> None:
    volume = Volume.of(np.zeros((4, 3, 2)), spacing=(3, 2, 1))
    write_nifti(tmp_path / "a.nii", np.ones((4, 3, 2), bool), volume)
    written = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_array_equal(written.affine, np.diag([1, 2, 3, 1]))
    assert np.asarray(written.dataobj).sum() == 24


def test_labels_of_another_size_or_name_are_refused(tmp_path: Path) -> None:
    volume = Volume.of(np.zeros((4, 3, 2)))
    with pytest.raises(VolumeError, match=r"labels are \(2, 3, 4\), the volume is \(4, 3, 2\)"):
        write_nifti(tmp_path / "a.nii", np.ones((2, 3, 4), np.uint8), volume)
    with pytest.raises(OutputError, match=r"ends in \.nii or \.nii\.gz"):
        write_nifti(tmp_path / "a.mha", np.ones((4, 3, 2), np.uint8), volume)
    assert list(tmp_path.iterdir()) == []


def test_a_series_is_refused_unless_it_is_one_volume(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    one = read_nifti(save(tmp_path / "one.nii", values[..., None], np.eye(4)))
    np.testing.assert_array_equal(one.array, values.T)
    write_nifti(tmp_path / "out.nii", one.array, one)
    assert nibabel.load(tmp_path / "out.nii").shape == (2, 3, 4)
    with pytest.raises(VolumeError, match=r"4 axes \(2, 3, 2, 2\).*one time point"):
        read_nifti(save(tmp_path / "many.nii", values.reshape(2, 3, 2, 2), np.eye(4)))


def damage(path: Path, at: int, values: list[float], kind: str) -> Path:
    content = bytearray(path.read_bytes())
    raw = np.array(values, kind).tobytes()
    content[at : at + len(raw)] = raw
    path.write_bytes(content)
    return path


def test_bad_headers_and_voxels_are_named(tmp_path: Path) -> None:
    values = np.zeros((2, 3, 4), np.float32)
    singular = save(tmp_path / "singular.nii", values, np.eye(4))
    damage(singular, 280, [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0], "<f4")
    with pytest.raises(VolumeError, match=r"positive spacing|singular"):
        read_nifti(singular)
    flat = nibabel.Nifti1Image(values, None)
    nibabel.save(flat, tmp_path / "flat.nii")
    # No code says where the volume lies, and its voxels are 0 mm thick.
    with pytest.raises(VolumeError, match="positive spacing"):
        read_nifti(damage(tmp_path / "flat.nii", 80, [1, 1, 0], "<f4"))
    values[1, 2, 3] = np.nan
    with pytest.raises(VolumeError, match=r"1 non-finite voxels.*nan_to_num"):
        read_nifti(save(tmp_path / "nan.nii.gz", values, np.eye(4)))
    cut = save(tmp_path / "cut.nii.gz", np.random.default_rng(0).random((20, 20, 20)), np.eye(4))
    cut.write_bytes(cut.read_bytes()[:-5000])
    with pytest.raises(VolumeError, match="is no NIfTI volume"):
        read_nifti(cut)


def test_a_huge_header_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8), np.eye(4))
    with pytest.raises(VolumeError, match="crop the volume"):
        read_nifti(damage(path, 42, [30000, 30000, 30000], "<i2"))


def test_a_volume_without_orientation_is_read_and_says_so(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None), tmp_path / "a.nii.gz")
    assert not read_nifti(tmp_path / "a.nii.gz").oriented
