"""From a model's own score of a mask to the IoU that masks with such a score really had."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

KINDS: Final = ("box", "points")
"""Prompts that are calibrated apart. With a box, it decides; points alone are less certain at the same score."""


@dataclass(frozen=True)
class Calibration:
    """A rising table that scores are looked up in.

    Attributes:
        scores: of the model, ascending, at least one.
        iou: the IoU that is expected at each of them, 0 to 1, never falling.
        images: how many images it was fitted to.

    Raises:
        ValueError: with all that is wrong.
    """

    scores: tuple[float, ...]
    iou: tuple[float, ...]
    images: int

    def __post_init__(self) -> None:
        rules = [
            (0 < len(self.scores) == len(self.iou), "scores and iou must be of one length, at least 1"),
            (bool(np.isfinite([*self.scores, *self.iou]).all()), "scores and iou must be finite"),
            (all(one < other for one, other in pairwise(self.scores)), "scores must ascend"),
            (all(one <= other for one, other in pairwise(self.iou)), "iou must not fall"),
            (all(0 <= one <= 1 for one in self.iou), "iou must be within 0 to 1"),
            (self.images > 0, "images must be above 0"),
        ]
        problems = [text for holds, text in rules if not holds]
        if problems:
            raise ValueError("the calibration is not valid: " + "; ".join(problems))

    def expected_iou(self, score: ArrayLike) -> float:
        """The IoU to be expected of a mask with this score: between two of the table linear, beyond its ends level."""
        return float(np.interp(float(np.asarray(score)), self.scores, self.iou))

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON can hold it."""
        return {"scores": list(self.scores), "iou": list(self.iou), "images": self.images}

    @classmethod
    def from_dict(cls, values: object) -> "Calibration":
        """The table from what `to_dict` returned, possibly after a way through JSON.

        Raises:
            ValueError: a field is missing or unknown, or a value is not valid.
        """
        fields = {"scores", "iou", "images"}
        if not isinstance(values, Mapping) or set(values) != fields:
            raise ValueError(f"a calibration must be an object of {', '.join(sorted(fields))}, got {values!r}")
        columns = [values["scores"], values["iou"]]
        numbers = all(isinstance(column, list) and all(map(_is_number, column)) for column in columns)
        if not numbers or type(values["images"]) is not int:
            raise ValueError(f"a calibration holds two lists of numbers and a count of images, got {values!r}")
        return cls(tuple(map(float, columns[0])), tuple(map(float, columns[1])), values["images"])


def calibration_for(tables: Mapping[str, Calibration], kinds: Collection[str]) -> Calibration | None:
    """The table for a prompt; None where its kind has none. A mask alone is of no kind that is calibrated.

    Args:
        tables: by kind, out of `KINDS`.
        kinds: all kinds that the prompt is of, see `samsdk.Prompt.kinds`.
    """
    return next((tables.get(kind) for kind in KINDS if kind in kinds), None)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
