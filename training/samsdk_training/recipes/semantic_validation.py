"""Validation of the semantic recipes: Dice of each class on images or whole volumes that were held back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from samsdk.splitting import Splitting
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.data import DataError, LabelledImage, read_set
from samsdk_training.evaluation import NO_PROMPT, PassPerClass, class_cases, foreground_cases
from samsdk_training.evaluation.cases import FOREGROUND, CaseScores
from samsdk_training.label_samples import check_classes
from samsdk_training.models.sam import Sam
from samsdk_training.split import VALIDATION_LIST
from samsdk_training.torch_predictor import TorchPredictor

Validate = Callable[[Sam], dict[str, float]]


def semantic_validation(
    sets: Sequence[Path],
    description: Checkpoint,
    classes: Mapping[str, str],
    cases: int,
    *,
    union: bool = False,
    points: int = 1,
) -> Validate:
    """Dice of a semantic model by class, averaged over cases first.

    Args:
        sets: folders with a `val.txt`.
        description: the checkpoint, but for its tensors.
        classes: name by number as text, `0` the background.
        cases: of each set, the first so many images or volumes; all of them are read and checked.
        union: whether all labels are class 1.
        points: in each class, of a model that is trained with points that name classes.

    Returns:
        A function from a model to `dice`, the mean over classes, and `dice_NAME` of each class, as its bundle answers:
        without points; and `dice_with_points`, the mean over classes with them, of a model that is trained with them.

    Raises:
        DataError: a set has no `val.txt`, an image or its mask is missing or malformed, a label is none of the classes,
            or nothing is labelled.
    """
    _check(sets, cases, len(classes) - 1, union)

    def validate(model: Sam) -> dict[str, float]:
        predictor = TorchPredictor.of(description, model)
        prompts = (NO_PROMPT, f"point{points}") if predictor.takes_class_points else (NO_PROMPT,)
        found = list(class_cases(predictor, _images(sets, cases, union), classes, prompts=prompts))
        alone = _class_means([one for one in found if one.prompt == NO_PROMPT])
        guided = [one for one in found if one.prompt != NO_PROMPT]
        return {**alone, "dice_with_points": _class_means(guided)["dice"]} if guided else alone

    return validate


def per_class_validation(
    sets: Sequence[Path],
    description: Checkpoint,
    classes: Mapping[str, str],
    cases: int,
    *,
    union: bool = False,
    points: int = 1,
) -> Validate:
    """Dice by class of the label map that a promptable model makes of points in each class, a pass for each.

    Arguments and errors as `semantic_validation`. What is returned gives `dice` and `dice_NAME` with points: without
    any the model answers nothing.
    """
    _check(sets, cases, len(classes) - 1, union)

    def validate(model: Sam) -> dict[str, float]:
        predictor = PassPerClass(TorchPredictor.of(description, model), classes)
        images = _images(sets, cases, union)
        return _class_means(list(class_cases(predictor, images, classes, prompts=(f"point{points}",))))

    return validate


def _class_means(found: Sequence[CaseScores]) -> dict[str, float]:
    rows = [case.values["dice"] for case in found]
    # A class that no case shows, and none was taken for, says nothing.
    means = {name: float(np.nanmean(values)) for name in rows[0] if _defined(values := [row[name] for row in rows])}
    return {"dice": float(np.mean(list(means.values()))), **{f"dice_{name}": one for name, one in means.items()}}


def foreground_validation(sets: Sequence[Path], description: Checkpoint, cases: int) -> Validate:
    """Dice of what a model that prompts itself finds, and of its objects where they are labelled.

    Arguments and errors as `semantic_validation`; what is returned gives `dice`, and `object_f1` and `aji` where the
    sets hold instances, means over cases. Objects are parted as the model will part them, or as `Splitting` does where
    it does not say.
    """
    _check(sets, cases, 1, union=True)
    splitting = (description.auto and description.auto.splitting) or Splitting()

    def validate(model: Sam) -> dict[str, float]:
        predictor = TorchPredictor.of(description, model)
        images = (one for folder in sets for one in read_set(folder, VALIDATION_LIST, slice(cases)))
        rows = [case.values for case in foreground_cases(predictor, images, splitting=splitting)]
        columns = {name: [row[name][FOREGROUND] for row in rows] for name in rows[0]}
        return {name: float(np.nanmean(values)) for name, values in columns.items() if _defined(values)}

    return validate


def _images(sets: Sequence[Path], cases: int, union: bool) -> Iterator[LabelledImage]:
    for folder in sets:
        for labelled in read_set(folder, VALIDATION_LIST, slice(cases)):
            yield labelled.united() if union else labelled


def _check(sets: Sequence[Path], cases: int, classes: int, union: bool) -> None:
    # All of them, so that what is wrong with the last one is told before training starts, not after its first hour.
    labelled = False
    for one in _images(sets, cases, union):
        check_classes(one, classes)
        labelled = labelled or bool(one.label.any())
    if not labelled:
        names = ", ".join(map(str, sets)) or "no set"
        raise DataError(f"nothing to validate on: no label in the first {cases} of {VALIDATION_LIST} in {names}")


def _defined(values: Sequence[float]) -> bool:
    return not np.isnan(values).all()
