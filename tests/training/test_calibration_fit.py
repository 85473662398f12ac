"""Tables fitted to answers whose worth is known."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from samsdk_training.calibration_fit import (
    Scored,
    fit_calibration,
    held_out_errors,
    prompt_kind,
    read_scored,
    rows_by_kind,
)
from samsdk_training.evaluation import ObjectScores, calibration
from samsdk_training.evaluation.report import write_rows
from samsdk_training.set_folder import DataError


def answers(name: str, count: int, seed: int, kind: str = "box") -> list[Scored]:
    """Of a model that believes too much in itself: the IoU is the score's square, with some noise."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.2, 1, count)
    iou = np.clip(scores**2 + rng.normal(0, 0.05, count), 0, 1)
    return [Scored(name, f"i{index // 3}", kind, *pair) for index, pair in enumerate(zip(scores, iou, strict=True))]


def error(rows: list[Scored], predicted: list[float]) -> float:
    return float(calibration(np.array(predicted), np.array([row.iou for row in rows]))["error"])


def test_a_model_that_believes_too_much_is_put_right_on_sets_that_were_not_fitted() -> None:
    # Seven sets leave an eighth of the weight to the claim that the scores are right.
    fitted = fit_calibration([row for seed in range(7) for row in answers(f"s{seed}", 60, seed)])
    rows = answers("new", 400, 99)
    before = error(rows, [row.score for row in rows])
    after = error(rows, [fitted.expected_iou(row.score) for row in rows])
    assert before == pytest.approx(np.mean([row.score - row.score**2 for row in rows]), abs=0.02)
    assert after < before / 4
    assert fitted.images == 7 * 20


def test_a_model_that_is_right_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    rows = [Scored("s", str(index), "box", score, score) for index, score in enumerate(rng.uniform(0, 1, 500))]
    fitted = fit_calibration(rows)
    for score in np.linspace(0.05, 0.95, 10):
        assert fitted.expected_iou(score) == pytest.approx(score, abs=0.03)


def test_where_nothing_was_answered_the_score_stays_what_it_is() -> None:
    rows = [Scored("s", str(index), "box", 0.9, 0.7) for index in range(50)]
    fitted = fit_calibration(rows)
    assert fitted.expected_iou(0.2) == pytest.approx(0.2, abs=0.06)
    assert 0.69 < fitted.expected_iou(0.9) < 0.76


def test_each_set_has_the_same_weight() -> None:
    large = [Scored("large", str(index), "box", 0.8, 0.9) for index in range(900)]
    small = [Scored("small", str(index), "box", 0.8, 0.3) for index in range(10)]
    # One each, and of the claims those near 0.8 that the step takes in.
    assert fit_calibration(large + small).expected_iou(0.8) == pytest.approx(0.6, abs=0.06)


def test_a_table_is_short_and_rises_with_the_data() -> None:
    rows = answers("s", 300, 5)
    fitted = fit_calibration(rows)
    assert 3 < len(fitted.scores) < 30
    assert spearmanr([row.iou for row in rows], [fitted.expected_iou(row.score) for row in rows])[0] > 0.95


def test_from_the_rows_of_an_evaluation(tmp_path: Path) -> None:
    scores = [
        ObjectScores(
            image=f"i{index}",
            number=1,
            area=50,
            dice={"box": 0.9, "point1": 0.5, "point3": 0.8},
            iou={"box": 0.8, "point1": 0.4, "point3": 0.7},
            predicted_iou={"box": 0.85, "point1": 0.45, "point3": 0.6},
        )
        for index in range(12)
    ]
    write_rows(tmp_path / "rows.csv", {"set": scores})
    rows = read_scored(tmp_path / "rows.csv")
    assert rows[0] == Scored("set", "i0", "box", 0.85, 0.8)
    assert [row.kind for row in rows[:3]] == ["box", "points", "points"]
    by_kind = rows_by_kind(rows)
    assert {kind: len(found) for kind, found in by_kind.items()} == {"box": 12, "points": 24}
    assert list(by_kind) == ["box", "points"]
    assert fit_calibration(by_kind["box"]).images == 12


def test_each_set_is_judged_by_a_table_that_was_fitted_to_the_others() -> None:
    rows = [row for seed in range(4) for row in answers(f"s{seed}", 60, seed)]
    # One whose scores are right: no table of the others is better for it.
    rows += [Scored("right", str(index), "box", score, score) for index, score in enumerate(np.linspace(0.3, 1, 50))]
    errors = held_out_errors(rows)
    assert list(errors.before) == list(errors.after) == ["right", "s0", "s1", "s2", "s3"]
    others = fit_calibration([row for row in rows if row.set_name != "s2"])
    own = [row for row in rows if row.set_name == "s2"]
    assert errors.before["s2"] == error(own, [row.score for row in own])
    assert errors.after["s2"] == error(own, [others.expected_iou(row.score) for row in own])
    assert errors.before["right"] == pytest.approx(0, abs=1e-12)
    assert errors.after["right"] > 0.05
    assert errors.means == (np.mean(list(errors.before.values())), np.mean(list(errors.after.values())))
    assert errors.improved


def test_scores_that_are_right_do_not_get_better() -> None:
    rng = np.random.default_rng(3)
    rows = [
        Scored(f"s{number}", str(index), "box", score, score)
        for number in range(3)
        for index, score in enumerate(rng.uniform(0, 1, 40))
    ]
    assert not held_out_errors(rows).improved


def test_one_set_cannot_be_judged() -> None:
    with pytest.raises(DataError, match="two sets or more, got s"):
        held_out_errors(answers("s", 30, 0))


@pytest.mark.parametrize(("prompt", "kind"), [("box", "box"), ("point1", "points"), ("point12", "points")])
def test_kinds_of_prompts(prompt: str, kind: str) -> None:
    assert prompt_kind(prompt) == kind


def test_other_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["set", "image", "prompt", "iou"], ["a", "b", "none", "0.5"]])
    with pytest.raises(DataError, match="lacks \\['predicted_iou'\\]"):
        read_scored(path)
    path.write_text("set,image,prompt,iou,predicted_iou\na,b,none,0.5,0.5\n", encoding="utf-8")
    with pytest.raises(DataError, match="a value that is none: unknown prompt 'none'"):
        read_scored(path)
    with pytest.raises(DataError, match="nothing to fit"):
        fit_calibration([])
