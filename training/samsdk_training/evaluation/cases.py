"""Models that take no prompt: how good their answers are, case by case.

A case is an image, or a whole volume: models for images are asked for its slices one after the other, which are
stacked; models for volumes get it as it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import SamsdkError
from samsdk.semantic import SemanticResult
from samsdk.splitting import Splitting
from samsdk.volumes.result import VolumeResult
from samsdk.volumes.volume import Volume
from samsdk_training.data import LabelledImage
from samsdk_training.evaluation.measures import INSTANCES, Measures, score_instances
from samsdk_training.evaluation.objects import Segmenter
from samsdk_training.labelled_volumes import read_labelled
from samsdk_training.set_folder import DataError, SetFolder

# The one class of a model that finds its foreground by itself.
FOREGROUND: Final = "foreground"


class VolumeSegmenter(Protocol):
    """What is evaluated on volumes: a `samsdk.VolumePredictor`, or a torch model (`TorchVolumePredictor`)."""

    def segment(self, image: Volume) -> VolumeResult:
        """Name the class of each voxel."""


@dataclass(frozen=True)
class CaseScores:
    """What the answer on one case was worth.

    Attributes:
        case: id of the image or of the volume.
        images: how many there are in it: its slices, or 1.
        areas: of each class in the reference, in pixels.
        values: each measure by its name, and in it the value of each class, NaN where undefined.
        patient: whose it is; None where nothing says so.
    """

    case: str
    images: int
    areas: Mapping[str, int]
    values: Mapping[str, Mapping[str, float]]
    patient: str | None = None

    @property
    def cluster(self) -> tuple[str, str]:
        """What the case belongs to: the patient where one is known, else the case is for itself."""
        return ("case", self.case) if self.patient is None else ("patient", self.patient)


@dataclass(frozen=True, eq=False)
class _Case:
    """`first` of its images, how many there are, and [H, W] or [D, H, W] numbers: those found, and the reference."""

    first: LabelledImage
    images: int
    found: NDArray[np.integer]
    truth: NDArray[np.integer]


def class_cases(
    predictor: Segmenter,
    images: Iterable[LabelledImage],
    classes: Mapping[str, str],
    *,
    measures: Measures = Measures(),  # noqa: B008 (frozen)
) -> Iterator[CaseScores]:
    """Score each class of each case of a semantic model.

    Args:
        predictor: what is evaluated.
        images: with the classes of their pixels, the slices of a volume one after the other.
        classes: the model's, name by number as text, `0` the background.
        measures: what is measured beside Dice and IoU.

    Yields:
        One entry a case, its classes by their names.

    Raises:
        DataError: the labels are not the model's classes, a distance is measured without a known size of pixels, or
            the rules are those of volumes and an image is no slice of one.
    """

    def answer(labelled: LabelledImage) -> NDArray[np.integer]:
        _check_classes(labelled, classes)
        result = predictor.decode(predictor.encode(labelled.image))
        if not isinstance(result, SemanticResult):
            raise SamsdkError("expected a semantic model: the answer names no classes")
        return result.label_map

    names = {int(number): name for number, name in classes.items() if number != "0"}
    for case in _cases(images, answer):
        if measures.transunet and case.first.volume is None:
            raise DataError(f"{case.first.name} is no slice of a volume; the transunet protocol is of whole volumes")
        yield _scored(case, names, measures)


def volume_cases(
    predictor: VolumeSegmenter,
    folder: SetFolder,
    ids: Iterable[str],
    classes: Mapping[str, str],
    *,
    union: bool = False,
    measures: Measures = Measures(),  # noqa: B008 (frozen)
) -> Iterator[CaseScores]:
    """Score each class of each volume, on the volume's own grid.

    Args:
        predictor: what is evaluated.
        folder: a set of NIfTI volumes.
        ids: of the volumes.
        classes: the model's, name by number as text, `0` the background.
        union: whether all labels of the set are class 1.
        measures: what is measured beside Dice and IoU.

    Yields:
        One entry a volume, its classes by their names.

    Raises:
        DataError: these are no NIfTI volumes of one grid, or the labels are not the model's classes.
    """
    names = {int(number): name for number, name in classes.items() if number != "0"}
    wanted = list(ids)
    patients = folder.patients(wanted)
    for name in wanted:
        volume, truth = read_labelled(folder, name, union=union)
        depth, *spacing = volume.spacing
        plane = LabelledImage(
            name, volume.array[0], truth, False, patients.get(name), (spacing[0], spacing[1]), name, depth
        )
        _check_classes(plane, classes)
        yield _scored(_Case(plane, len(truth), predictor.segment(volume).label_map, truth), names, measures)


def foreground_cases(
    predictor: Segmenter,
    images: Iterable[LabelledImage],
    *,
    splitting: Splitting = Splitting(),  # noqa: B008 (frozen)
    measures: Measures = Measures(),  # noqa: B008 (frozen)
) -> Iterator[CaseScores]:
    """Score the foreground of each case of a model that finds it by itself, and its instances where they are labelled.

    Args:
        predictor: what is evaluated; its answer without any prompt has a mask.
        images: with their labels: what is not 0 is foreground.
        splitting: how the foreground, of a volume as a whole, is split into objects.
        measures: what is measured beside Dice and IoU, and of instances `measures.INSTANCES`.

    Yields:
        One entry a case, with the one class `foreground`.

    Raises:
        DataError: a distance is measured, and nothing says how large a pixel of an image is.
        MissingExtraError: a measure needs an extra that is not installed.
    """

    def answer(labelled: LabelledImage) -> NDArray[np.integer]:
        return predictor.decode(predictor.encode(labelled.image)).mask.view(np.uint8)

    for case in _cases(images, answer):
        foreground = _Case(case.first, case.images, case.found, (case.truth > 0).view(np.uint8))
        scores = _scored(foreground, {1: FOREGROUND}, measures)
        parts = dict.fromkeys(INSTANCES, float("nan"))
        if case.first.instances:
            parts = score_instances(case.found > 0, case.truth, splitting, measures.empty)
        values = {**scores.values, **{name: {FOREGROUND: value} for name, value in parts.items()}}
        yield CaseScores(scores.case, scores.images, scores.areas, values, scores.patient)


def _cases(images: Iterable[LabelledImage], answer: Callable[[LabelledImage], NDArray[np.integer]]) -> Iterator[_Case]:
    for volume, members in groupby(images, key=lambda one: one.volume):
        if volume is None:
            yield from (_Case(one, 1, answer(one), one.label) for one in members)
            continue
        slices = list(members)
        found, truth = [answer(one) for one in slices], [one.label for one in slices]
        yield _Case(slices[0], len(slices), np.stack(found), np.stack(truth))


def _scored(case: _Case, names: Mapping[int, str], measures: Measures) -> CaseScores:
    size = measures.size(case.first, case.truth.ndim)
    scores = {name: measures.score(case.found == one, case.truth == one, size) for one, name in names.items()}
    return CaseScores(
        case=case.first.volume or case.first.name,
        images=case.images,
        areas={name: int(np.count_nonzero(case.truth == one)) for one, name in names.items()},
        values={
            measure: {name: row[measure] for name, row in scores.items()} for measure in next(iter(scores.values()))
        },
        patient=case.first.patient,
    )


def _check_classes(labelled: LabelledImage, classes: Mapping[str, str]) -> None:
    if labelled.instances:
        raise DataError(
            f"{labelled.name}: its labels number objects, and a semantic model names classes; if they are classes, say "
            'so in set.json: {"instances": false}'
        )
    highest = int(labelled.label.max())
    if highest >= len(classes):
        known = ", ".join(f"{number} {name}" for number, name in classes.items())
        raise DataError(f"{labelled.name}: label {highest} is no class of the model, which knows {known}")
