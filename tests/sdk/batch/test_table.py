import builtins
import csv
from pathlib import Path
from typing import Any

import pytest

from samsdk.batch.outcome import ObjectRow, Outcome
from samsdk.batch.table import COLUMNS, CSV, PARQUET, table_rows, write_table

OUTCOMES = [
    Outcome("b.png", (ObjectRow("", "failed", "ImageError", 'no "image", got\nnothing', 0.25),), bundle="m@1"),
    Outcome(
        "a/\udcff.png",
        (
            ObjectRow(
                "left", "done", seconds=1.5, score=0.75, area=12, box=(1, 2, 3, 4), measurements={"area_mm2": 6.0}
            ),
            ObjectRow("right", "done", area=0, spacing=(0.5, 0.25)),
        ),
        bundle="m@1",
        provider="CPU",
    ),
    Outcome("ct.nii", (ObjectRow("liver", voxels=9, ml=0.5, spacing=(1.0, 2.0, 3.0)),)),
]


def test_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert write_table(tmp_path, table_rows(OUTCOMES)) == [CSV, PARQUET]
    with (tmp_path / CSV).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(tmp_path / PARQUET)
    assert list(rows[0]) == table.column_names == [*COLUMNS, "area_mm2"]
    assert [
        {name: "" if cell is None else str(cell) for name, cell in row.items()} for row in table.to_pylist()
    ] == rows
    assert {name: str(table.schema.field(name).type) for name in ("file", "area_px", "box_x0", "ml", "area_mm2")} == {
        "file": "string",
        "area_px": "int64",
        "box_x0": "int64",
        "ml": "double",
        "area_mm2": "double",
    }


def test_rows_by_file_and_objects_in_their_order(tmp_path: Path) -> None:
    rows = table_rows(OUTCOMES)
    assert [(row["file"], row["object"], row["state"]) for row in rows] == [
        ("a/\\udcff.png", "left", "done"),
        ("a/\\udcff.png", "right", "done"),
        ("b.png", "", "failed"),
        ("ct.nii", "liver", "done"),
    ]
    assert [rows[0][f"box_{side}"] for side in ("x0", "y0", "x1", "y1")] == [1, 2, 3, 4]
    assert [rows[3][f"spacing_{axis}_mm"] for axis in "xyz"] == [1.0, 2.0, 3.0]
    assert (rows[1]["spacing_y_mm"], rows[1]["spacing_z_mm"], rows[1]["box_x0"]) == (0.25, None, None)


def test_without_pyarrow_there_is_the_csv_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def blocked(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    (tmp_path / PARQUET).write_bytes(b"of an earlier run")
    monkeypatch.setattr(builtins, "__import__", blocked)
    assert write_table(tmp_path, table_rows(OUTCOMES)) == [CSV]
    assert [file.name for file in tmp_path.iterdir()] == [CSV]
