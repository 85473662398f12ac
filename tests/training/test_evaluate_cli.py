import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from samsdk import cli
from samsdk_training.data import read_set
from samsdk_training.evaluation import evaluate_images, summarise


@pytest.fixture
def sets(tmp_path: Path, cell: np.ndarray) -> Path:
    """Two sets of one image each, and a folder that is none."""
    for name, box in (("one", (355, 300, 490, 440)), ("two", (20, 20, 200, 90))):
        folder = tmp_path / "data" / name
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True)
        label = np.zeros(cell.shape, np.uint8)
        label[box[1] : box[3], box[0] : box[2]] = 1
        cv2.imwrite(str(folder / "images" / "a.png"), cell)
        cv2.imwrite(str(folder / "masks" / "a.png"), label)
        (folder / "val.txt").write_text("a\n")
    (tmp_path / "data" / "other").mkdir()
    return tmp_path / "data"


def test_each_set_and_the_mean_over_sets(
    sets: Path, exported_bundle: Path, predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ("--clicks", "1,2", "--device", "cpu", "--json")
    assert cli.main(["evaluate", str(exported_bundle), "--data", str(sets), *how]) == 0
    data = json.loads(capsys.readouterr().out)
    assert sorted(data["sets"]) == ["one", "two"]
    expected = summarise(list(evaluate_images(predictor, read_set(sets / "one", "val.txt"), clicks=(1, 2))))
    assert data["sets"]["one"] == expected
    for prompt in ("box", "1", "2"):
        values = [data["sets"][name]["dice"][prompt] for name in ("one", "two")]
        assert data["mean_dice"][prompt] == pytest.approx(sum(values) / 2)


def test_one_set_as_a_table(sets: Path, exported_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(exported_bundle), "--data", str(sets / "one")]) == 0
    head, row, mean = capsys.readouterr().out.splitlines()
    assert head.split() == ["Dice", "objects", "box", "1", "3"]
    assert row.split()[:2] == ["one", "1"]
    assert mean.split()[:3] == ["mean", "over", "sets"]
    assert row.split()[2:] == mean.split()[3:]


def test_what_is_no_set_is_a_wrong_call(sets: Path, exported_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(exported_bundle), "--data", str(sets / "other")]) == 2
    assert "is no set and holds none: found no val.txt" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", "x", "--data", str(sets), "--clicks", "0"])
    assert stop.value.code == 2


def test_objects_too_small_to_score_are_said(sets: Path, exported_bundle: Path, capsys) -> None:
    shutil.rmtree(sets / "two")
    cv2.imwrite(str(sets / "one" / "masks" / "a.png"), np.zeros((660, 550), np.uint8))
    assert cli.main(["evaluate", str(exported_bundle), "--data", str(sets)]) == 1
    assert "no object of at least 30 pixels" in capsys.readouterr().err
