"""The tables of docs/volumes.md, of numbers by hand and of those that are committed."""

from typing import Any

import pytest

from results import read_results
from volume_tables import propagation_table, summarise, volume_memory_table

ABOUT = {
    "date": "2026-11-29",
    "environment": {"processor": "P", "cores": 2, "system": "S", "python": "3.11", "onnxruntime": "1"},
}


def followed(volume: str, dice: float, *, tuned_on: bool, thing: str = "liver") -> dict[str, Any]:
    return {
        **{"set": "ct", "volume": volume, "object": thing, "tuned_on": tuned_on},
        **{"dice": dice, "ceiling": 0.8, "share": dice / 0.8, "seconds": 2.0},
    }


def test_what_the_rules_were_tuned_on_stands_apart() -> None:
    objects = [
        followed("a", 0.8, tuned_on=True),
        followed("b", 0.4, tuned_on=False),
        followed("c", 0.6, tuned_on=False),
        followed("a", 0.2, tuned_on=True, thing="spleen"),
    ]
    assert [(row["object"], row["tuned_on"], row["volumes"]) for row in summarise(objects)] == [
        ("liver", True, 1),
        ("liver", False, 2),
        ("spleen", True, 1),
    ]
    lines = propagation_table({**ABOUT, "models": {"student": {"objects": objects}}}).splitlines()
    assert lines[2] == "| student | ct liver | yes | 1 | 0.800 | 0.800 | 100% | 2.0 |"
    assert lines[3] == "| student | ct liver | no | 2 | 0.500 | 0.800 | 62% | 2.0 |"
    assert len({line.count("|") for line in lines[:5]}) == 1


def test_a_process_that_takes_too_much_is_marked() -> None:
    row = {
        **{"way": "windows", "bundle": "swin", "provider": "CPU", "crop": [64, 32, 16], "classes": 15, "slices": None},
        **{"planned_mb": 2100.4, "peak_memory_mb": 1999.6, "limit_mb": 3221.2},
    }
    other = {**row, "way": "followed", "bundle": "student", "crop": None, "classes": 1, "slices": 300}
    rows = [row, {**other, "peak_memory_mb": 1700.0, "limit_mb": 1610.6}]
    lines = volume_memory_table({**ABOUT, "shape": [300, 512, 512], "rows": rows}).splitlines()
    assert lines[2] == "| window by window | swin | CPU | 64 x 32 x 16 | 15 | 2100 | 2000 | 3221 |"
    assert lines[3] == "| followed, 300 slices | student | CPU |  | 1 | 2100 | 1700 (passed) | 1611 |"
    assert "512 x 512 x 300 voxels" in lines[-1]


@pytest.mark.parametrize("result", read_results("volume_memory"), ids=lambda result: result["commit"])
def test_what_was_measured_stays_below_limit_and_statement(result: dict[str, Any]) -> None:
    assert result["shape"] == [300, 512, 512]
    assert {"windows", "followed"} == {row["way"] for row in result["rows"]}
    for row in result["rows"]:
        assert row["peak_memory_mb"] <= row["limit_mb"], row
        assert row["peak_memory_mb"] <= row["planned_mb"], row
        assert "@" in row["identity"]
