"""`samsdk calibrate`: fitted to scores that are wrong, judged by sets that were left out, and written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import samsdk
from samsdk import cli, command
from samsdk.bundle import Bundle
from samsdk_training.calibrate_cli import add_calibrate
from samsdk_training.calibration_fit import fit_calibration, held_out_errors, read_scored, rows_by_kind
from samsdk_training.evaluation import ObjectScores
from samsdk_training.evaluation.report import write_rows

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether or not this installation has been made again since the entry point came.
    class Entry:
        name = "calibrate"

        def load(self) -> Callable[[Any], None]:
            return add_calibrate

    monkeypatch.setattr(command, "entry_points", lambda group: [Entry()] if group == command.EXTENSIONS else [])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main(["calibrate", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def write_scores(path: Path, sets: int = 4, *, worth: dict[str, Callable[[float], float]]) -> Path:
    """An evaluation whose scores are spread over 0.2 to 1, and whose true IoU is what each prompt's are worth."""
    rng = np.random.default_rng(1)
    found = {}
    for number in range(sets):
        rows = []
        for image in range(30):
            scores = {prompt: float(rng.uniform(0.2, 1)) for prompt in worth}
            iou = {prompt: worth[prompt](score) for prompt, score in scores.items()}
            rows.append(ObjectScores(image=f"i{image}", number=1, area=50, dice=iou, iou=iou, predicted_iou=scores))
        found[f"s{number}"] = rows
    write_rows(path, found)
    return path


def square(score: float) -> float:
    return score**2


def as_it_is(score: float) -> float:
    return score


def test_only_what_gets_better_is_written(exported_bundle: Path, tmp_path: Path, run: Run, tissue: Any) -> None:
    scores = write_scores(tmp_path / "scores.csv", worth={"box": square, "point1": as_it_is, "point3": as_it_is})
    code, out, _ = run(exported_bundle, "--scores", scores, "-o", tmp_path / "new", "--json")
    assert code == 0
    data = json.loads(out)
    rows = rows_by_kind(read_scored(scores))
    assert data["written"] == str(tmp_path / "new")
    assert {kind: one["improved"] for kind, one in data["kinds"].items()} == {"box": True, "points": False}
    errors = held_out_errors(rows["box"])
    told = data["kinds"]["box"]["held_out_error"]
    assert (told["before"]["mean"], told["after"]["mean"]) == errors.means
    assert told["after"]["mean"] < told["before"]["mean"] / 2
    assert told["after"]["sets"] == errors.after
    assert (data["kinds"]["points"]["answers"], data["kinds"]["points"]["images"]) == (240, 120)

    bundle, former = Bundle.open(tmp_path / "new"), Bundle.open(exported_bundle)
    assert bundle.manifest.calibration == {"box": fit_calibration(rows["box"])}
    # All else is as it was, but for where the table comes from.
    manifest, before = (json.loads(one.read_manifest_text()) for one in (bundle, former))
    assert manifest["lineage"].pop("calibration") == {"box": told}
    del manifest["calibration"]
    assert manifest == before
    assert {file: bundle.read(file) for file in before["files"]} == {
        file: former.read(file) for file in before["files"]
    }

    predictor = samsdk.load(bundle.path, device="cpu")
    result = predictor.segment(tissue, box=(120, 100, 300, 260))
    assert result.confidence == bundle.manifest.calibration["box"].expected_iou(result.score)
    points = predictor.segment(tissue, points=[(200, 180)])
    assert points.confidence == np.clip(points.score, 0, 1)


def test_a_table_takes_the_place_of_the_former_one(tiny_bundle: Path, tmp_path: Path, run: Run) -> None:
    scores = write_scores(tmp_path / "scores.csv", worth={"box": square})
    assert run(tiny_bundle, "--scores", scores, "-o", tiny_bundle)[0] == 0
    other = write_scores(tmp_path / "other.csv", worth={"point1": square})
    code, out, _ = run(tiny_bundle, "--scores", other, "-o", tiny_bundle)
    assert (code, list(Bundle.open(tiny_bundle).manifest.calibration)) == (0, ["points"])
    before, after = held_out_errors(read_scored(other)).means
    errors = f"mean of 4: {before:.3f} before, {after:.3f} after"
    assert out == f"points: expected calibration error of a left-out set, {errors}: kept\nbundle: {tiny_bundle}\n"


def test_nothing_is_written_where_nothing_gets_better(exported_bundle: Path, tmp_path: Path, run: Run) -> None:
    scores = write_scores(tmp_path / "scores.csv", worth={"box": as_it_is, "point1": as_it_is})
    code, out, _ = run(exported_bundle, "--scores", scores, "-o", tmp_path / "new")
    assert code == 1
    assert out.count("no better, left out") == 2
    assert "nothing was written: on sets that were left out, the scores as they are were nearer to the truth" in out
    assert not (tmp_path / "new").exists()


def test_one_set_is_too_few(exported_bundle: Path, tmp_path: Path, run: Run) -> None:
    scores = write_scores(tmp_path / "scores.csv", 1, worth={"box": square})
    code, _, err = run(exported_bundle, "--scores", scores, "-o", tmp_path / "new")
    assert code == 1
    assert "expected rows of two sets or more, got s0" in err
    assert not (tmp_path / "new").exists()


def test_what_does_not_fit_together_is_refused(
    exported_bundle: Path, semantic_bundle: Path, tmp_path: Path, run: Run
) -> None:
    scores = write_scores(tmp_path / "scores.csv", worth={"box": square})
    code, _, err = run(exported_bundle, "--scores", tmp_path / "none.csv", "-o", tmp_path / "new")
    assert (code, "write it with `samsdk evaluate" in err) == (2, True)
    code, _, err = run(semantic_bundle, "--scores", scores, "-o", tmp_path / "new")
    assert (code, "for promptable bundles, organs is semantic" in err) == (2, True)
    (tmp_path / "empty.csv").write_text("set,image,prompt,iou,predicted_iou\n")
    code, _, err = run(exported_bundle, "--scores", tmp_path / "empty.csv", "-o", tmp_path / "new")
    assert (code, "the table has no rows" in err) == (1, True)
    assert not (tmp_path / "new").exists()


def test_rows_of_a_model_that_takes_other_prompts_are_refused(tiny_bundle: Path, tmp_path: Path, run: Run) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    manifest["prompts"].update(kinds=["box"], trained=["box"])
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    scores = write_scores(tmp_path / "scores.csv", worth={"box": square, "point1": square})
    code, _, err = run(tiny_bundle, "--scores", scores, "-o", tmp_path / "new")
    assert (code, "they answer points, tiny takes box" in err) == (1, True)
