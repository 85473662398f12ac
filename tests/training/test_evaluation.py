"""The protocol, with a predictor that paints by rule, and end to end on the tiny bundle."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import samsdk
from samsdk.masks import dice
from samsdk.zoom import Zoom
from samsdk_training.data import LabelledImage
from samsdk_training.evaluation import (
    Measures,
    ObjectScores,
    calibration,
    evaluate_images,
    intervals,
    point_count,
    summarise,
)
from samsdk_training.metrics import surface
from samsdk_training.metrics.intervals import Cases, bootstrap_mean
from samsdk_training.set_folder import DataError


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
    (scores,) = evaluate_images(painter, [bar], prompts=("box", "point1", "point2", "point3"))
    assert painter.encoded == [None]
    assert painter.calls[0]["box"] == (10, 10, 25, 15)
    assert scores.dice["box"] == 1.0
    assert painter.calls[1]["mask"] is None
    assert [len(call["points"] or []) for call in painter.calls[1:]] == [3, 3, 3]  # one list, which grows
    assert painter.calls[-1]["labels"] == [1, 1, 1]
    assert all(call["mask"] is answer for call, answer in zip(painter.calls[2:], painter.answers[1:], strict=False))
    assert scores.area == 75
    # 25, then at least 45, then at most 75 of 75 pixels.
    assert scores.dice["point1"] == pytest.approx(2 * 25 / 100)
    assert scores.dice["point1"] < scores.dice["point2"] < scores.dice["point3"]
    assert scores.iou["point1"] == pytest.approx(1 / 3)


def test_only_what_is_asked_is_prompted_in_the_order_of_asking(bar: LabelledImage) -> None:
    painter = Painter()
    (scores,) = evaluate_images(painter, [bar], prompts=("point2", "box"))
    assert list(scores.dice) == list(scores.predicted_iou) == ["point2", "box"]
    assert [call["box"] is not None for call in painter.calls] == [True, False, False]
    painter = Painter()
    (scores,) = evaluate_images(painter, [bar], prompts=("box",))
    assert (list(scores.iou), len(painter.calls)) == (["box"], 1)


@pytest.mark.parametrize("word", ["", "none", "point", "point0", "point03", "point100", "points1", "1", "Box"])
def test_prompts_have_names(word: str, bar: LabelledImage) -> None:
    with pytest.raises(ValueError, match="unknown prompt"):
        point_count(word)
    with pytest.raises(ValueError, match="unknown prompt"):
        next(evaluate_images(Painter(), [bar], prompts=("box", word)))


def test_prompts_that_no_object_can_be_asked(bar: LabelledImage) -> None:
    assert [point_count(word) for word in ("box", "point1", "point5", "point99")] == [0, 1, 5, 99]
    for prompts, measures in (((), Measures()), (("box",), Measures(transunet=True))):
        with pytest.raises(ValueError, match="at least one prompt, and not the transunet protocol"):
            next(evaluate_images(Painter(), [bar], prompts=prompts, measures=measures))


def test_objects_are_numbered_and_know_whose_they_are(bar: LabelledImage) -> None:
    label = bar.label.copy()
    label[20:22, 40:50] = label[30:36, 40:50] = 1  # 20 pixels: too small; 60 pixels
    several = replace(bar, label=label, patient="p7", volume="v", name="v_z001")
    first, second = evaluate_images(Painter(), [several])
    assert [(one.image, one.number, one.area) for one in (first, second)] == [("v_z001", 1, 75), ("v_z001", 2, 60)]
    assert first.cluster == ("patient", "p7")
    assert replace(first, patient=None).cluster == ("volume", "v")
    assert replace(first, patient=None, volume=None).cluster == ("image", "v_z001")


def test_distances_on_demand(bar: LabelledImage) -> None:
    class Short(Painter):
        """Answers with the left 10 of the bar's 15 columns."""

        def decode(self, size, **prompt):
            answer = super().decode(size, **prompt)
            answer.mask[:, 20:] = False
            return answer

    def measured(image: LabelledImage, measures: Measures) -> ObjectScores:
        (scores,) = evaluate_images(Short(), [image], prompts=("box",), measures=measures)
        return scores

    # 36 pixels of the bar and 26 of the answer are at their borders. Of these 62, five of the bar are 5 columns away,
    # two of them above and below, three at its end: the ranks from 57 on; the 95th percentile is at rank 57.95.
    pixels = measured(bar, Measures(hd95="medpy", spacing=(1.0, 1.0)))
    assert pixels.distances == {"hd95": {"box": 5.0}}
    assert pixels.dice["box"] == pytest.approx(2 * 50 / 125)
    by_files = measured(replace(bar, spacing=(0.5, 2.0)), Measures(nsd=0.5, hd95="deepmind"))
    truth = bar.label == 1
    answer = truth & (np.arange(60) < 20)
    assert by_files.distances == {
        "nsd": {"box": surface.nsd(answer, truth, tolerance=0.5, spacing=(0.5, 2.0))},
        "hd95": {"box": surface.hd95(answer, truth, convention="deepmind", spacing=(0.5, 2.0))},
    }
    given = measured(replace(bar, spacing=(7.0, 7.0)), Measures(nsd=0.5, hd95="deepmind", spacing=(9.0, 0.5, 2.0)))
    assert given == by_files
    for none in (bar, replace(bar, spacing=(0.0, 1.0))):
        with pytest.raises(DataError, match=r"bar: NSD and HD95 need the size of a pixel in mm, \(down, across\)"):
            measured(none, Measures(nsd=1.0))


def test_intervals_are_those_of_the_cluster_bootstrap(bar: LabelledImage) -> None:
    lengths = (5, 8, 11, 14, 15)
    images = []
    for index, length in enumerate(lengths):
        label = np.zeros_like(bar.label)
        label[10:15, 10 : 10 + length * 2] = 1
        images.append(replace(bar, name=str(index), label=label, patient=f"p{index // 2}"))
    scores = list(evaluate_images(Painter(), images, prompts=("point1", "box")))
    dice = [2 * 25 / (25 + 10 * length) for length in lengths]
    assert [score.dice["point1"] for score in scores] == pytest.approx(dice)
    expected = bootstrap_mean(Cases(dice, ["p0", "p0", "p1", "p1", "p2"]))
    found = intervals([scores])
    assert found["dice"]["point1"]["low"] == pytest.approx(expected.low, abs=1e-12)
    assert found["dice"]["point1"]["high"] == pytest.approx(expected.high, abs=1e-12)
    assert (found["dice"]["point1"]["clusters"], found["dice"]["point1"]["count"]) == (3, 5)
    assert found["dice"]["box"] == {"low": 1.0, "high": 1.0, "count": 5, "undefined": 0, "clusters": 3}
    assert summarise(scores)["patients"] == 3
    # Over sets: each is drawn by itself. Without patients, each image is for itself.
    strangers = [replace(score, patient=None) for score in scores]
    both = bootstrap_mean([Cases(dice, ["p0", "p0", "p1", "p1", "p2"]), Cases(dice)])
    over = intervals([scores, strangers])["dice"]["point1"]
    assert (over["low"], over["high"]) == (pytest.approx(both.low, abs=1e-12), pytest.approx(both.high, abs=1e-12))
    assert summarise(strangers)["patients"] is None
    # One image says nothing of others.
    one = intervals([scores[:1]])["dice"]["box"]
    assert one == {"low": None, "high": None, "count": 1, "undefined": 0, "clusters": 1}


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
    assert scores.dice == {"box": 1.0, "point1": 1.0, "point3": 1.0}


def test_summary_and_its_calibration(bar: LabelledImage) -> None:
    scores = list(evaluate_images(Painter(), [bar, bar], prompts=("box", "point1")))
    summary = summarise(scores)
    assert (summary["images"], summary["objects"]) == (1, 2)
    assert summary["dice"] == {"box": 1.0, "point1": 0.5}
    # Predicted 0.5 for IoU 1 and 1/3: in one bin, mean actual 2/3.
    assert summary["calibration"]["error"] == pytest.approx(1 / 6)
    assert summary["calibration"]["mean_absolute_error"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise([])


def test_clicks_until_a_mask_is_good_by_hand() -> None:
    courses = [(0.9, 0.7, 0.9), (0.2, 0.84, 0.85), (0.1, 0.2, 0.3), (0.1, 0.86, 0.2)]
    scores = [
        ObjectScores("a", number, 30, *[{f"point{n}": value for n, value in enumerate(course, 1)}] * 3)
        for number, course in enumerate(courses, 1)
    ]
    # 1, 3, none (which counts as all three), 2.
    assert summarise(scores)["clicks"] == {"dice": 0.85, "most": 3, "mean": (1 + 3 + 3 + 2) / 4, "share": 0.75}
    gap = [replace(one, dice={"box": 1.0, "point1": 0.9, "point3": 0.9}) for one in scores]
    gap = [replace(one, iou=one.dice, predicted_iou=one.dice) for one in gap]
    assert "clicks" not in summarise(gap)


def test_calibration_by_hand() -> None:
    measured = calibration(np.array([0.05, 0.95, 0.91, 1.7]), np.array([0.15, 0.9, 0.7, 1.0]))
    assert [row["count"] for row in measured["curve"]] == [1, 3]
    # |0.05 - 0.15| / 4 + 3/4 |(0.95 + 0.91 + 1) / 3 - 2.6 / 3|
    assert measured["error"] == pytest.approx(0.1 / 4 + (2.86 - 2.6) / 4)
    assert calibration(np.array([0.3, 0.8]), np.array([0.3, 0.8]))["error"] == pytest.approx(0)


def test_a_real_bundle_is_scored_by_its_own_masks(predictor: samsdk.Predictor, cell: np.ndarray) -> None:
    label = np.zeros(cell.shape, np.uint8)
    label[300:440, 355:490] = 1
    (scores,) = evaluate_images(
        predictor, [LabelledImage("cell", cell, label, instances=False)], prompts=("box", "point1")
    )
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
    (scores,) = evaluate_images(predictor, [labelled], prompts=("box", "point1", "point2", "point3"), zoom=Zoom())
    assert windows[0] == (332, 275, 422, 365)
    assert len(windows) == len(set(windows))
    box = predictor.segment(cell, box=(355, 300, 400, 340), zoom=True)
    assert scores.dice["box"] == dice(box.mask, label == 1)
