"""Models that take no prompt, with predictors whose label maps and masks are known."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk.errors import SamsdkError
from samsdk.semantic import SemanticResult
from samsdk.splitting import Splitting
from samsdk_training.data import LabelledImage
from samsdk_training.evaluation import Measures, class_cases, foreground_cases, intervals, summarise_cases
from samsdk_training.evaluation.summary import OVER_CLASSES
from samsdk_training.metrics.empty import EmptyPolicy
from samsdk_training.metrics.intervals import Cases, bootstrap_mean
from samsdk_training.metrics.protocols import class_scores
from samsdk_training.set_folder import DataError

CLASSES = {"0": "background", "1": "liver", "2": "spleen"}


class Known:
    """Finds in each image what is written in it."""

    def encode(self, image: np.ndarray, *, window=None) -> np.ndarray:
        return image

    def decode(self, embedding: np.ndarray, **prompt) -> SemanticResult:
        assert not any(one is not None for one in prompt.values())
        nothing = np.zeros(0, np.float32)
        return SemanticResult((), nothing, nothing, None, {}, {}, "known", "known", embedding)


class Foreground(Known):
    """Finds what is not 0 in an image."""

    def decode(self, embedding: np.ndarray, **prompt):
        return type("Answer", (), {"mask": embedding > 0})()


def image(name: str, found: NDArray[np.integer], truth: NDArray[np.integer], **more) -> LabelledImage:
    return LabelledImage(name, found.astype(np.uint8), truth, more.pop("instances", False), **more)


@pytest.fixture
def volume() -> list[LabelledImage]:
    """Two planes. Of the liver 4 and 2 pixels, found 2 and 2; of the spleen nothing, and nothing is found."""
    truth, found = np.zeros((2, 2, 6, 8), np.uint8)
    truth[0, :2, :2] = truth[1, 0, :2] = 1
    found[0, 0, :2] = found[1, 0, :2] = 1
    where = {"patient": "anna", "volume": "v", "spacing": (1.0, 2.0), "depth": 3.0}
    return [image(f"v_z00{index}", found[index], truth[index], **where) for index in range(2)]


@pytest.fixture
def slices(volume: list[LabelledImage]) -> list[LabelledImage]:
    """The volume, and an image: of the liver 6 pixels, found 3 and 3 elsewhere; the spleen is missed."""
    truth, found = np.zeros((2, 6, 8), np.uint8)
    truth[0, :6], truth[3, :4] = 1, 2
    found[0, 3:6] = found[1, :3] = 1
    return [*volume, image("single", found, truth)]


def test_a_volume_is_one_case(slices: list[LabelledImage]) -> None:
    volume, single = class_cases(Known(), slices, CLASSES)
    assert (volume.case, volume.images, volume.patient, volume.areas) == ("v", 2, "anna", {"liver": 6, "spleen": 0})
    assert (single.case, single.images, single.patient, single.areas) == ("single", 1, None, {"liver": 6, "spleen": 4})
    # 2 * 4 / (4 + 6) of the volume; the mean of its planes would be (2/3 + 1) / 2.
    assert volume.values["dice"]["liver"] == pytest.approx(0.8)
    assert volume.values["iou"]["liver"] == pytest.approx(4 / 6)
    assert np.isnan(volume.values["dice"]["spleen"])
    assert single.values["dice"] == {"liver": pytest.approx(0.5), "spleen": 0.0}
    assert (volume.cluster, single.cluster) == (("patient", "anna"), ("case", "single"))


def test_means_are_over_cases_first_and_then_over_classes(slices: list[LabelledImage]) -> None:
    scores = list(class_cases(Known(), slices, CLASSES))
    summary = summarise_cases(scores)
    assert (summary["images"], summary["cases"], summary["patients"]) == (3, 2, 1)
    assert summary["dice"] == {"liver": pytest.approx(0.65), "spleen": 0.0, OVER_CLASSES: pytest.approx(0.325)}
    assert summary["iou"][OVER_CLASSES] == pytest.approx((4 / 6 + 1 / 3) / 4)
    found = intervals([scores])["dice"]
    assert (found["spleen"]["count"], found["spleen"]["undefined"], found["spleen"]["clusters"]) == (1, 1, 2)
    table = [[0.8, np.nan], [0.5, 0.0]]
    expected = bootstrap_mean(Cases(table, ["anna", "single"]))
    assert found[OVER_CLASSES]["low"] == pytest.approx(expected.low, abs=1e-12)
    assert found[OVER_CLASSES]["high"] == pytest.approx(expected.high, abs=1e-12)
    with pytest.raises(ValueError, match="there was no image"):
        summarise_cases([])


def test_a_class_that_no_case_has_is_undefined(volume: list[LabelledImage]) -> None:
    scores = list(class_cases(Known(), volume, CLASSES))
    assert summarise_cases(scores)["dice"] == {
        "liver": pytest.approx(0.8),
        "spleen": None,
        OVER_CLASSES: pytest.approx(0.8),
    }
    assert list(intervals([scores])["dice"]) == ["liver", OVER_CLASSES]
    perfect = Measures(empty=EmptyPolicy(both="perfect"))
    (scored,) = class_cases(Known(), volume, CLASSES, measures=perfect)
    assert scored.values["dice"]["spleen"] == 1.0


def test_distances_of_a_volume_count_the_way_between_planes() -> None:
    truth, found = np.zeros((2, 3, 6, 8), np.uint8)
    truth[0, 2, 3] = found[2, 2, 3] = 1  # one voxel each, two planes apart
    planes = [
        image(f"v_{index}", found[index], truth[index], volume="v", spacing=(1.0, 1.0), depth=3.0) for index in range(3)
    ]
    one = {"0": "background", "1": "liver"}
    (scored,) = class_cases(Known(), planes, one, measures=Measures(hd95="medpy"))
    assert scored.values["hd95"] == {"liver": pytest.approx(6.0)}
    (scored,) = class_cases(Known(), planes, one, measures=Measures(hd95="medpy", spacing=(2.5, 1.0, 1.0)))
    assert scored.values["hd95"] == {"liver": pytest.approx(5.0)}
    (scored,) = class_cases(Known(), planes, one, measures=Measures(nsd=6.0))
    assert scored.values["nsd"] == {"liver": pytest.approx(1.0)}
    unknown = [replace(plane, depth=None) for plane in planes]
    needs = r"v_0: NSD and HD95 need the size of a pixel in mm, \(between planes, down, across\), known are 1, 1"
    for measures in (Measures(nsd=1.0), Measures(hd95="medpy", spacing=(1.0, 1.0))):
        with pytest.raises(DataError, match=needs):
            next(class_cases(Known(), unknown, one, measures=measures))


def test_the_transunet_protocol_is_of_volumes(slices: list[LabelledImage]) -> None:
    *volume, single = slices
    volume[0].image[4, 4] = 2  # a spleen where there is none is worth a Dice of 1 by these rules
    (scored,) = class_cases(Known(), volume, CLASSES, measures=Measures(transunet=True))
    found, truth = np.stack([one.image for one in volume]), np.stack([one.label for one in volume])
    expected = class_scores(found, truth, [1, 2], protocol="transunet")
    assert scored.values == {
        "dice": {"liver": expected[1].dice, "spleen": 1.0},
        "hd95": {"liver": expected[1].hd95, "spleen": 0.0},
    }
    with pytest.raises(DataError, match="single is no slice of a volume; the transunet protocol"):
        next(class_cases(Known(), [single], CLASSES, measures=Measures(transunet=True)))


def test_labels_have_to_be_the_model_s_classes(slices: list[LabelledImage]) -> None:
    *_, single = slices
    strange = replace(single, label=single.label + 1)
    with pytest.raises(DataError, match="single: label 3 is no class of the model, which knows 0 background, 1 liver"):
        next(class_cases(Known(), [strange], CLASSES))
    with pytest.raises(DataError, match=r"single: its labels number objects, .* say so in set.json"):
        next(class_cases(Known(), [replace(single, instances=True)], CLASSES))
    with pytest.raises(SamsdkError, match="expected a semantic model"):
        next(class_cases(Foreground(), [single], CLASSES))


@pytest.fixture
def nuclei() -> LabelledImage:
    """Two squares of 36 and 16 pixels, numbered 7 and 9, of which the first is found."""
    truth = np.zeros((20, 20), np.uint16)
    truth[2:8, 2:8], truth[12:16, 12:16] = 7, 9
    return image("nuclei", truth == 7, truth, instances=True)


def test_foreground_and_its_instances(nuclei: LabelledImage) -> None:
    (scored,) = foreground_cases(Foreground(), [nuclei])
    values = {name: row["foreground"] for name, row in scored.values.items()}
    assert values == {
        "dice": pytest.approx(72 / 88),
        "iou": pytest.approx(36 / 52),
        "aji": pytest.approx(36 / 52),
        "aji_plus": pytest.approx(36 / 52),
        "object_f1": pytest.approx(2 / 3),
        "panoptic_quality": pytest.approx(2 / 3),
    }
    assert scored.areas == {"foreground": 52}


def test_touching_objects_are_parted_before_they_are_counted() -> None:
    rows, columns = np.ogrid[:40, :60]
    discs = [(rows - 20) ** 2 + (columns - x) ** 2 <= 100 for x in (20, 37)]
    truth = np.where(discs[0] & (columns <= 28), 1, np.where(discs[1], 2, 0)).astype(np.uint16)
    (scored,) = foreground_cases(Foreground(), [image("pair", truth, truth, instances=True)])
    assert scored.values["object_f1"]["foreground"] == 1.0
    assert scored.values["aji"]["foreground"] > 0.95
    # Taken for one object, its partner is the larger half; the other adds its area to the unions.
    whole = Splitting(depth=50.0)
    (scored,) = foreground_cases(Foreground(), [image("pair", truth, truth, instances=True)], splitting=whole)
    halves = [np.count_nonzero(truth == one) / np.count_nonzero(truth) for one in (1, 2)]
    assert scored.values["aji_plus"]["foreground"] == pytest.approx(max(halves) / (1 + min(halves)))


def test_without_instances_their_measures_are_left_out(nuclei: LabelledImage) -> None:
    classes = replace(nuclei, instances=False)
    assert list(summarise_cases(list(foreground_cases(Foreground(), [classes])))) == [
        *("images", "patients", "cases", "dice", "iou")
    ]
    both = summarise_cases(list(foreground_cases(Foreground(), [classes, nuclei])))
    assert both["object_f1"] == {"foreground": pytest.approx(2 / 3)}
    assert both["cases"] == 2


def test_the_foreground_of_a_volume_is_one_case(volume: list[LabelledImage]) -> None:
    (scored,) = foreground_cases(Foreground(), volume)
    assert scored.values["dice"] == {"foreground": pytest.approx(0.8)}
    assert (scored.case, scored.images) == ("v", 2)
