"""Calibration sets, with a segmenter whose Dice follows from the areas of discs and boxes."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samsdk.errors import SamsdkError
from samsdk.semantic import SemanticResult
from samsdk.transforms import Preprocessing
from samsdk_export.calibration import CalibrationError, CalibrationSets, dice_change, largest_change
from samsdk_training.data import DataError, read_set

MakeSet = Callable[..., Path]
# One disc of radius r has as many pixels as there are whole points in a circle (Gauss's circle problem).
PIXELS = {5: 81, 10: 317, 15: 709, 20: 1257}
SIZE = 96 * 128


@dataclass
class Answer:
    mask: np.ndarray
    score: float = 0.5


@dataclass
class Filler:
    """Answers a box with the whole box, and a point with the whole image."""

    encoded: list[np.ndarray] = field(default_factory=list)
    boxes: list[Any] = field(default_factory=list)
    points: list[Any] = field(default_factory=list)

    def encode(self, image: np.ndarray, *, window: Any = None) -> tuple[int, int]:
        assert window is None  # from the whole image
        self.encoded.append(image)
        return image.shape[:2]

    def decode(self, size: tuple[int, int], *, points=None, labels=None, box=None, mask=None) -> Answer:
        assert mask is None
        painted = np.zeros(size, bool)
        if box is None:
            self.points.append((points, labels))
            painted[:] = True
        else:
            self.boxes.append(box)
            x0, y0, x1, y1 = box
            painted[y0:y1, x0:x1] = True
        return Answer(painted)


def box_dice(radius: int) -> float:
    return 2 * PIXELS[radius] / (PIXELS[radius] + (2 * radius + 1) ** 2)


def point_dice(radius: int) -> float:
    return 2 * PIXELS[radius] / (PIXELS[radius] + SIZE)


def test_dice_is_the_mean_over_the_objects_of_each_set(make_set: MakeSet, tmp_path: Path) -> None:
    one = make_set(tmp_path / "one", [[(30, 30, 10), (90, 60, 20)], [(64, 48, 15)]])
    two = make_set(tmp_path / "two", [[(30, 30, 5)], [(40, 40, 5)]])
    filler = Filler()
    dice = CalibrationSets((one, two)).dice(filler, ("points", "box", "mask"))
    assert list(dice) == ["one", "two"]
    # A mask as a prompt comes from an earlier answer: there is nothing of its own to measure.
    assert all(list(row) == ["points", "box"] for row in dice.values())
    assert dice["one"]["box"] == pytest.approx((box_dice(10) + box_dice(20) + box_dice(15)) / 3, abs=1e-12)
    assert dice["one"]["points"] == pytest.approx((point_dice(10) + point_dice(20) + point_dice(15)) / 3, abs=1e-12)
    assert dice["two"] == {"points": pytest.approx(point_dice(5)), "box": pytest.approx(box_dice(5))}
    assert [image.shape for image in filler.encoded] == [(96, 128)] * 4
    assert filler.boxes == [(20, 20, 41, 41), (70, 40, 111, 81), (49, 33, 80, 64), (25, 25, 36, 36), (35, 35, 46, 46)]
    # One click on each, in its middle.
    assert [points for points, _ in filler.points] == [
        [centre] for centre in ((30, 30), (90, 60), (64, 48), (30, 30), (40, 40))
    ]
    assert CalibrationSets((one,)).dice(Filler(), ("box",)) == {"one": {"box": dice["one"]["box"]}}


def test_only_the_first_images_and_objects_count(make_set: MakeSet, tmp_path: Path) -> None:
    many = make_set(tmp_path / "many", [[(20, 20, 5), (60, 30, 10), (100, 60, 15)], [(30, 30, 20)], [(64, 48, 15)]])
    (box,) = CalibrationSets((many,), images=2, objects=2).dice(Filler(), ("box",))["many"].values()
    assert box == pytest.approx((box_dice(5) + box_dice(10) + box_dice(20)) / 3)
    assert [image.name for image in CalibrationSets((many,), images=2).read(many)] == ["0", "1"]


def test_the_list_of_validation_comes_before_that_of_training(make_set: MakeSet, tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", [[(30, 30, 10)]] * 3, list_name="train.txt")
    assert [image.name for image in CalibrationSets((folder,)).read(folder)] == ["0", "1", "2"]
    (folder / "val.txt").write_text("2\n1\n")
    assert [image.name for image in CalibrationSets((folder,)).read(folder)] == ["2", "1"]


def test_a_set_of_one_image_proves_nothing(make_set: MakeSet, tmp_path: Path) -> None:
    good = make_set(tmp_path / "good", [[(30, 30, 10)]] * 2)
    single = make_set(tmp_path / "single", [[(30, 30, 10)]])
    sets = CalibrationSets((good, single))
    with pytest.raises(CalibrationError, match=r"calibration set .*single has 1 image\(s\), at least 2 are needed"):
        sets.dice(Filler(), ("box",))
    make_set(tmp_path / "empty", [])
    with pytest.raises(CalibrationError, match=r"empty has 0 image\(s\)"):
        sets.read(tmp_path / "empty")
    with pytest.raises(CalibrationError, match="needs at least 2 images, got 1"):
        CalibrationSets((good,), images=1)


def test_a_set_without_objects_proves_nothing(make_set: MakeSet, tmp_path: Path) -> None:
    # A disc of radius 2 has 13 pixels, fewer than the 30 that an object needs.
    specks = make_set(tmp_path / "specks", [[(30, 30, 2)], []])
    with pytest.raises(CalibrationError, match=r"calibration set .*specks has no object of 30 pixels or more"):
        CalibrationSets((specks,)).dice(Filler(), ("box",))


def test_sets_are_told_apart_by_name_and_there_is_one_at_least(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="needs calibration sets: give folders of labelled images"):
        CalibrationSets(())
    with pytest.raises(CalibrationError, match="need different names, got nuclei, glands, nuclei"):
        CalibrationSets((tmp_path / "a" / "nuclei", tmp_path / "glands", tmp_path / "b" / "nuclei"))
    assert issubclass(CalibrationError, SamsdkError)


def test_what_is_no_set_is_refused(make_set: MakeSet, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"nothing has no list.txt; expected a set with images/, masks/"):
        CalibrationSets((tmp_path / "nothing",)).dice(Filler(), ("box",))
    broken = make_set(tmp_path / "broken", [[(30, 30, 10)]] * 2)
    (broken / "masks" / "1.png").unlink()
    with pytest.raises(SamsdkError, match=r"1.png"):
        CalibrationSets((broken,)).dice(Filler(), ("box",))


def test_the_change_is_measured_minus_reference_and_either_direction_counts() -> None:
    reference = {"a": {"box": 0.9, "points": 0.8}, "b": {"box": 0.5, "points": 0.7}}
    measured = {"a": {"box": 0.875, "points": 0.8}, "b": {"box": 0.5625, "points": 0.7}}
    change = dice_change(measured, reference)
    assert change == {
        "a": {"box": pytest.approx(-0.025), "points": 0.0},
        "b": {"box": pytest.approx(0.0625), "points": 0.0},
    }
    assert largest_change(change) == pytest.approx(0.0625)
    assert largest_change({"a": {"box": -0.25}, "b": {"box": 0.125}}) == 0.25
    assert largest_change({}) == largest_change({"a": {}}) == 0.0


def test_measuring_needs_no_torch() -> None:
    code = (
        "import sys, samsdk_export.calibration; print(sorted({'torch', 'onnx', 'skimage', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@dataclass
class Namer:
    """Names each pixel by its brightness, so that classes are found with errors that can be counted."""

    classes: dict[str, str]

    def encode(self, image: np.ndarray, *, window: Any = None) -> np.ndarray:
        return image

    def decode(self, image: np.ndarray, **prompt: Any) -> SemanticResult:
        assert prompt == {}
        labels = np.select([image > 140, image > 85], [2, 1], 0).astype(np.uint8)
        frame = Preprocessing(8, rule="resize_square").frame(image.shape)
        names = {number: name for number, name in self.classes.items() if number != "0"}
        nothing = np.zeros(0, np.float32)
        return SemanticResult((), nothing, nothing, frame, names, {}, "", "namer", labels)


def test_dice_of_classes_is_over_all_pixels_of_a_set(make_set: MakeSet, tmp_path: Path) -> None:
    one = make_set(tmp_path / "one", [[(30, 30, 10), (90, 60, 20)], [(64, 48, 15)]])
    classes = {"0": "background", "1": "liver", "2": "spleen", "3": "aorta"}
    dice = CalibrationSets((one,)).dice(Namer(classes), (), classes)
    images = list(read_set(one))
    named = [np.select([labelled.image > 140, labelled.image > 85], [2, 1], 0) for labelled in images]
    expected = {}
    for number, name in ((1, "liver"), (2, "spleen")):
        pairs = [(labelled.label == number, label == number) for labelled, label in zip(images, named, strict=True)]
        both = sum(np.count_nonzero(truth & found) for truth, found in pairs)
        expected[name] = 2 * both / sum(np.count_nonzero(mask) for pair in pairs for mask in pair)
    # No label has an aorta: nothing can be said of it.
    assert dice == {"one": {name: pytest.approx(value, abs=1e-12) for name, value in expected.items()}}
    assert 0.1 < min(expected.values()) < max(expected.values()) < 1


def test_a_set_without_the_models_classes_proves_nothing(make_set: MakeSet, tmp_path: Path) -> None:
    none = make_set(tmp_path / "none", [[], []])
    classes = {"0": "background", "1": "liver"}
    with pytest.raises(CalibrationError, match=r"no pixel of calibration set .*none is labelled as one of the model"):
        CalibrationSets((none,)).dice(Namer(classes), (), classes)
    with pytest.raises(CalibrationError, match="expected a semantic model"):
        CalibrationSets((none,)).dice(Filler(), (), classes)
