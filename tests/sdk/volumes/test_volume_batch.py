"""A folder of volumes in one go."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest

import samsdk
from samsdk.batch import Outcome, run, run_batch, worker
from samsdk.batch.plan import FileTask
from samsdk.batch.settings import Settings
from samsdk.volumes import Volume


def in_this_process(settings: Settings, tasks: Sequence[FileTask], processes: int) -> Iterator[Outcome]:
    yield from (worker.segment_file(settings, task) for task in tasks)


def test_each_volume_of_a_folder_is_labelled_and_a_broken_one_reported(
    tmp_path: Path,
    make_predictor: Callable[[], samsdk.VolumePredictor],
    volume: Volume,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor = make_predictor()
    # This bundle has no certificate, so that other processes would refuse it.
    monkeypatch.setattr(worker, "open_predictor", lambda settings: predictor)
    monkeypatch.setitem(run._ENGINES, "local", in_this_process)
    folder = tmp_path / "in"
    (folder / "ward").mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(volume.array.T, volume.affine), folder / "ward" / "ct.nii.gz")
    (folder / "bad.nii").write_bytes(b"words")
    cv2.imwrite(str(folder / "slice.png"), np.zeros((8, 8), np.uint8))
    report = run_batch(folder, tmp_path / "out", model=predictor.bundle.path, device="cpu")
    assert {one.file: one.state for one in report.outcomes} == {
        "ward/ct.nii.gz": "done",
        "bad.nii": "failed",
        "slice.png": "skipped",
    }
    expected = predictor.segment(folder / "ward" / "ct.nii.gz")
    labels = nibabel.load(tmp_path / "out" / "masks" / "ward" / "ct.nii.gz" / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(labels.dataobj).T, expected.label_map)
    np.testing.assert_array_equal(labels.affine, nibabel.load(folder / "ward" / "ct.nii.gz").affine)
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "done"]
    assert {row["object"]: int(row["voxels"]) for row in rows} == expected.voxels
    assert {row["object"]: float(row["ml"]) for row in rows} == pytest.approx(expected.volumes_ml(), abs=1e-6)
    z, y, x = volume.spacing
    assert [float(rows[0][f"spacing_{axis}_mm"]) for axis in "xyz"] == pytest.approx([x, y, z])
