"""The table that scores are looked up in."""

import json
from typing import Any

import pytest

from samsdk.measuring import Calibration

TABLE = Calibration((0.2, 0.6, 0.8), (0.1, 0.5, 0.9), 12)


@pytest.mark.parametrize(
    ("score", "expected"), [(0.2, 0.1), (0.4, 0.3), (0.7, 0.7), (0.8, 0.9), (0.0, 0.1), (-3.0, 0.1), (1.4, 0.9)]
)
def test_linear_between_and_level_beyond(score: float, expected: float) -> None:
    assert TABLE.expected_iou(score) == pytest.approx(expected)


def test_there_and_back_through_json() -> None:
    assert Calibration.from_dict(json.loads(json.dumps(TABLE.to_dict()))) == TABLE


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scores": []}, "of one length, at least 1"),
        ({"scores": [0.2, 0.6]}, "of one length, at least 1"),
        ({"scores": [0.2, 0.2, 0.8]}, "scores must ascend"),
        ({"iou": [0.1, 0.9, 0.5]}, "iou must not fall"),
        ({"iou": [0.1, 0.5, 1.5]}, "iou must be within 0 to 1"),
        ({"iou": [0.1, 0.5, float("nan")]}, "must be finite"),
        ({"images": 0}, "images must be above 0"),
        ({"images": 2.5}, "a count of images"),
        ({"images": True}, "a count of images"),
        ({"scores": ["a", "b", "c"]}, "two lists of numbers"),
        ({"scores": 0.5}, "two lists of numbers"),
        ({"more": 1}, "must be an object of images, iou, scores"),
    ],
)
def test_a_wrong_table_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Calibration.from_dict({**TABLE.to_dict(), **change})
