"""Means over objects or cases, their confidence intervals, and how far the predicted IoU can be believed."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk_training.evaluation.cases import CaseScores
from samsdk_training.evaluation.objects import BOX, ObjectScores, point_count
from samsdk_training.metrics.intervals import Cases, Interval, bootstrap_mean

# Stands beside the classes of models that know several: the mean over cases first, then over classes.
OVER_CLASSES: Final = "mean over classes"
Scores = Sequence[ObjectScores] | Sequence[CaseScores]
# What users take for good enough, in the count of clicks.
GOOD_ENOUGH: Final = 0.85


def summarise(scores: Sequence[ObjectScores]) -> dict[str, Any]:
    """Means over objects, and the calibration of the predicted IoU over all prompts.

    Args:
        scores: at least one.

    Returns:
        `objects`, `images`, `patients` (None where no object's is known); by prompt `dice`, `iou` and what else was
        measured; `clicks` (see `clicks_needed`) where each number of clicks from one on was asked for; and
        `calibration` (see `calibration`).

    Raises:
        ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("nothing to summarise: no object was large enough")
    prompts = list(scores[0].dice)
    counts = sorted(point_count(prompt) for prompt in prompts if prompt != BOX)
    gapless = len(counts) > 1 and counts == list(range(1, len(counts) + 1))
    predicted = np.array([score.predicted_iou[prompt] for score in scores for prompt in prompts])
    actual = np.array([score.iou[prompt] for score in scores for prompt in prompts])
    return {
        "images": len({score.image for score in scores}),
        "patients": _patients(scores),
        "objects": len(scores),
        **_means(scores),
        **({"clicks": clicks_needed(scores, counts[-1])} if gapless else {}),
        "calibration": calibration(predicted, actual),
    }


def clicks_needed(scores: Sequence[ObjectScores], most: int, dice: float = GOOD_ENOUGH) -> dict[str, Any]:
    """How many clicks a good mask takes.

    The number of clicks of Sofiiuk et al., Reviving iterative training with mask guidance (2021), by Dice instead of
    IoU: of an object that no click brings there, all clicks count.

    Args:
        scores: at least one, with `point1` to `pointN` for the N of `most`.
        most: clicks that an object is given.
        dice: what a good mask has at least.

    Returns:
        `dice` and `most`, as given; `mean` number of clicks; and the `share` of objects that got there.
    """
    reached = np.array([[score.dice[f"point{count}"] >= dice for count in range(1, most + 1)] for score in scores])
    got_there = reached.any(axis=1)
    needed = np.where(got_there, reached.argmax(axis=1) + 1, most)
    return {"dice": dice, "most": most, "mean": float(needed.mean()), "share": float(got_there.mean())}


def summarise_cases(scores: Sequence[CaseScores]) -> dict[str, Any]:
    """Means over cases.

    Args:
        scores: at least one.

    Returns:
        `images`, `patients` (None where no case's is known), `cases`; and by class each measure, None where no case
        defines it. Measures that no case of any class defines are left out.

    Raises:
        ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("nothing to summarise: there was no image")
    means = _means(scores)
    return {
        "images": sum(score.images for score in scores),
        "patients": _patients(scores),
        "cases": len(scores),
        **{measure: row for measure, row in means.items() if any(value is not None for value in row.values())},
    }


def intervals(sets: Sequence[Scores]) -> dict[str, dict[str, dict[str, Any]]]:
    """95 % intervals of means: of a set's mean, or of the mean of several sets' means.

    Patients are drawn, or volumes and images where the patients are not known (see `metrics.intervals`).

    Args:
        sets: the scores of one set, or of each of several, by the same measures; none is empty.

    Returns:
        By measure, and in it by prompt or class: `low` and `high`, None where they cannot be known; `count` of values,
        how many more were `undefined`, and how many `clusters` they come from.
    """
    tables = [(_tables(scores), [score.cluster for score in scores]) for scores in sets]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for measure in tables[0][0]:
        # Sets may name different classes.
        for column in dict.fromkeys(column for table, _ in tables for column in table[measure]):
            values = [(table[measure][column], clusters) for table, clusters in tables if column in table[measure]]
            # A set that defines no value has no mean to take part with.
            cases = [Cases(one, clusters) for one, clusters in values if not np.isnan(one).all()]
            if cases:
                found.setdefault(measure, {})[column] = _ends(bootstrap_mean(cases))
    return found


def calibration(predicted: NDArray[np.floating], actual: NDArray[np.floating], bins: int = 10) -> dict[str, Any]:
    """How far the predicted IoU can be believed.

    Args:
        predicted: [N] estimates; clipped to 0-1.
        actual: [N] true IoU.
        bins: of equal width over 0-1.

    Returns:
        `error`: the expected calibration error, the mean over bins of |mean predicted - mean actual| weighted by their
        counts (Naeini et al., 2015); `mean_absolute_error` over all N; `curve`: for each bin that is not empty, its
        `count` and the means `predicted` and `actual`.
    """
    believed = np.clip(np.asarray(predicted, dtype=np.float64), 0, 1)
    true = np.asarray(actual, dtype=np.float64)
    index = np.minimum((believed * bins).astype(int), bins - 1)
    curve = [
        {
            "count": int(np.count_nonzero(index == one)),
            "predicted": float(believed[index == one].mean()),
            "actual": float(true[index == one].mean()),
        }
        for one in np.unique(index)
    ]
    gaps = sum(row["count"] * abs(row["predicted"] - row["actual"]) for row in curve)
    return {
        "error": float(gaps / len(believed)),
        "mean_absolute_error": float(np.abs(believed - true).mean()),
        "curve": curve,
    }


def _tables(scores: Scores) -> dict[str, dict[str, NDArray[np.float64]]]:
    """By measure, and in it by prompt or class: the values [N, 1], and [N, K] those of all K classes together."""
    tables = {}
    for measure, row in scores[0].values.items():
        columns = {name: np.array([[score.values[measure][name]] for score in scores]) for name in row}
        if isinstance(scores[0], CaseScores) and len(columns) > 1:
            columns[OVER_CLASSES] = np.hstack(list(columns.values()))
        tables[measure] = columns
    return tables


def _means(scores: Scores) -> dict[str, dict[str, float | None]]:
    return {
        measure: {name: _mean(values) for name, values in columns.items()}
        for measure, columns in _tables(scores).items()
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    """Over cases, then over classes, of what is defined."""
    columns = [column[~np.isnan(column)] for column in values.T]
    of_classes = [column.mean() for column in columns if len(column)]
    return float(np.mean(of_classes)) if of_classes else None


def _ends(interval: Interval) -> dict[str, Any]:
    # JSON knows no NaN.
    ends = {name: None if np.isnan(end) else end for name, end in (("low", interval.low), ("high", interval.high))}
    return {**ends, "count": interval.count, "undefined": interval.undefined, "clusters": interval.clusters}


def _patients(scores: Scores) -> int | None:
    return len({score.patient for score in scores if score.patient is not None}) or None
