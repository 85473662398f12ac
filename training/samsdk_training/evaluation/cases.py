"""Models that answer without a prompt: how good their answers are, case by case, and what points add to them.

A case is an image, or a whole volume: models for images are asked for its slices one after the other, which are
stacked; models for volumes get it as it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from samsdk.embedding import Embedding
from samsdk.errors import SamsdkError
from samsdk.semantic import SemanticResult
from samsdk.splitting import Splitting
from samsdk.volumes.result import VolumeResult
from samsdk.volumes.volume import Volume
from samsdk_training.data import LabelledImage
from samsdk_training.evaluation.guidance import ClassSegmenter, draw_class_points, guided_masks
from samsdk_training.evaluation.measures import INSTANCES, Measures, score_instances
from samsdk_training.evaluation.objects import NO_PROMPT, Segmenter, point_count
from samsdk_training.labelled_volumes import read_labelled
from samsdk_training.set_folder import DataError, SetFolder

# The one class of a model that finds its foreground by itself.
FOREGROUND: Final = "foreground"
Found = Mapping[str, NDArray[np.integer]]


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
        prompt: what the model was asked with: `none`, or `pointN` for N points.
    """

    case: str
    images: int
    areas: Mapping[str, int]
    values: Mapping[str, Mapping[str, float]]
    patient: str | None = None
    prompt: str = NO_PROMPT

    @property
    def cluster(self) -> tuple[str, str]:
        """What the case belongs to: the patient where one is known, else the case is for itself."""
        return ("case", self.case) if self.patient is None else ("patient", self.patient)


@dataclass(frozen=True, eq=False)
class _Case:
    """`first` of its images, how many there are, and [H, W] or [D, H, W] numbers: those found by prompt, and true."""

    first: LabelledImage
    images: int
    found: Found
    truth: NDArray[np.integer]


def class_cases(
    predictor: Segmenter | ClassSegmenter,
    images: Iterable[LabelledImage],
    classes: Mapping[str, str],
    *,
    prompts: Sequence[str] = (NO_PROMPT,),
    measures: Measures = Measures(),  # noqa: B008 (frozen)
) -> Iterator[CaseScores]:
    """Score each class of each case of a model that names pixels.

    Args:
        predictor: what is evaluated; a `ClassSegmenter` where there are points.
        images: with the classes of their pixels, the slices of a volume one after the other.
        classes: the model's, name by number as text, `0` the background.
        prompts: what it is asked with: `none`, and `pointN` for N points in each class that an image shows.
        measures: what is measured beside Dice and IoU.

    Yields:
        One entry a case and prompt, its classes by their names.

    Raises:
        DataError: the labels are not the model's classes, a distance is measured without a known size of pixels, or
            the rules are those of volumes and an image is no slice of one.
    """

    def name_pixels(embedding: Embedding, labelled: LabelledImage, prompt: str) -> NDArray[np.integer]:
        if prompt == NO_PROMPT:
            result = cast(Segmenter, predictor).decode(embedding)
        else:
            points = draw_class_points(labelled, len(classes) - 1, point_count(prompt))
            result = cast(ClassSegmenter, predictor).decode_classes(embedding, points)
        if not isinstance(result, SemanticResult):
            raise SamsdkError("expected a semantic model: the answer names no classes")
        return result.label_map

    def answer(labelled: LabelledImage) -> Found:
        _check_classes(labelled, classes)
        embedding = predictor.encode(labelled.image)
        return {prompt: name_pixels(embedding, labelled, prompt) for prompt in prompts}

    names = {int(number): name for number, name in classes.items() if number != "0"}
    for case in _cases(images, answer):
        if measures.transunet and case.first.volume is None:
            raise DataError(f"{case.first.name} is no slice of a volume; the transunet protocol is of whole volumes")
        yield from _scored(case, names, measures)


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
        found = {NO_PROMPT: predictor.segment(volume).label_map}
        yield from _scored(_Case(plane, len(truth), found, truth), names, measures)


def foreground_cases(
    predictor: Segmenter,
    images: Iterable[LabelledImage],
    *,
    prompts: Sequence[str] = (NO_PROMPT,),
    splitting: Splitting = Splitting(),  # noqa: B008 (frozen)
    measures: Measures = Measures(),  # noqa: B008 (frozen)
) -> Iterator[CaseScores]:
    """Score the foreground of each case of a model that finds it by itself, and its instances where they are labelled.

    Args:
        predictor: what is evaluated; its answer without any prompt has a mask.
        images: with their labels: what is not 0 is foreground.
        prompts: what it is asked with: `none`, and `pointN` for N points of an expert, see `guided_masks`.
        splitting: how the foreground, of a volume as a whole, is split into objects.
        measures: what is measured beside Dice and IoU, and of instances `measures.INSTANCES`.

    Yields:
        One entry a case and prompt, with the one class `foreground`.

    Raises:
        DataError: a distance is measured, and nothing says how large a pixel of an image is.
        MissingExtraError: a measure needs an extra that is not installed.
    """

    def answer(labelled: LabelledImage) -> Found:
        masks = guided_masks(predictor, predictor.encode(labelled.image), labelled.label > 0, prompts)
        return {prompt: mask.view(np.uint8) for prompt, mask in masks.items()}

    for case in _cases(images, answer):
        foreground = replace(case, truth=(case.truth > 0).view(np.uint8))
        for scores in _scored(foreground, {1: FOREGROUND}, measures):
            parts = dict.fromkeys(INSTANCES, float("nan"))
            if case.first.instances:
                parts = score_instances(case.found[scores.prompt] > 0, case.truth, splitting, measures.empty)
            values = {**scores.values, **{name: {FOREGROUND: value} for name, value in parts.items()}}
            yield replace(scores, values=values)


def _cases(images: Iterable[LabelledImage], answer: Callable[[LabelledImage], Found]) -> Iterator[_Case]:
    for volume, members in groupby(images, key=lambda one: one.volume):
        if volume is None:
            yield from (_Case(one, 1, answer(one), one.label) for one in members)
            continue
        slices = list(members)
        answers, truth = [answer(one) for one in slices], [one.label for one in slices]
        found = {prompt: np.stack([one[prompt] for one in answers]) for prompt in answers[0]}
        yield _Case(slices[0], len(slices), found, np.stack(truth))


def _scored(case: _Case, names: Mapping[int, str], measures: Measures) -> Iterator[CaseScores]:
    size = measures.size(case.first, case.truth.ndim)
    for prompt, found in case.found.items():
        scores = {name: measures.score(found == one, case.truth == one, size) for one, name in names.items()}
        yield CaseScores(
            case=case.first.volume or case.first.name,
            images=case.images,
            areas={name: int(np.count_nonzero(case.truth == one)) for one, name in names.items()},
            values={
                measure: {name: row[measure] for name, row in scores.items()} for measure in next(iter(scores.values()))
            },
            patient=case.first.patient,
            prompt=prompt,
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
