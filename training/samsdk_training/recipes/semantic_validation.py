"""Validation of the semantic recipes: Dice of each class on images or whole volumes that were held back."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from samsdk.prompts import Prompt
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.data import DataError, LabelledImage, read_ids, read_set
from samsdk_training.evaluation import class_cases, foreground_cases
from samsdk_training.evaluation.cases import FOREGROUND
from samsdk_training.metrics.overlap import dice
from samsdk_training.models.sam import Sam
from samsdk_training.simulate import centre_point
from samsdk_training.split import VALIDATION_LIST
from samsdk_training.torch_predictor import TorchPredictor

Validate = Callable[[Sam], dict[str, float]]


def semantic_validation(sets: Sequence[Path], description: Checkpoint, cases: int, *, union: bool = False) -> Validate:
    """Dice of a semantic model by class, averaged over cases first.

    Args:
        sets: folders with a `val.txt`.
        description: the checkpoint, but for its tensors.
        cases: of each set, the first so many images or volumes.
        union: whether all labels are class 1.

    Returns:
        A function from a model to `dice`, the mean over classes, and `dice_NAME` of each class.

    Raises:
        DataError: a set has no `val.txt`, or nothing in it is labelled.
    """
    _expect_labels(sets, cases)

    def validate(model: Sam) -> dict[str, float]:
        predictor = TorchPredictor.of(description, model)
        found = class_cases(predictor, _images(sets, cases, union), description.classes)
        rows = [case.values["dice"] for case in found]
        names = list(description.classes.values())[1:]
        # A class that no case shows, and none was taken for, says nothing.
        means = {name: float(np.nanmean(values)) for name in names if _defined(values := [row[name] for row in rows])}
        return {"dice": float(np.mean(list(means.values()))), **{f"dice_{name}": one for name, one in means.items()}}

    return validate


def per_class_validation(sets: Sequence[Path], description: Checkpoint, cases: int, *, union: bool = False) -> Validate:
    """Dice of a promptable model for each class of each image after one point in the middle of its largest part.

    Arguments and errors as `semantic_validation`; what is returned gives `dice`, the mean over all.
    """
    _expect_labels(sets, cases)

    def validate(model: Sam) -> dict[str, float]:
        predictor, values = TorchPredictor.of(description, model), []
        for labelled in _images(sets, cases, union):
            truths = labelled.objects(split_components=False)
            embedding = predictor.encode(labelled.image) if truths else None
            for truth in truths:
                assert embedding is not None
                prompt = Prompt([centre_point(truth)])
                values.append(dice(predictor.decode(embedding, points=prompt.points).mask, truth))
        return {"dice": float(np.mean(values))}

    return validate


def foreground_validation(sets: Sequence[Path], description: Checkpoint, cases: int) -> Validate:
    """Dice of what a model that prompts itself finds, and of its objects where they are labelled.

    Arguments and errors as `semantic_validation`; what is returned gives `dice`, and `object_f1` and `aji` where the
    sets hold instances, means over cases.
    """
    _expect_labels(sets, cases)

    def validate(model: Sam) -> dict[str, float]:
        predictor = TorchPredictor.of(description, model)
        images = (one for folder in sets for one in read_set(folder, VALIDATION_LIST, slice(cases)))
        rows = [case.values for case in foreground_cases(predictor, images)]
        columns = {name: [row[name][FOREGROUND] for row in rows] for name in rows[0]}
        return {name: float(np.nanmean(values)) for name, values in columns.items() if _defined(values)}

    return validate


def _images(sets: Sequence[Path], cases: int, union: bool) -> Iterator[LabelledImage]:
    for folder in sets:
        for labelled in read_set(folder, VALIDATION_LIST, slice(cases)):
            yield labelled.united() if union else labelled


def _expect_labels(sets: Sequence[Path], cases: int) -> None:
    # Looked for before training starts, not after its first hour.
    for folder in sets:
        read_ids(folder, VALIDATION_LIST)
    if not any(one.label.any() for one in _images(sets, cases, union=False)):
        names = ", ".join(map(str, sets)) or "no set"
        raise DataError(f"nothing to validate on: no label in the first {cases} of {VALIDATION_LIST} in {names}")


def _defined(values: Sequence[float]) -> bool:
    return not np.isnan(values).all()
