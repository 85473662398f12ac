"""The table of a run: a row for each object of each file, as CSV and, with pyarrow (extra `batch`), as Parquet."""

import csv
import io
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from samsdk.batch.outcome import ObjectRow, Outcome
from samsdk.io.atomic import atomic_path, atomic_write

CSV: Final = "results.csv"
PARQUET: Final = "results.parquet"
_AXES: Final = "xyz"
# The columns in their order, before the measurements, and what their values are.
COLUMNS: Final[dict[str, type]] = {
    "file": str,
    "object": str,
    "state": str,
    "error": str,
    "message": str,
    "seconds": float,
    "score": float,
    "area_px": int,
    **dict.fromkeys(("box_x0", "box_y0", "box_x1", "box_y1"), int),
    "instances": int,
    "instances_cut": int,
    "voxels": int,
    "ml": float,
    **dict.fromkeys((f"spacing_{axis}_mm" for axis in _AXES), float),
    "mask": str,
    "bundle": str,
    "provider": str,
}
Value = str | int | float | None


def table_rows(outcomes: Iterable[Outcome]) -> list[dict[str, Value]]:
    """The rows of a table, by file, a file's objects in their order; measurements are left out where there are none."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.file)
    return [_row(outcome, row) for outcome in ordered for row in outcome.rows]


def write_table(folder: Path, rows: Sequence[dict[str, Value]]) -> list[str]:
    """Write a table, each file under a temporary name first.

    Args:
        folder: to write to.
        rows: see `table_rows`.

    Returns:
        The names of the files: the CSV's and, where pyarrow is installed, the Parquet file's.

    Raises:
        OutputError: they cannot be written.
    """
    measured = sorted({name for row in rows for name in row} - set(COLUMNS))
    names = [*COLUMNS, *measured]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(folder / CSV) as file:
        file.write(text.getvalue().encode())
    arrow = _pyarrow()
    if arrow is None:
        # What an earlier run wrote would be of fewer files than the CSV.
        (folder / PARQUET).unlink(missing_ok=True)
        return [CSV]
    _write_parquet(arrow, folder / PARQUET, {name: [row.get(name) for row in rows] for name in names})
    return [CSV, PARQUET]


def _row(outcome: Outcome, row: ObjectRow) -> dict[str, Value]:
    box: dict[str, Value] = dict(zip(("box_x0", "box_y0", "box_x1", "box_y1"), row.box or (), strict=False))
    spacing: dict[str, Value] = {
        f"spacing_{axis}_mm": length for axis, length in zip(_AXES, row.spacing or (), strict=False)
    }
    return {
        **dict.fromkeys(COLUMNS),
        "file": _text(outcome.file),
        "object": _text(row.name),
        "state": row.state,
        "error": row.error,
        "message": _text(row.message),
        "seconds": row.seconds,
        "score": row.score,
        "area_px": row.area,
        **box,
        "instances": row.instances,
        "instances_cut": row.instances_cut,
        "voxels": row.voxels,
        "ml": row.ml,
        **spacing,
        "mask": _text(row.mask),
        "bundle": outcome.bundle,
        "provider": outcome.provider,
        **row.measurements,
    }


def _text(value: str | None) -> str | None:
    """A text that UTF-8 can hold: names of files may have other bytes in them."""
    return None if value is None else value.encode("utf-8", "backslashreplace").decode()


def _write_parquet(arrow: types.ModuleType, path: Path, columns: dict[str, list[Value]]) -> None:
    import pyarrow.parquet

    # Said, not guessed: a column without any value would else have no type, and whole numbers turn into others.
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    schema = arrow.schema([(name, kinds[COLUMNS.get(name, float)]) for name in columns])
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(arrow.table(columns, schema=schema), temporary)


def _pyarrow() -> types.ModuleType | None:
    try:
        import pyarrow
    except ImportError:
        return None
    module: types.ModuleType = pyarrow
    return module
