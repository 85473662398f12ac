"""Whole runs with the default model, on small images; the processes are real."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

import samsdk
from samsdk.batch import BatchReport, run_batch
from samsdk.batch.settings import JOURNAL
from samsdk.errors import ImageError, OutputError
from samsdk.everything import EverythingSettings

BOX = (20, 16, 72, 60)
CT = Path(str(get_testdata_file("CT_small.dcm", download=False)))
Run = Callable[..., tuple[int, str, str]]


def crop(tissue: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
    return tissue[7 * index : 7 * index + 80, 5 * index : 5 * index + 96]


def make_folder(folder: Path, tissue: NDArray[np.uint8], count: int, broken: dict[str, bytes] | None = None) -> Path:
    """Images in nested folders, some of one stem, what is broken beside them, and a prompts file for all."""
    names = [
        f"{('', 'ward/', 'ward/b/')[index % 3]}i{index // 2}.{('png', 'bmp')[index % 2]}" for index in range(count)
    ]
    for index, name in enumerate(names):
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "in" / name), crop(tissue, index)[..., ::-1])
    for name, content in (broken or {}).items():
        (folder / "in" / name).write_bytes(content)
    rows = [f'{name},"{",".join(map(str, BOX))}"' for name in (*names, *(broken or {}))]
    (folder / "p.csv").write_text("\n".join(["file,box", *rows]))
    return folder / "p.csv"


def start(folder: Path, **changes: Any) -> BatchReport:
    how: dict[str, Any] = {"prompts": folder / "p.csv", "device": "cpu", "zoom": False}
    return run_batch(folder / "in", folder / "out", **{**how, **changes})


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "out" / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def wait_for_lines(process: subprocess.Popen[str], journal: Path, count: int) -> None:
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < count):
        time.sleep(0.005)


def test_killed_and_resumed_every_good_file_once_and_every_bad_one_in_the_report(
    tmp_path: Path, tissue: NDArray[np.uint8]
) -> None:
    whole = cv2.imencode(".png", tissue[:80, :80])[1].tobytes()
    numbers = cv2.imencode(".tiff", np.full((8, 8), np.nan, np.float32))[1].tobytes()
    broken = {"truncated.png": whole[:500], "text.png": b"words", "empty.png": b"", "nan.tif": numbers}
    make_folder(tmp_path, tissue, 35, broken)
    (tmp_path / "in" / "folder.png").mkdir()
    with (tmp_path / "p.csv").open("a") as file:
        file.write('\nfolder.png,"1,1,5,5"\n')
    words = ["batch", tmp_path / "in", "--prompts", tmp_path / "p.csv", "-o", tmp_path / "out"]
    words += ["--processes", "2", "--device", "cpu", "--no-zoom", "--json"]
    command = [sys.executable, "-m", "samsdk", *map(str, words)]
    journal = tmp_path / "out" / JOURNAL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_lines(process, journal, 12)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    before = journal.read_bytes().count(b"\n")
    assert process.returncode == -signal.SIGKILL
    assert 12 <= before < 40
    # Nobody is left who could still write.
    assert psutil.wait_procs(children, timeout=60)[1] == []
    with journal.open("ab") as file:
        file.write(b'{"file": "i')
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(ended.stdout)
    assert ended.returncode == 1, ended.stderr
    assert f"40 of 40 files, {report['failed']} failed" in ended.stderr
    assert {name: report[name] for name in ("files", "done", "failed", "skipped", "fresh")} == {
        **{"files": 40, "done": 35, "failed": 5, "skipped": 0},
        "fresh": 40 - before,
    }
    assert {one["file"]: one["error"] for one in report["failures"]} == dict.fromkeys(
        [*broken, "folder.png"], "ImageError"
    )
    rows = table(tmp_path)
    assert len(rows) == len({row["file"] for row in rows}) == 40
    predictor = samsdk.load(device="cpu")
    for row in rows:
        if row["state"] == "done":
            mask = cv2.imread(str(tmp_path / "out" / row["mask"]), cv2.IMREAD_UNCHANGED)
            expected = predictor.segment(tmp_path / "in" / row["file"], box=BOX, zoom=False)
            np.testing.assert_array_equal(mask, expected.mask * np.uint8(255))
            assert int(row["area_px"]) == expected.area
            assert float(row["score"]) == pytest.approx(expected.score, abs=1e-5)
    left = {path.name for path in (tmp_path / "out").rglob(".*")}
    assert left == {".lock"}
    texts = [path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix in (".csv", ".json", ".jsonl")]
    assert not any(str(tmp_path) in text for text in texts)


def test_what_is_done_again_and_what_is_not(tmp_path: Path, tissue: NDArray[np.uint8]) -> None:
    make_folder(tmp_path, tissue, 4, {"bad.png": b""})
    assert (start(tmp_path).fresh, len(start(tmp_path).failed)) == (5, 1)
    assert start(tmp_path).fresh == 0
    # A mask that is gone, an image that was replaced.
    (tmp_path / "out" / "masks" / "i0.png" / "object.png").unlink()
    cv2.imwrite(str(tmp_path / "in" / "ward" / "i0.bmp"), crop(tissue, 9)[..., ::-1])
    assert start(tmp_path).fresh == 2
    expected = samsdk.load(device="cpu").segment(crop(tissue, 9), box=BOX, zoom=False)
    mask = cv2.imread(str(tmp_path / "out" / "masks" / "ward" / "i0.bmp" / "object.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, expected.mask * np.uint8(255))
    assert start(tmp_path, retry_failed=True).fresh == 1
    with pytest.raises(OutputError, match="zoom was False and is None") as refused:
        start(tmp_path, zoom=None)
    assert "choose another -o" in str(refused.value)
    (tmp_path / "p.csv").write_text('file,box\ni0.png,"1,1,9,9"\n')
    with pytest.raises(OutputError, match="the prompts are others"):
        start(tmp_path)


def test_a_process_that_dies_costs_one_file(tmp_path: Path, tissue: NDArray[np.uint8]) -> None:
    make_folder(tmp_path, tissue, 3)

    def kill(finished: int, files: int, failed: int) -> None:
        if finished == 1:
            alive = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
            (child,) = [one for one in alive if "spawn_main" in " ".join(one.cmdline())]
            os.kill(child.pid, signal.SIGKILL)
            # Not waited for: its exit status is for the run to take.
            while child.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.005)

    report = start(tmp_path, progress=kill)
    assert [outcome.state for outcome in report.outcomes] == ["done", "failed", "done"]
    (failure,) = report.failures()
    assert failure["error"] == "ProcessDied"
    assert "by signal 9" in failure["message"]
    # It is retried when that is asked for, not before.
    assert start(tmp_path).fresh == 0
    assert len(start(tmp_path, retry_failed=True).done) == 3


def test_one_bad_prompt_costs_one_object(tmp_path: Path, tissue: NDArray[np.uint8]) -> None:
    make_folder(tmp_path, tissue, 1)
    rows = [
        {"file": "i0.png", "object": "left", "points": [[30, 40], [5, 5]], "labels": [1, 0]},
        {"file": "i0.png", "object": "outside", "box": [10, 10, 500, 500]},
        {"file": "i0.png", "object": "right", "box": BOX},
    ]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    report = start(tmp_path, prompts=tmp_path / "p.json", measure=True, formats=["npz", "json", "png"])
    predictor = samsdk.load(device="cpu")
    scan = tmp_path / "in" / "i0.png"
    expected = {
        "left": predictor.segment(scan, points=[(30, 40), (5, 5)], labels=[1, 0], zoom=False),
        "right": predictor.segment(scan, box=BOX, zoom=False),
    }
    found = {row["object"]: row for row in table(tmp_path)}
    assert [failure["object"] for failure in report.failures()] == ["outside"]
    assert found["outside"]["error"] == "PromptError"
    for name, result in expected.items():
        box = tuple(int(found[name][f"box_{side}"]) for side in ("x0", "y0", "x1", "y1"))
        assert (found[name]["state"], box) == ("done", result.box)
        assert float(found[name]["area_px2"]) == result.area
        folder = tmp_path / "out" / "masks" / "i0.png"
        with np.load(folder / f"{name}.npz") as saved:
            np.testing.assert_array_equal(saved["masks"][0], result.mask)
        assert json.loads((folder / f"{name}.json").read_text())["rle"] == result.rle()


def test_what_does_not_start(tmp_path: Path, tissue: NDArray[np.uint8]) -> None:
    make_folder(tmp_path, tissue, 1)
    for wrong, text in (
        ({"variations": 4}, "variations move the prompts"),
        ({"variations": -1, "measure": True}, "variations move the prompts"),
        ({"variations": 4, "measure": True, "prompts": None}, "variations move the prompts"),
        ({"zoom": True, "prompts": None}, "leave zoom out"),
        ({"everything": EverythingSettings()}, "without a prompts file"),
        ({"formats": ["nii.gz"], "prompts": None}, "expected formats of png, json, npz, dcm, got nii.gz"),
    ):
        with pytest.raises(ValueError, match=text):
            start(tmp_path, **wrong)
    with pytest.raises(ValueError, match=r"expected formats of png, .*, got bmp"):
        start(tmp_path, formats=["bmp"])
    with pytest.raises(ImageError, match="expected a folder"):
        run_batch(tmp_path / "absent", tmp_path / "out", prompts=tmp_path / "p.csv")
    with pytest.raises(OutputError, match="not empty and not of an earlier run"):
        run_batch(tmp_path / "in", tmp_path, prompts=tmp_path / "p.csv")
    assert not (tmp_path / "out").exists()


def test_a_semantic_bundle_names_classes_without_prompts(
    tmp_path: Path, tissue: NDArray[np.uint8], semantic_bundle: Path, run: Run
) -> None:
    make_folder(tmp_path, tissue, 2)
    (tmp_path / "in" / "notes.txt").write_text("words")
    how = ("--auto", "--model", semantic_bundle, "--device", "cpu", "--json")
    code, out, _ = run("batch", tmp_path / "in", "-o", tmp_path / "out", *how)
    data = json.loads(out)
    assert (code, data["done"], data["skipped"], data["objects"]) == (0, 2, 1, 8)
    predictor = samsdk.load(semantic_bundle, device="cpu")
    for name in ("i0.png", "ward/i0.bmp"):
        result = predictor.segment(tmp_path / "in" / name)
        assert isinstance(result, samsdk.SemanticResult)
        labels = cv2.imread(str(tmp_path / "out" / "masks" / name / "labels.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(labels, result.label_map)
        areas = {row["object"]: int(row["area_px"]) for row in table(tmp_path) if row["file"] == name}
        assert areas == {
            label: region.area for label, region in zip(result.labels.values(), result.regions, strict=True)
        }


def test_wrong_calls(tmp_path: Path, tissue: NDArray[np.uint8], run: Run) -> None:
    make_folder(tmp_path, tissue, 1)
    for words in (
        ["--auto", "--prompts", "p.csv"],
        [],
        ["--auto", "--processes", "0"],
        ["--auto", "--engine", "x"],
        ["--auto", "--grid", "0"],
        ["--auto", "--zoom"],
        ["--prompts", tmp_path / "p.csv", "--variations", "4"],
        ["--prompts", tmp_path / "p.csv", "--grid", "4"],
    ):
        assert run("batch", tmp_path / "in", "-o", tmp_path / "out", *words)[0] == 2
    assert not (tmp_path / "out").exists()


def test_ranges_are_those_of_moved_prompts(tmp_path: Path, tissue: NDArray[np.uint8]) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(CT, tmp_path / "in" / "a.dcm")
    (tmp_path / "p.csv").write_text('file,box\na.dcm,"30,30,90,90"\n')
    start(tmp_path, measure=True, variations=4)
    (row,) = table(tmp_path)
    expected = samsdk.load(device="cpu").segment(CT, box=(30, 30, 90, 90), zoom=False, variations=4).measure()
    assert expected.stability is not None
    assert expected.stability.variations == 4
    assert float(row["agreement"]) == pytest.approx(expected.stability.agreement, rel=1e-6)
    for name in ("area_px2", "area_mm2", "longest_diameter_px", "longest_diameter_mm"):
        assert float(row[name]) == pytest.approx(expected.values()[name], rel=1e-6)
        ends = (float(row[f"{name}_low"]), float(row[f"{name}_high"]))
        assert ends == pytest.approx(expected.stability.ranges[name], rel=1e-6)
        assert ends[0] < ends[1]
    with pytest.raises(OutputError, match="variations was 4 and is 0"):
        start(tmp_path, measure=True)


def test_dicom_segmentations_of_dicom_images(tmp_path: Path, tissue: NDArray[np.uint8]) -> None:
    make_folder(tmp_path, tissue, 1)
    shutil.copy(CT, tmp_path / "in" / "a.dcm")
    with (tmp_path / "p.csv").open("a") as file:
        file.write('\na.dcm,"30,30,90,90"\n')
    report = start(tmp_path, formats=["dcm", "png"])
    (failure,) = report.failures()
    assert (failure["file"], failure["error"]) == ("i0.png", "OutputError")
    assert "refers to the DICOM image that was segmented, and this image is none" in failure["message"]
    (row,) = [one for one in table(tmp_path) if one["state"] == "done"]
    assert row["mask"] == "masks/a.dcm/object.dcm"
    written, source = pydicom.dcmread(tmp_path / "out" / row["mask"]), pydicom.dcmread(CT)
    expected = samsdk.load(device="cpu").segment(CT, box=(30, 30, 90, 90), zoom=False).mask
    np.testing.assert_array_equal(written.pixel_array > 0, expected)
    assert written.StudyInstanceUID == source.StudyInstanceUID
    (series,) = written.ReferencedSeriesSequence
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert (tmp_path / "out" / "masks" / "a.dcm" / "object.png").is_file()
