"""`samsdk everything`, as a shell calls it."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from samsdk.cli import main


@pytest.fixture
def picture(dish: tuple[NDArray[np.uint8], NDArray[np.int32]], tmp_path: Path) -> Path:
    cv2.imwrite(str(tmp_path / "dish.png"), dish[0])
    return tmp_path / "dish.png"


def test_it_counts_and_writes(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, overlay = picture.with_name("labels.png"), picture.with_name("overlay.png")
    command = ["everything", str(picture), "--device", "cpu", "-o", str(labels), "--overlay", str(overlay), "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert 16 <= report["count"] == len(report["instances"]) <= 18
    assert cv2.imread(str(labels), cv2.IMREAD_UNCHANGED).max() == report["count"]
    assert cv2.imread(str(overlay)).shape == (192, 256, 3)
    assert report["output"] == str(labels)


def test_options_reach_the_settings(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["everything", str(picture), "--device", "cpu", "--grid", "3", "--layers", "0", "--smallest", "100000"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 objects"
    assert lines[1].startswith("9 points  ")


def test_sizes_are_said_in_the_units_that_are_known(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 40 pixels a millimetre, as the file says.
    array = cv2.imread(str(picture), cv2.IMREAD_UNCHANGED)
    known = picture.with_name("dish.tif")
    tifffile.imwrite(known, array, resolution=(400, 400), resolutionunit="CENTIMETER")
    said = []
    for file in (picture, known):
        assert main(["everything", str(file), "--device", "cpu", "--layers", "0"]) == 0
        said.append(capsys.readouterr().out.splitlines())
    pixels = [line for line in said[1] if " px" in line]
    assert pixels == said[0][1:3]
    assert re.match(r"area \d+ to \d+ px2, median [\d.]+ px2$", pixels[0])
    assert re.match(r"equivalent diameter [\d.]+ to [\d.]+ px, median [\d.]+ px$", pixels[1])
    assert not any("mm" in line for line in said[0])
    (area,) = [line for line in said[1] if line.startswith("area") and "mm2" in line]
    of_pixels, of_mm = (float(line.rsplit(maxsplit=2)[1]) for line in (pixels[0], area))
    assert of_mm == pytest.approx(of_pixels / 1600, rel=1e-3)


@pytest.mark.parametrize("wrong", [["-o", "labels.bmp"], ["--grid", "0"], ["--smallest", "-1"]])
def test_a_wrong_call_ends_before_any_work(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["everything", "nothing.png", *wrong]) == 2
    assert "WrongCallError" in capsys.readouterr().err
