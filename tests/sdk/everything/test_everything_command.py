"""`samsdk everything`, as a shell calls it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
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


@pytest.mark.parametrize("wrong", [["-o", "labels.bmp"], ["--grid", "0"], ["--smallest", "-1"]])
def test_a_wrong_call_ends_before_any_work(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["everything", "nothing.png", *wrong]) == 2
    assert "WrongCallError" in capsys.readouterr().err
