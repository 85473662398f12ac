"""What the model card says of accuracy, as `samsdk evaluate --json` measures it."""

import json
from pathlib import Path
from typing import Any

import pytest

from samsdk import hub
from samsdk.command import WrongCallError
from samsdk_export.cli import _read_accuracy
from samsdk_export.model_card import model_card


@pytest.fixture
def manifest() -> dict[str, Any]:
    return json.loads((hub.resolve_bundle() / "manifest.json").read_bytes())


def test_the_packaged_card_is_that_of_its_manifest(manifest: dict[str, Any]) -> None:
    card = (hub.resolve_bundle() / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert model_card(manifest) == card
    assert "| set | objects | tight box | 1 point | 3 points |\n" in card


def test_other_prompts_have_their_columns(manifest: dict[str, Any]) -> None:
    calibration = {"mean_absolute_error": 0.25}
    row = {"objects": 4, "dice": {"point5": 0.75, "box": 0.25}, "calibration": calibration}
    accuracy = {"mean_dice": {"point5": 0.75, "box": 0.25}, "sets": {"cells": row}}
    card = model_card({**manifest, "accuracy": accuracy})
    assert "| set | objects | 5 points | tight box |\n|---|---|---|---|\n| cells | 4 | 0.750 | 0.250 |\n" in card
    assert "with one of these prompts on cells." in card
    assert "off by 0.25 in the mean" in card


def test_a_semantic_model_s_classes_have_theirs(manifest: dict[str, Any]) -> None:
    mean = {"box": 0.9, "spleen": None, "mean over classes": 0.9}
    accuracy = {"mean_dice": mean, "sets": {"organs": {"cases": 12, "dice": mean}}}
    classes = {"0": "background", "1": "box", "2": "spleen"}
    card = model_card({**manifest, "task": "semantic", "classes": classes, "accuracy": accuracy})
    assert "| set | cases | box | spleen | mean over classes |\n" in card
    assert "| organs | 12 | 0.900 | - | 0.900 |\n| **mean over sets** | | 0.900 | - | 0.900 |\n" in card
    assert "the mean over cases, each an image or a whole volume" in card
    assert "Where it fails" not in card


def test_what_evaluate_says_of_where_its_numbers_come_from_is_kept(tmp_path: Path) -> None:
    kept = {"bundle": None, "checkpoint": "ab" * 32, "zoom": None, "mean_dice": {"box": 0.5}, "sets": {}}
    (tmp_path / "accuracy.json").write_text(json.dumps({**kept, "mean_iou": {}, "rules": {}}))
    assert _read_accuracy(tmp_path / "accuracy.json") == kept
    (tmp_path / "accuracy.json").write_text(json.dumps({**kept, "prompt": "point1"}))
    with pytest.raises(WrongCallError, match=r"says what points in the reference add \(point1\): evaluate without"):
        _read_accuracy(tmp_path / "accuracy.json")
