"""`samsdk train`: each recipe's defaults, what a file and flags change of them, and calls that make no sense."""

import json
from pathlib import Path

import pytest

from samsdk import cli
from samsdk_training import train_cli
from samsdk_training.evaluation import PROMPTS

ROW = {"before": dict.fromkeys(PROMPTS, 0.5), "after": dict.fromkeys(PROMPTS, 0.75)}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run the command with a recipe whose training only keeps what it was called with."""
    seen = {}
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    (tmp_path / "set" / "train.txt").write_text("a\n")

    def run(recipe: str, *more: str):
        entry = train_cli._entries()[recipe]

        def keep(made, base, sets, run, *, licence):
            seen.update(recipe=made, base=base, sets=sets, run=run, licence=licence)
            return {"step": 1, "before_after": {"sets": {"knee": ROW}, "mean": ROW}}

        changed = train_cli._Entry(entry.default, entry.from_dict, keep)
        monkeypatch.setattr(train_cli, "_entries", lambda: {recipe: changed})
        code = cli.main(
            ["train", recipe, "--data", str(tmp_path / "set"), "-o", str(tmp_path / "run"), "--base", "student", *more]
        )
        return code, seen

    return run


def test_every_recipe_has_defaults_that_hold_and_a_base() -> None:
    entries = train_cli._entries()
    assert {*entries, "student"} == train_cli.RECIPES.keys()
    for name, entry in entries.items():
        content = entry.default().to_dict()
        assert content["recipe"] == name
        assert entry.from_dict(json.loads(json.dumps(content))) == entry.default()
        # Models for volumes start from random weights, unless a 2-D ViT is given.
        bases = (None,) if name in ("autoprosam", "swin_unetr") else ("student", "lite-medsam")
        assert train_cli.RECIPES[name][1] in bases


def test_a_file_and_then_flags_change_the_defaults(called, tmp_path: Path, capsys) -> None:
    config = tmp_path / "mine.json"
    config.write_text(json.dumps({"rank": 2, "loop": {"learning_rate": 0.5, "weight_decay": 0.0}}))
    code, seen = called("samed", "--config", str(config), "--learning-rate", "0.25", "--steps", "100", "--seed", "7")
    assert code == 0
    made = seen["recipe"]
    assert (made.rank, made.loop.learning_rate, made.loop.weight_decay) == (2, 0.25, 0.0)
    # Of a shorter run the warm-up is a tenth at most, and the decay ends with it.
    assert (made.loop.steps, made.loop.warmup_steps, made.loop.decay_steps, made.loop.seed) == (100, 10, None, 7)
    assert made.dice_weight == 0.8
    assert seen["sets"] == [tmp_path / "set"]
    assert len(seen["base"].sha256) == 64
    out = capsys.readouterr().out
    assert "knee  box 0.500 -> 0.750" in out
    assert f"samsdk export {tmp_path / 'run' / 'best'} -o BUNDLE" in out


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--steps", "0"), "steps: expected a whole number of at least 1"),
        (("--plan", "x.json"), "the recipe samed does not take --plan"),
    ],
)
def test_wrong_calls_are_told_apart(called, more, text, capsys) -> None:
    code, seen = called("samed", *more)
    assert code == 2
    assert not seen
    assert text in capsys.readouterr().err


def test_a_file_that_does_not_fit_the_recipe_says_what_would(called, tmp_path: Path, capsys) -> None:
    config = tmp_path / "mine.json"
    for content, text in (
        ({"epochs": 3}, "unknown fields: epochs; the recipe has: recipe, "),
        ([], "expected a JSON object"),
        ({"loop": {"step": 1}}, "unknown fields: step"),
    ):
        config.write_text(json.dumps(content))
        code, seen = called("samed", "--config", str(config))
        assert code == 2
        assert not seen
        assert text in capsys.readouterr().err


def test_the_student_takes_no_base(tmp_path: Path, capsys) -> None:
    code = cli.main(["train", "student", "--data", str(tmp_path), "-o", str(tmp_path / "run"), "--base", "student"])
    assert code == 2
    assert "the recipe student does not take --base" in capsys.readouterr().err


def test_a_folder_without_sets_is_refused(tmp_path: Path, capsys) -> None:
    assert cli.main(["train", "samed", "--data", str(tmp_path), "-o", str(tmp_path / "run"), "--base", "student"]) == 2
    assert "found no train.txt with ids in it" in capsys.readouterr().err
