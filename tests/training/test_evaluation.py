"""The protocol, with a predictor that paints by rule, and end to end on the tiny bundle."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import samsdk
from samsdk.masks import dice
from samsdk.zoom import Zoom
from samsdk_training.data import LabelledImage
from samsdk_training.evaluation import calibration, evaluate_images, summarise


@dataclass
class Answer:
    mask: np.ndarray
    score: float = 0.5
    best: int = 0
    low_res_logits: np.ndarray = field(default_factory=lambda: np.zeros((1, 4, 4), np.float32))


@dataclass
class Painter:
    """Answers a box exactly, and a click with a square of 5x5 around each point of label 1."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    encoded: list[Any] = field(default_factory=list)

    def encode(self, image: np.ndarray, *, window=None) -> tuple[int, int]:
        self.encoded.append(window)
        return image.shape[:2]

    def decode(self, size: tuple[int, int], *, points=None, labels=None, box=None, mask=None) -> Answer:
        self.calls.append({"points": points, "labels": labels, "box": box, "mask": mask})
        painted = np.zeros(size, bool)
        if box is not None:
            x0, y0, x1, y1 = box
            painted[y0:y1, x0:x1] = True
        for (x, y), label in zip(points or [], labels or [], strict=True):
            painted[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] = label
        self.answers.append(Answer(painted))
        return self.answers[-1]


@pytest.fixture
def bar() -> LabelledImage:
    label = np.zeros((40, 60), np.uint8)
    label[10:15, 10:25] = 1  # 5x15: three clicks of the painter fill it
    return LabelledImage("bar", np.zeros((40, 60), np.uint8), label, instances=False)


def test_box_then_clicks_in_the_largest_error(bar: LabelledImage) -> None:
    painter = Painter()
    (scores,) = evaluate_images(painter, [bar], clicks=(1, 2, 3))
    assert painter.encoded == [None]
    assert painter.calls[0]["box"] == (10, 10, 25, 15)
    assert scores.dice["box"] == 1.0
    assert painter.calls[1]["mask"] is None
    assert [len(call["points"] or []) for call in painter.calls[1:]] == [3, 3, 3]  # one list, which grows
    assert painter.calls[-1]["labels"] == [1, 1, 1]
    assert all(call["mask"] is answer for call, answer in zip(painter.calls[2:], painter.answers[1:], strict=False))
    assert scores.area == 75
    # 25, then at least 45, then at most 75 of 75 pixels.
    assert scores.dice["1"] == pytest.approx(2 * 25 / 100)
    assert scores.dice["1"] < scores.dice["2"] < scores.dice["3"]
    assert scores.iou["1"] == pytest.approx(1 / 3)


def test_without_fed_masks_and_with_limits(bar: LabelledImage) -> None:
    painter = Painter()
    assert len(list(evaluate_images(painter, [bar], feed_mask=False))) == 1
    assert all(call["mask"] is None for call in painter.calls)
    assert list(evaluate_images(Painter(), [bar], smallest=76)) == []
    assert list(evaluate_images(Painter(), [bar], max_objects=0)) == []


def test_a_perfect_mask_gets_no_further_click() -> None:
    label = np.zeros((30, 30), np.uint8)
    label[10:15, 10:15] = 1
    painter = Painter()
    (scores,) = evaluate_images(painter, [LabelledImage("a", label, label, instances=False)], smallest=1)
    assert len(painter.calls) == 2
    assert scores.dice == {"box": 1.0, "1": 1.0, "3": 1.0}


def test_summary_and_its_calibration(bar: LabelledImage) -> None:
    scores = list(evaluate_images(Painter(), [bar, bar], clicks=(1,)))
    summary = summarise(scores)
    assert (summary["images"], summary["objects"]) == (1, 2)
    assert summary["dice"] == {"box": 1.0, "1": 0.5}
    # Predicted 0.5 for IoU 1 and 1/3: in one bin, mean actual 2/3.
    assert summary["calibration"]["error"] == pytest.approx(1 / 6)
    assert summary["calibration"]["mean_absolute_error"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise([])


def test_calibration_by_hand() -> None:
    measured = calibration(np.array([0.05, 0.95, 0.91, 1.7]), np.array([0.15, 0.9, 0.7, 1.0]))
    assert [row["count"] for row in measured["curve"]] == [1, 3]
    # |0.05 - 0.15| / 4 + 3/4 |(0.95 + 0.91 + 1) / 3 - 2.6 / 3|
    assert measured["error"] == pytest.approx(0.1 / 4 + (2.86 - 2.6) / 4)
    assert calibration(np.array([0.3, 0.8]), np.array([0.3, 0.8]))["error"] == pytest.approx(0)


def test_a_real_bundle_is_scored_by_its_own_masks(predictor: samsdk.Predictor, cell: np.ndarray) -> None:
    label = np.zeros(cell.shape, np.uint8)
    label[300:440, 355:490] = 1
    (scores,) = evaluate_images(predictor, [LabelledImage("cell", cell, label, instances=False)], clicks=(1,))
    box = predictor.segment(cell, box=(355, 300, 490, 440))
    assert scores.dice["box"] == dice(box.mask, label == 1)
    assert scores.predicted_iou["box"] == box.score


def test_with_zoom_each_window_is_encoded_once(predictor: samsdk.Predictor, cell: np.ndarray, monkeypatch) -> None:
    label = np.zeros(cell.shape, np.uint8)
    label[300:340, 355:400] = 1
    encode, windows = predictor.encode, []
    spy = lambda image, *, window=None: windows.append(window) or encode(image, window=window)  # noqa: E731
    monkeypatch.setattr(predictor, "encode", spy)
    labelled = LabelledImage("cell", cell, label, instances=False)
    (scores,) = evaluate_images(predictor, [labelled], clicks=(1, 2, 3), zoom=Zoom())
    assert windows[0] == (332, 275, 422, 365)
    assert len(windows) == len(set(windows))
    box = predictor.segment(cell, box=(355, 300, 400, 340), zoom=True)
    assert scores.dice["box"] == dice(box.mask, label == 1)
