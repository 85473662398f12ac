"""Models for volumes, with a predictor whose answers are known."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from samsdk.volumes import Volume, VolumeResult
from samsdk_training.evaluation import Measures, volume_cases
from samsdk_training.metrics.surface import nsd
from samsdk_training.set_folder import DataError, SetFolder

CLASSES = {"0": "background", "1": "anterior", "2": "posterior"}
# (x, y, z) of a voxel in mm: all different, so that no two may change places.
AFFINE = np.diag([0.5, 1.0, 2.0, 1.0])


class Known:
    """Finds in each volume what is written in it."""

    def segment(self, image: Volume) -> VolumeResult:
        names = {number: name for number, name in CLASSES.items() if number != "0"}
        return VolumeResult(image.array.astype(np.uint8), names, image.without_voxels(), {}, "known", "known")


def write(folder: Path, name: str, found: np.ndarray, truth: np.ndarray) -> None:
    """Arrays are [D, H, W], files [X, Y, Z]."""
    for part, array in (("images", found), ("masks", truth)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array.T, AFFINE), folder / part / f"{name}.nii.gz")


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """[D, H, W] found and true: one class is a plane short and a column too wide, the other is missed."""
    found, truth = np.zeros((2, 8, 10, 12), np.int16)
    truth[2:6, 3:7, 2:6] = 1
    found[3:6, 3:7, 2:7] = 1
    truth[6, 8, 8:10] = 2
    return found, truth


@pytest.fixture
def folder(tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray]) -> SetFolder:
    write(tmp_path / "set", "a", *arrays)
    (tmp_path / "set" / "patients.csv").write_text("id,patient\na,anna\n")
    return SetFolder(tmp_path / "set")


def test_each_class_is_scored_on_the_volumes_own_grid(folder: SetFolder, arrays: tuple[np.ndarray, ...]) -> None:
    (case,) = volume_cases(Known(), folder, ["a"], CLASSES, measures=Measures(nsd=1.0))
    assert (case.case, case.images, case.patient) == ("a", 8, "anna")
    assert case.areas == {"anterior": 64, "posterior": 2}
    # 48 voxels are in both; 60 were found, 64 are true.
    assert case.values["dice"] == {"anterior": pytest.approx(2 * 48 / 124), "posterior": 0.0}
    assert case.values["iou"]["anterior"] == pytest.approx(48 / 76)
    found, truth = (array == 1 for array in arrays)
    expected = nsd(found, truth, tolerance=1.0, spacing=(2.0, 1.0, 0.5))
    # The missing plane is 2 mm thick and counts; the column is 0.5 mm wide and does not.
    assert 0 < expected < 1
    assert expected != pytest.approx(nsd(found, truth, tolerance=1.0, spacing=(0.5, 1.0, 2.0)))
    assert case.values["nsd"]["anterior"] == pytest.approx(expected)


def test_a_union_of_labels_is_one_class(folder: SetFolder, arrays: tuple[np.ndarray, ...]) -> None:
    found, truth = arrays
    write(folder.path, "b", found, truth * 3)
    (case,) = volume_cases(Known(), SetFolder(folder.path), ["b"], {"0": "background", "1": "foreground"}, union=True)
    # The 2 voxels of the other class count, too: 48 are in both, 60 were found, 66 are true.
    assert case.areas == {"foreground": 66}
    assert case.values["dice"] == {"foreground": pytest.approx(2 * 48 / 126)}


def test_labels_and_files_that_do_not_fit_are_refused(folder: SetFolder, arrays: tuple[np.ndarray, ...]) -> None:
    found, truth = arrays
    write(folder.path, "b", found, truth + 2)
    with pytest.raises(DataError, match=r"b: label 4 is no class of the model, which knows 0 background, 1 anterior"):
        list(volume_cases(Known(), SetFolder(folder.path), ["b"], CLASSES))
    write(folder.path, "c", found, truth[1:])
    with pytest.raises(DataError, match=r"c in .*\(8, 10, 12\)"):
        list(volume_cases(Known(), SetFolder(folder.path), ["c"], CLASSES))
