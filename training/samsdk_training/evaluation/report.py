"""What an evaluation found, as JSON, as a table and as one row an object or class."""

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from samsdk.io.atomic import atomic_write
from samsdk_training.evaluation.cases import CaseScores
from samsdk_training.evaluation.measures import DICE, HD95, INSTANCES, IOU, NSD
from samsdk_training.evaluation.objects import NO_PROMPT, ObjectScores
from samsdk_training.evaluation.summary import Scores, intervals, summarise, summarise_cases

_MEASURES: Final = (DICE, IOU, NSD, HD95, *INSTANCES)
_TITLES: Final = dict(zip(_MEASURES, ("Dice", "IoU", "NSD", "HD95, mm", "AJI", "AJI+", "object F1", "PQ"), strict=True))
_MEAN_ROW: Final = "mean over sets"


def report_sets(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Means and intervals of each set and over the sets.

    Args:
        scores: of each set by its name; none is empty.

    Returns:
        `sets`, by name: what `summarise` or `summarise_cases` says, and `intervals`;
        `mean_dice`, `mean_iou` and so on for each measure: by prompt or class the mean over the sets that define it;
        `mean_clicks`, over the sets, where they were counted; `intervals`: of the means of measures, see
        `summary.intervals`. Of models that were asked with several prompts for whole images all this is of the first,
        and `further` has the same of each other prompt by its name; `prompt` names the first where it is not `none`.
    """
    asked = list(dict.fromkeys(row.prompt for rows in scores.values() for row in rows if isinstance(row, CaseScores)))
    if not asked:
        return _report(scores)
    parts = {prompt: _report({name: _asked_with(prompt, rows) for name, rows in scores.items()}) for prompt in asked}
    first, *others = asked
    prompt = {} if first == NO_PROMPT else {"prompt": first}
    further = {"further": {other: parts[other] for other in others}} if others else {}
    return {**prompt, **parts[first], **further}


def _asked_with(prompt: str, rows: Scores) -> list[CaseScores]:
    return [row for row in rows if isinstance(row, CaseScores) and row.prompt == prompt]


def _report(scores: Mapping[str, Scores]) -> dict[str, Any]:
    sets = {}
    for name, rows in scores.items():
        # A list of no scores has no kind, which is why none may be empty.
        summary = (
            summarise_cases([row for row in rows if isinstance(row, CaseScores)])
            if isinstance(rows[0], CaseScores)
            else summarise([row for row in rows if isinstance(row, ObjectScores)])
        )
        sets[name] = {**summary, "intervals": intervals([rows])}
    means = {}
    for measure in _MEASURES:
        rows_of = [row[measure] for row in sets.values() if measure in row]
        columns = list(dict.fromkeys(column for row in rows_of for column in row))
        if columns:
            means[f"mean_{measure}"] = {column: _mean_over_sets(rows_of, column) for column in columns}
    counted = [row["clicks"]["mean"] for row in sets.values() if "clicks" in row]
    clicks = {"mean_clicks": float(np.mean(counted))} if counted else {}
    return {"sets": sets, **means, **clicks, "intervals": intervals(list(scores.values()))}


def _mean_over_sets(rows: Sequence[Mapping[str, float | None]], column: str) -> float | None:
    values = [value for row in rows if (value := row.get(column)) is not None]
    return float(np.mean(values)) if values else None


def table(report: Mapping[str, Any]) -> str:
    """The report's means with their intervals for people: a block of lines for each measure but IoU.

    Args:
        report: what `report_sets` returned.
    """
    parts = {report.get("prompt", NO_PROMPT): report, **report.get("further", {})}
    shown = [measure for measure in _MEASURES if f"mean_{measure}" in report and measure != IOU]
    blocks = [
        _block(part, measure, _TITLES[measure] if prompt == NO_PROMPT else f"{_TITLES[measure]}, {prompt}")
        for measure in shown
        for prompt, part in parts.items()
    ]
    return "\n\n".join([*blocks, _clicks(report)] if "mean_clicks" in report else blocks)


def _clicks(report: Mapping[str, Any]) -> str:
    rows = {name: row["clicks"] for name, row in report["sets"].items()}
    one = next(iter(rows.values()))
    lines = [f"clicks until Dice {one['dice']:.2f}, {one['most']} at most (share that got there)"]
    lines += [f"{name}  {row['mean']:.2f} ({row['share']:.0%})" for name, row in rows.items()]
    return "\n".join([*lines, f"{_MEAN_ROW}  {report['mean_clicks']:.2f}"])


def _block(report: Mapping[str, Any], measure: str, title: str) -> str:
    mean = report[f"mean_{measure}"]
    counted = ("images", "cases" if "cases" in next(iter(report["sets"].values())) else "objects")
    lines = [[title, *counted, *mean]]
    for name, row in report["sets"].items():
        ends = row["intervals"].get(measure, {})
        counts = [str(row[count]) for count in counted]
        lines.append([name, *counts, *(_cell(row.get(measure, {}), ends, column) for column in mean)])
    ends = report["intervals"].get(measure, {})
    lines.append([_MEAN_ROW, "", "", *(_cell(mean, ends, column) for column in mean)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [str.ljust, str.rjust, str.rjust, *(str.ljust for _ in mean)]
    return "\n".join(
        "  ".join(align(cell, width) for align, cell, width in zip(aligned, line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(values: Mapping[str, float | None], ends: Mapping[str, Any], column: str) -> str:
    value, end = values.get(column), ends.get(column)
    if value is None:
        return "-"
    if end is None or end["low"] is None:
        return f"{value:.3f}"
    return f"{value:.3f} [{end['low']:.2f}, {end['high']:.2f}]"


def write_rows(path: str | os.PathLike[str], scores: Mapping[str, Scores]) -> None:
    """Write one row an object and prompt, or a case and class, as CSV; an undefined value is an empty cell.

    The columns: `set`, `image` (or volume), `patient`, `object` (its number, or the class), `area` in pixels, `prompt`,
    then `dice`, `iou`, `predicted_iou` of models that take prompts, and what else was measured.

    Args:
        path: of the file; it is replaced as a whole.
        scores: of each set by its name; none is empty.

    Raises:
        OutputError: the file cannot be written.
    """
    rows = [row for name, some in scores.items() for score in some for row in _rows(name, score)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(Path(path)) as file:
        file.write(text.getvalue().encode("utf-8"))


def _rows(name: str, score: ObjectScores | CaseScores) -> Iterator[dict[str, object]]:
    measured = score.values
    for column in measured[DICE]:
        values = {measure: _number(row[column]) for measure, row in measured.items()}
        if isinstance(score, CaseScores):
            yield {
                "set": name,
                "image": score.case,
                "patient": score.patient,
                "object": column,
                "area": score.areas[column],
                "prompt": score.prompt,
                **values,
            }
            continue
        yield {
            "set": name,
            "image": score.image,
            "patient": score.patient,
            "object": score.number,
            "area": score.area,
            "prompt": column,
            DICE: values.pop(DICE),
            IOU: values.pop(IOU),
            "predicted_iou": float(score.predicted_iou[column]),
            **values,
        }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
