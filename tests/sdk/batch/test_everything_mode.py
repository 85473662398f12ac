"""Folders without prompts and with the default model: all objects of each image, counted and measured."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import highdicom.seg
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco
from pydicom.data import get_testdata_file

import samsdk
from samsdk.batch import run_batch
from samsdk.everything import EverythingSettings, segment_everything
from samsdk.measuring.sizes import object_sizes

SETTINGS = EverythingSettings(crop_n_layers=0, min_mask_region_area=30)
OPTIONS = ("--layers", "0", "--smallest", "30")
CT = Path(str(get_testdata_file("CT_small.dcm", download=False)))


def discs(seed: int, count: int) -> NDArray[np.uint8]:
    """Bright discs, some of them cut by the border."""
    image = np.full((96, 128), 30.0)
    for x, y in np.random.default_rng(seed).integers(0, (128, 96), (count, 2)).tolist():
        cv2.circle(image, (x, y), 7, 170.0, -1)
    return cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "dish").mkdir(parents=True)
    for name, image in {"dish/a.png": discs(0, 6), "dish/b.png": discs(1, 4), "flat.png": np.full((40, 40), 9)}.items():
        cv2.imwrite(str(tmp_path / "in" / name), image)
    shutil.copy(CT, tmp_path / "in" / "ct.dcm")
    (tmp_path / "in" / "bad.png").write_bytes(b"words")
    return tmp_path


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_each_image_has_its_label_map_and_its_sizes_in_the_table(folder: Path, run) -> None:
    words = ("batch", folder / "in", "--auto", *OPTIONS, "--device", "cpu", "--format", "png,npz,json", "--json")
    code, out, err = run(*words, "-o", folder / "out")
    report = json.loads(out)
    assert (code, report["done"], report["failed"], report["objects"]) == (1, 4, 1, 4), err
    rows, predictor = table(folder / "out"), samsdk.load(device="cpu")
    for name in ("dish/a.png", "dish/b.png", "flat.png", "ct.dcm"):
        expected, row = segment_everything(predictor, folder / "in" / name, SETTINGS), rows[name]
        place = folder / "out" / "masks" / name
        labels = cv2.imread(str(place / "labels.png"), cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint16
        np.testing.assert_array_equal(labels, expected.label_map)
        with np.load(place / "labels.npz") as read:
            np.testing.assert_array_equal(read["label_map"], expected.label_map)
        for one in json.loads((place / "labels.json").read_text())["annotations"]:
            np.testing.assert_array_equal(coco.decode(one["segmentation"]) > 0, expected.label_map == one["id"])
        sizes = object_sizes(expected.label_map, expected.spacing).to_dict()
        assert (row["object"], row["mask"]) == ("everything", f"masks/{name}/labels.png")
        assert [int(row[column]) for column in ("instances", "instances_cut", "area_px")] == [
            *(sizes["count"], sizes["cut"], np.count_nonzero(expected.label_map))
        ]
        told = {column: float(cell) for column, cell in row.items() if cell and column.startswith(("area_px2", "equ"))}
        told |= {column: float(cell) for column, cell in row.items() if cell and column.startswith("area_mm2")}
        assert told == {
            f"{name}_{how}": pytest.approx(value, rel=1e-8)
            for name, values in sizes.items()
            if isinstance(values, dict)
            for how, value in values.items()
        }
        # Millimetres where the file says how large a pixel is, and nowhere else.
        assert ("area_mm2_median" in told) == (name == "ct.dcm")
    assert int(rows["dish/a.png"]["instances"]) >= 4
    assert int(rows["flat.png"]["instances"]) == 0
    assert rows["bad.png"]["error"] == "ImageError"


def test_it_goes_on_and_other_settings_are_another_run(folder: Path) -> None:
    def start(settings: EverythingSettings | None = SETTINGS) -> int:
        return run_batch(folder / "in", folder / "out", device="cpu", everything=settings).fresh

    assert start() == 5
    assert start() == 0
    (folder / "out" / "masks" / "flat.png" / "labels.png").unlink()
    cv2.imwrite(str(folder / "in" / "dish" / "b.png"), discs(2, 3))
    assert start() == 2
    with pytest.raises(samsdk.OutputError, match=r"everything was .*'crop_n_layers': 0"):
        start(None)


def test_dicom_segmentations_hold_each_object(folder: Path) -> None:
    for name in ("dish", "bad.png", "flat.png"):
        place = folder / "in" / name
        place.unlink() if place.is_file() else shutil.rmtree(place)
    report = run_batch(folder / "in", folder / "out", device="cpu", everything=SETTINGS, formats=["dcm"])
    expected = segment_everything(samsdk.load(device="cpu"), CT, SETTINGS)
    assert expected.count > 1
    (outcome,) = report.outcomes
    assert outcome.outputs == ("masks/ct.dcm/labels.dcm",)
    written = highdicom.seg.segread(folder / "out" / outcome.outputs[0])
    assert written.number_of_segments == expected.count
    # Frames are in the order of the segments, for there is one image.
    planes = np.atleast_3d(written.pixel_array).reshape(-1, *expected.label_map.shape)
    for plane, number in zip(planes, range(1, expected.count + 1), strict=True):
        np.testing.assert_array_equal(plane > 0, expected.label_map == number)
    # Nothing found, nothing written, and that is no failure.
    nothing = EverythingSettings(min_mask_region_area=10**6)
    (outcome,) = run_batch(folder / "in", folder / "o2", device="cpu", everything=nothing, formats=["dcm"]).outcomes
    assert (outcome.state, outcome.outputs, outcome.rows[0].instances, outcome.rows[0].mask) == ("done", (), 0, None)
    assert run_batch(folder / "in", folder / "o2", device="cpu", everything=nothing, formats=["dcm"]).fresh == 0
