"""Calibration sets: labelled images on which a lower precision has to prove that it costs no Dice.

Nothing here needs torch: the parity check measures with it in a process that has the runtime alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from samsdk.auto import AutoResult
from samsdk.errors import SamsdkError
from samsdk.manifest import AUTO
from samsdk.results import Result
from samsdk.semantic import SemanticResult
from samsdk_training.data import LISTS, LabelledImage, read_set
from samsdk_training.evaluation import BOX, Segmenter, evaluate_images, summarise

# One image tells nothing of a set, and a change of a tenth of a point can be seen only over several objects.
FEWEST_IMAGES = 2
PROMPTS = {"box": BOX, "points": "point1"}
# What a model that prompts itself tells apart: all that is labelled, whatever its number, from the rest.
_FOREGROUND = MappingProxyType({"0": "background", "1": "foreground"})
# Dice by set and kind of prompt, or class.
Reference = Mapping[str, Mapping[str, float]]


class CalibrationError(SamsdkError):
    """There is nothing to calibrate with, or too little."""


@dataclass(frozen=True)
class CalibrationSets:
    """Folders of labelled images (see `samsdk_training.data`), and how many of each count.

    Attributes:
        folders: one a set; their names must differ.
        images: the first of each list.
        objects: the first of each image.
    """

    folders: tuple[Path, ...]
    images: int = 8
    objects: int = 3

    def __post_init__(self) -> None:
        names = [folder.name for folder in self.folders]
        if not names:
            raise CalibrationError("a lower precision needs calibration sets: give folders of labelled images")
        if len(set(names)) < len(names):
            raise CalibrationError(f"calibration sets need different names, got {', '.join(names)}")
        if self.images < FEWEST_IMAGES:
            raise CalibrationError(f"a calibration set needs at least {FEWEST_IMAGES} images, got {self.images}")

    def read(self, folder: Path) -> list[LabelledImage]:
        """The images of one set, of the first list that names any.

        Raises:
            CalibrationError: the set holds fewer than two images.
            DataError: it is no set, or an image or mask is missing.
        """
        lists = (name for name in LISTS if (folder / name).is_file())
        name = next((name for name in lists if (folder / name).read_text(encoding="utf-8").strip()), LISTS[0])
        images = list(read_set(folder, name, slice(self.images)))
        if len(images) < FEWEST_IMAGES:
            raise CalibrationError(
                f"calibration set {folder} has {len(images)} image(s), at least {FEWEST_IMAGES} are needed"
            )
        return images

    def dice(
        self, predictor: Segmenter, kinds: Sequence[str], classes: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, dict[str, float]]:
        """Dice of a predictor, from the whole image, for each set.

        Args:
            predictor: what is measured.
            kinds: of prompts that it was trained with; none for a model that is asked without any.
            classes: those of such a model, `0` the background; the numbers in the sets' labels.

        Returns:
            For each set the mean over objects by kind of prompt (`box`, `points`: one), or by class the Dice over all
            pixels of the set, if any of them is labelled as it.

        Raises:
            CalibrationError: a set holds too little.
        """
        found = {}
        for folder in self.folders:
            if not kinds:
                found[folder.name] = self._class_dice(predictor, folder, classes)
                continue
            images = self.read(folder)
            scores = list(evaluate_images(predictor, images, prompts=tuple(PROMPTS.values()), max_objects=self.objects))
            if not scores:
                raise CalibrationError(f"calibration set {folder} has no object of 30 pixels or more")
            dice = summarise(scores)["dice"]
            found[folder.name] = {kind: float(dice[PROMPTS[kind]]) for kind in kinds if kind in PROMPTS}
        return found

    def _class_dice(self, predictor: Segmenter, folder: Path, classes: Mapping[str, str]) -> dict[str, float]:
        both, sums = np.zeros(len(classes)), np.zeros((2, len(classes)))
        for labelled in self.read(folder):
            both_labels = _label_maps(labelled, predictor.decode(predictor.encode(labelled.image)))
            for number in range(1, len(classes)):
                masks = [label == number for label in both_labels]
                both[number] += np.count_nonzero(masks[0] & masks[1])
                sums[:, number] += [np.count_nonzero(mask) for mask in masks]
        known = [number for number in range(1, len(classes)) if sums[0, number]]
        if not known:
            raise CalibrationError(f"no pixel of calibration set {folder} is labelled as one of the model's classes")
        return {classes[str(number)]: float(2 * both[number] / sums[:, number].sum()) for number in known}


def what_counts(task: str, kinds: Sequence[str], classes: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
    """What `CalibrationSets.dice` measures of a model: a model that prompts itself is measured without other prompts.

    Args:
        task: the model's.
        kinds: of prompts that it was trained with.
        classes: the model's.

    Returns:
        The arguments `kinds` and `classes`.
    """
    return ((), _FOREGROUND) if task == AUTO else (kinds, classes)


def _label_maps(labelled: LabelledImage, result: Result) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Numbers of classes [H, W]: those of the set and those that were found."""
    if isinstance(result, AutoResult):
        return labelled.label > 0, result.mask
    if not isinstance(result, SemanticResult):
        raise CalibrationError("expected a semantic model: the answer names no classes")
    return labelled.label, result.label_map


def dice_change(measured: Reference, reference: Reference) -> dict[str, dict[str, float]]:
    """Measured minus reference, by set and kind of prompt or class."""
    return {
        name: {kind: value - reference[name][kind] for kind, value in row.items()} for name, row in measured.items()
    }


def largest_change(change: Reference) -> float:
    """The largest absolute change over all sets and kinds; 0 where there are none."""
    return max((abs(value) for row in change.values() for value in row.values()), default=0.0)
