"""Points for models that answer for a whole image, with predictors whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from samsdk.transforms import Frame
from samsdk_training.class_points import ABSENT, ClassPoints, joint_points
from samsdk_training.data import LabelledImage
from samsdk_training.evaluation import PassPerClass, class_cases, foreground_cases
from samsdk_training.evaluation.guidance import draw_class_points, guided_masks

CLASSES = {"0": "background", "1": "liver", "2": "spleen", "3": "aorta"}
SIDE = 16
# The image is the network's input: nothing is scaled, nothing padded.
FRAME = Frame((SIDE, SIDE), (SIDE, SIDE), SIDE, (0, 0, SIDE, SIDE))


class Probable:
    """To a point it answers with the logits that belong to the image's value there."""

    def __init__(self, logits: dict[int, np.ndarray]) -> None:
        self.logits = logits
        self.asked: list[np.ndarray] = []

    def encode(self, image: np.ndarray, *, window=None) -> SimpleNamespace:
        return SimpleNamespace(image=image, frame=FRAME, provider="known", bundle="known")

    def decode(self, embedding, *, points, labels=None) -> SimpleNamespace:
        self.asked.append(np.asarray(points))
        x, y = np.asarray(points, int)[0]
        # Two masks, of which the second is the best.
        logits = self.logits[int(embedding.image[y, x])]
        return SimpleNamespace(low_res_logits=np.stack([-logits, logits]), best=1)


@pytest.fixture
def labelled() -> LabelledImage:
    """The liver above, the spleen below, no aorta."""
    label = np.zeros((SIDE, SIDE), np.uint8)
    label[1:7, 2:14], label[9:15, 2:14] = 1, 2
    return LabelledImage("a", label, label, False)


def test_of_each_pixel_the_surest_class_or_the_background(labelled: LabelledImage) -> None:
    rng = np.random.default_rng(3)
    logits = {one: rng.normal(0, 3, (SIDE, SIDE)).astype(np.float32) for one in (1, 2)}
    predictor = Probable(logits)
    asked = PassPerClass(predictor, CLASSES)
    points = draw_class_points(labelled, 3, 2)
    answer = asked.decode_classes(asked.encode(labelled.image), points)
    probabilities = np.stack([1 / (1 + np.exp(-logits[one].astype(np.float64))) for one in (1, 2)])
    with_background = np.concatenate([1 - probabilities.max(axis=0, keepdims=True), probabilities])
    assert np.array_equal(answer.label_map, with_background.argmax(axis=0))
    assert set(np.unique(answer.label_map)) == {0, 1, 2}
    # A pass for each class that the image shows, with its own points alone.
    assert [one.tolist() for one in predictor.asked] == [
        points.points[points.classes == number].tolist() for number in (1, 2)
    ]
    # Each class alone would take the pixels that are the other's, too.
    alone = [logits[one] > 0 for one in (1, 2)]
    assert (alone[0] & alone[1]).any()
    assert answer.labels == {"1": "liver", "2": "spleen", "3": "aorta"}


def test_an_image_without_classes_is_background_without_a_pass() -> None:
    predictor = Probable({})
    asked = PassPerClass(predictor, CLASSES)
    nothing = ClassPoints(np.zeros((3, 2), np.float32), np.full(3, ABSENT))
    answer = asked.decode_classes(asked.encode(np.zeros((SIDE, SIDE), np.uint8)), nothing)
    assert answer.label_map.shape == (SIDE, SIDE)
    assert not answer.label_map.any()
    assert predictor.asked == []


def test_points_of_an_image_are_the_same_every_time(labelled: LabelledImage) -> None:
    first, again = (draw_class_points(labelled, 3, 4) for _ in range(2))
    assert np.array_equal(first.points, again.points)
    other = draw_class_points(LabelledImage("b", labelled.image, labelled.label, False), 3, 4)
    assert not np.array_equal(first.points, other.points)
    # A row as in training.
    assert first.classes.tolist() == joint_points(labelled.label, 3, np.random.default_rng(0), 4).classes.tolist()
    for (x, y), one in zip(first.points.astype(int), first.classes, strict=True):
        assert one == ABSENT or labelled.label[y, x] == one


def test_cases_by_prompt(labelled: LabelledImage) -> None:
    # Each class is found where it is, and the liver in one row of the spleen, too, but less surely.
    logits = {one: np.where(labelled.label == one, 4.0, -4.0).astype(np.float32) for one in (1, 2)}
    logits[1][9] = 2.0
    logits[2][9, :8] = -1.0
    cases = list(
        class_cases(PassPerClass(Probable(logits), CLASSES), [labelled], CLASSES, prompts=("point1", "point3"))
    )
    assert [case.prompt for case in cases] == ["point1", "point3"]
    # The liver has the whole row 9 but for the 6 pixels that are surely spleen: 10 more than its own 72.
    assert cases[0].values["dice"]["liver"] == pytest.approx(2 * 72 / (72 + 82))
    assert cases[0].values["dice"]["spleen"] == pytest.approx(2 * 66 / (72 + 66))
    assert np.isnan(cases[0].values["dice"]["aorta"])


class Expert:
    """Finds the upper object by itself; of the points it learns exactly the pixel's row."""

    def __init__(self, truth: np.ndarray) -> None:
        self.found = np.zeros_like(truth)
        self.found[1:7] = truth[1:7]
        self.asked: list[tuple[list, list]] = []

    def encode(self, image: np.ndarray, *, window=None) -> np.ndarray:
        return image

    def decode(self, embedding, *, points=(), labels=()) -> SimpleNamespace:
        mask = self.found.copy()
        for (_, y), label in zip(points, labels, strict=True):
            mask[int(y)] = label == 1
        self.asked.append((list(points), list(labels)))
        return SimpleNamespace(mask=mask)


def test_an_expert_clicks_in_the_largest_error(labelled: LabelledImage) -> None:
    truth = labelled.label > 0
    predictor = Expert(truth)
    masks = guided_masks(predictor, labelled.image, truth, ("none", "point2"))
    assert list(masks) == ["none", "point2"]
    assert np.array_equal(masks["none"], predictor.found)
    nothing, first, second = predictor.asked
    assert nothing == ([], [])
    # The middle of the missed lower object, at equal distance the first.
    assert first == ([(4.0, 11.0)], [1])
    assert second[0][0] == first[0][0]
    assert np.array_equal(masks["point2"], Expert(truth).decode(None, points=second[0], labels=second[1]).mask)


def test_a_perfect_mask_is_asked_no_further(labelled: LabelledImage) -> None:
    truth = labelled.label > 0
    truth[9:] = False
    predictor = Expert(truth)
    masks = guided_masks(predictor, labelled.image, truth, ("point1", "point5"))
    assert len(predictor.asked) == 1
    assert np.array_equal(masks["point5"], truth)


def test_foreground_with_and_without_an_expert(labelled: LabelledImage) -> None:
    predictor = Expert(labelled.label > 0)
    alone, guided = foreground_cases(predictor, [labelled], prompts=("none", "point1"))
    assert (alone.prompt, guided.prompt) == ("none", "point1")
    assert alone.values["dice"]["foreground"] == pytest.approx(2 * 72 / (72 + 144))
    # One row of 16 pixels more, 12 of them right.
    assert guided.values["dice"]["foreground"] == pytest.approx(2 * 84 / (88 + 144))
    assert guided.areas == alone.areas == {"foreground": 144}
