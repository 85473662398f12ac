"""Fitting what a model's scores are worth, from the rows that `samsdk evaluate --csv` writes, and judging the fit."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import MissingExtraError
from samsdk.measuring.calibration import KINDS, Calibration
from samsdk_training.evaluation.objects import point_count
from samsdk_training.evaluation.summary import calibration
from samsdk_training.set_folder import DataError

_COLUMNS: Final = ("set", "image", "prompt", "iou", "predicted_iou")
# Fewer answers than this in a step of the table would be chance.
_FEWEST: Final = 10
# In so many places from 0 to 1 the score is claimed to be right.
_CLAIMS: Final = 21
_DIGITS: Final = 4


@dataclass(frozen=True)
class Scored:
    """One answer: to what, the model's score, and the IoU that it really had.

    Attributes:
        set_name: of the set.
        image: the image's id in it.
        kind: of the prompt, one of `samsdk.measuring.calibration.KINDS`.
        score: what the model said.
        iou: of the mask and the reference.
    """

    set_name: str
    image: str
    kind: str
    score: float
    iou: float


def read_scored(path: str | os.PathLike[str]) -> list[Scored]:
    """Read the rows of an evaluation with prompts.

    Raises:
        DataError: the file has other columns, or a value that is none.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{os.fspath(path)} is no table of an evaluation with prompts: it lacks {missing}")
        rows = list(reader)
    try:
        return [
            Scored(row["set"], row["image"], prompt_kind(row["prompt"]), float(row["predicted_iou"]), float(row["iou"]))
            for row in rows
        ]
    except ValueError as error:
        raise DataError(f"{os.fspath(path)} holds a value that is none: {error}") from error


def prompt_kind(prompt: str) -> str:
    """The kind of an evaluation's prompt: `box` of itself, `points` of any number of them.

    Raises:
        ValueError: there is no such prompt.
    """
    box, points = KINDS
    return points if point_count(prompt) else box


def fit_calibration(rows: Sequence[Scored]) -> Calibration:
    """Fit a rising table of a few steps by isotonic regression.

    Each set has the same weight, and so has the claim that the score is right as it is: it decides where there are few
    answers or none, and stands for the sets that are not there. Steps of few answers are joined.

    Args:
        rows: answers to one kind of prompt, at least one.

    Raises:
        DataError: there are no rows.
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.optimize import isotonic_regression
    except ImportError as error:
        raise MissingExtraError("fitting a calibration needs scipy: pip install 'samsdk[train]'") from error
    if not rows:
        raise DataError("nothing to fit a calibration to: there are no rows of this kind of prompt")
    counts = Counter(row.set_name for row in rows)
    claims = np.linspace(0, 1, _CLAIMS)
    scores = np.concatenate([[row.score for row in rows], claims])
    iou = np.concatenate([[row.iou for row in rows], claims])
    weights = np.concatenate([[1 / counts[row.set_name] for row in rows], np.full(_CLAIMS, 1 / _CLAIMS)])
    order = np.argsort(scores, kind="stable")
    scores, weights = scores[order], weights[order]
    fitted = isotonic_regression(iou[order], weights=weights).x
    table: dict[float, float] = {}
    for step in _joined(np.flatnonzero(np.diff(fitted) > 0) + 1, len(fitted)):
        score = round(float(np.average(scores[step], weights=weights[step])), _DIGITS)
        # Means of rising values rise; of scores that are equal when rounded, the last has the highest.
        table[score] = round(float(np.average(fitted[step], weights=weights[step])), _DIGITS)
    images = len({(row.set_name, row.image) for row in rows})
    return Calibration(tuple(table), tuple(table.values()), images)


@dataclass(frozen=True)
class HeldOut:
    """Expected calibration errors of sets to which the table was not fitted.

    Attributes:
        before: of the scores as they are, by set.
        after: of what the table makes of them, by set; it was fitted to the other sets.
    """

    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def means(self) -> tuple[float, float]:
        """The means over sets of `before` and `after`."""
        before, after = (float(np.mean(list(errors.values()))) for errors in (self.before, self.after))
        return before, after

    @property
    def improved(self) -> bool:
        """Whether a table is nearer to the truth than the scores as they are."""
        before, after = self.means
        return after < before

    def to_dict(self) -> dict[str, Any]:
        """`before` and `after` as JSON can hold them, each with the `mean` over sets and `sets`, by name."""
        before, after = self.means
        return {
            "before": {"mean": before, "sets": dict(self.before)},
            "after": {"mean": after, "sets": dict(self.after)},
        }


def held_out_errors(rows: Sequence[Scored]) -> HeldOut:
    """Leave out one set after the other, fit to the rest, and compare with what the answers of that set were worth.

    Args:
        rows: answers to one kind of prompt, of two sets or more.

    Raises:
        DataError: there are fewer sets.
    """
    sets = sorted({row.set_name for row in rows})
    if len(sets) < 2:
        raise DataError(
            f"a calibration is judged by sets that it was not fitted to: expected rows of two sets or more, got "
            f"{', '.join(sets) or 'none'}"
        )
    before, after = {}, {}
    for name in sets:
        fitted = fit_calibration([row for row in rows if row.set_name != name])
        held_out = [row for row in rows if row.set_name == name]
        iou, scores = np.array([row.iou for row in held_out]), np.array([row.score for row in held_out])
        before[name] = float(calibration(scores, iou)["error"])
        after[name] = float(calibration(np.array([fitted.expected_iou(one) for one in scores]), iou)["error"])
    return HeldOut(before, after)


def rows_by_kind(rows: Iterable[Scored]) -> dict[str, list[Scored]]:
    """The rows of each kind of prompt, in the order of `samsdk.measuring.calibration.KINDS`."""
    by_kind: dict[str, list[Scored]] = {kind: [] for kind in KINDS}
    for row in rows:
        by_kind[row.kind].append(row)
    return {kind: found for kind, found in by_kind.items() if found}


def _joined(starts: NDArray[np.intp], count: int) -> list[slice]:
    """The steps that begin at 0 and at `starts`, joined with the next until each has enough members."""
    borders = [0]
    for start in starts.tolist():
        if start - borders[-1] >= _FEWEST and count - start >= _FEWEST:
            borders.append(start)
    return [slice(first, end) for first, end in zip(borders, [*borders[1:], count], strict=True)]
