import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from samsdk.errors import OutputError
from samsdk.io.nifti import read_nifti
from samsdk.volumes import Volume, VolumeResult

AFFINE = np.array([[0, -2, 0, 5], [1.5, 0, 0.4, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])


@pytest.fixture
def result() -> VolumeResult:
    label_map = np.zeros((4, 5, 6), np.uint8)
    label_map[1, 2:4, 1:5] = 2
    label_map[3, 0, 0] = 1
    labels = {"1": "liver", "2": "spleen", "3": "aorta"}
    volume = Volume(np.zeros((4, 5, 6), np.int16), AFFINE)
    return VolumeResult(label_map, labels, volume.without_voxels(), {"run": 1.23456}, "CPUExecutionProvider", "x@1")


def test_volumes_are_in_millilitres(result: VolumeResult) -> None:
    assert result.voxels == {"liver": 1, "spleen": 8, "aorta": 0}
    assert result.volumes_ml() == pytest.approx({"liver": 0.009, "spleen": 0.072, "aorta": 0.0})


def test_a_class_by_name_or_number(result: VolumeResult) -> None:
    np.testing.assert_array_equal(result.mask("spleen"), result.label_map == 2)
    np.testing.assert_array_equal(result.mask(1), result.label_map == 1)
    with pytest.raises(ValueError, match=r"unknown class 'lung', expected one of: 1 \(liver\), 2 \(spleen\)"):
        result.mask("lung")


def test_files(result: VolumeResult, tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.npz", "a.json"):
        result.save(tmp_path / name)
    written = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), result.label_map.T)
    np.testing.assert_allclose(written.affine, AFFINE)
    with np.load(tmp_path / "a.npz") as saved:
        np.testing.assert_array_equal(saved["label_map"], result.label_map)
        np.testing.assert_array_equal(saved["spacing"], result.grid.spacing)
    told = json.loads((tmp_path / "a.json").read_bytes())
    assert told["classes"][1] == {"id": "2", "name": "spleen", "voxels": 8, "ml": 0.072}
    assert told["size"] == [4, 5, 6]
    with pytest.raises(OutputError, match=r"\.nii\.gz"):
        result.save(tmp_path / "a.png")


def test_the_grid_of_a_read_file_keeps_its_header(tmp_path: Path, result: VolumeResult) -> None:
    image = nibabel.Nifti1Image(np.zeros((6, 5, 4), np.int16), AFFINE)
    image.header["descrip"] = b"scanner 7"
    nibabel.save(image, tmp_path / "in.nii")
    volume = read_nifti(tmp_path / "in.nii")
    grid = volume.without_voxels()
    assert grid.array.strides == (0, 0, 0)
    assert (grid.shape, grid.spacing) == (volume.shape, volume.spacing)
    VolumeResult(result.label_map, result.labels, grid, {}, "", "").save(tmp_path / "out.nii.gz")
    assert bytes(nibabel.load(tmp_path / "out.nii.gz").header["descrip"]).startswith(b"scanner 7")
