"""`samsdk segment` of volumes, with the tiny bundle of images and with options that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk.propagation import Session

Run = Callable[..., tuple[int, str, str]]
AFFINE = np.array([[-0.5, 0, 0, 10], [0, 0.5, 0, 5], [0, 0, 2.0, 3], [0, 0, 0, 1]])


@pytest.fixture
def scan(tmp_path: Path, cell: NDArray[np.uint8]) -> Path:
    """Six planes of a cell, 80x96, as a NIfTI file with a scale and an offset."""
    planes = np.stack([cell[200 + 3 * step : 296 + 3 * step, 250:330] for step in range(6)])
    image = nibabel.Nifti1Image(planes.T.astype(np.int16), AFFINE)
    image.header.set_slope_inter(2.0, -7.0)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_an_object_is_followed_from_one_slice(
    run: Run, scan: Path, exported_bundle: Path, predictor: samsdk.Predictor
) -> None:
    target = scan.parent / "mask.nii.gz"
    code, out, err = run(
        *("segment", scan, "--slice", 2, "--box", "20,30,50,60", "--extent", "1,4", "-o", target),
        *("--model", exported_bundle, "--device", "cpu", "--json"),
    )
    data = json.loads(out)
    own, process = (round(data["memory"][name]) for name in ("peak_mb", "process_mb"))
    assert (code, err) == (
        0,
        f"samsdk: up to 4 slices, at most {own} MB of memory of {process} MB that the process takes\n",
    )
    session = Session(predictor, samsdk.read_nifti(scan))
    expected = session.prompt(2, box=(20, 30, 50, 60), extent=(1, 4))
    assert expected.label_map.any()
    stored = nibabel.load(target)
    np.testing.assert_array_equal(np.asarray(stored.dataobj).T, expected.label_map)
    np.testing.assert_allclose(stored.affine, AFFINE)
    voxels = int(expected.label_map.sum())
    assert data["classes"] == [{"id": "1", "name": "object", "voxels": voxels, "ml": round(voxels * 0.0005, 4)}]
    assert data["slices"] == {"first": min(session.found), "last": max(session.found), "count": len(session.found)}
    assert set(data["scores"]) == {str(index) for index in session.found}
    assert data["size"] == [6, 96, 80]
    assert data["seconds"] > 0
    assert (data["axis"], data["output"]) == ("z", str(target))


def test_points_axis_and_window_for_people(
    run: Run, scan: Path, exported_bundle: Path, predictor: samsdk.Predictor
) -> None:
    code, out, err = run(
        *("segment", scan, "--slice", 40, "--axis", "y", "--point", "30,2", "--point", "5,1,0", "--window", "0,300"),
        *("--model", exported_bundle, "--device", "cpu", "-o", scan.parent / "m.npz"),
    )
    assert code == 0
    assert err.startswith("samsdk: up to 96 slices, at most ")
    session = Session(predictor, samsdk.read_nifti(scan), axis="y", scale=(0, 300))
    expected = session.prompt(40, points=[(30, 2), (5, 1)], labels=[1, 0])
    np.testing.assert_array_equal(np.load(scan.parent / "m.npz")["label_map"], expected.label_map)
    assert out.startswith(f"object: {expected.volumes_ml()['object']:.2f} mL  {expected.label_map.sum()} voxels\n")
    assert f"slices {min(session.found)} to {max(session.found)} across y\n" in out
    assert f"output: {scan.parent / 'm.npz'}\n" in out


BOX = ("--slice", "2", "--box", "20,30,50,60")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "is a bundle for images: show it the object on one slice of the volume, with --slice K and --box"),
        (("--slice", "2"), "is a bundle for images"),
        (("--box", "20,30,50,60"), "is a bundle for images"),
        ((*BOX, "--overlay", "a.png"), "--overlay are for images, got the volume"),
        ((*BOX, "--mask", "a.png", "--instances", "b.png"), "--mask and --instances are for images"),
        (("--slice", "-1", "--box", "1,2,3,4"), "expected"),
        (("--slice", "two"), "expected the index of a slice"),
        ((*BOX, "--extent", "1"), "expected FIRST,LAST"),
        ((*BOX, "--extent", "1,2.5"), "expected two indices of slices"),
        ((*BOX, "--window", "1"), "expected LOW,HIGH"),
        ((*BOX, "--axis", "w"), "invalid choice"),
    ],
)
def test_calls_that_do_not_fit_a_volume(
    run: Run, scan: Path, exported_bundle: Path, options: tuple[str, ...], problem: str
) -> None:
    code, out, err = run("segment", scan, "--model", exported_bundle, "--device", "cpu", *options)
    assert (code, out) == (2, "")
    assert problem in err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--slice", "6", "--box", "20,30,50,60"), "PromptError: the slice must be within 0 to 5 across z, got 6"),
        (("--slice", "2", "--box", "20,30,90,60"), "PromptError: box must lie inside the slice of 80 x 96"),
        ((*BOX, "--extent", "3,5"), "PromptError: expected a first and a last slice"),
        ((*BOX, "--window", "5,5"), "VolumeError: the scale must be two finite numbers"),
        ((*BOX, "-o", "mask.png"), "OutputError: cannot write mask.png"),
    ],
)
def test_calls_that_fail(run: Run, scan: Path, exported_bundle: Path, options: tuple[str, ...], problem: str) -> None:
    code, out, err = run("segment", scan, "--model", exported_bundle, "--device", "cpu", *options)
    assert (code, out) == (1, "")
    assert problem in err


def test_options_of_volumes_do_not_fit_an_image(
    run: Run, tmp_path: Path, cell: NDArray[np.uint8], exported_bundle: Path
) -> None:
    cv2.imwrite(str(tmp_path / "cell.png"), cell)
    how = ("--box", "100,100,200,200", "--model", exported_bundle)
    code, _, err = run("segment", tmp_path / "cell.png", *how, "--slice", "0", "--extent", "0,1")
    assert code == 2
    assert "--slice and --extent are for volumes (.nii.gz or .nii), got the image" in err


def test_a_bundle_that_takes_no_boxes_cannot_follow(run: Run, scan: Path, semantic_bundle: Path) -> None:
    code, _, err = run("segment", scan, *BOX, "--model", semantic_bundle, "--device", "cpu")
    assert code == 1
    assert "PromptError: following an object needs a bundle that takes boxes; 'organs' takes no prompt" in err


def test_what_is_no_volume_is_said(run: Run, tmp_path: Path, exported_bundle: Path) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"not gzip")
    code, _, err = run("segment", tmp_path / "broken.nii.gz", *BOX, "--model", exported_bundle, "--device", "cpu")
    assert code == 1
    assert "VolumeError" in err
    assert "is no NIfTI volume" in err
