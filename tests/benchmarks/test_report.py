"""The README shows what benchmarks/results/ holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_readme_s_numbers_are_those_of_the_results() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "report.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run python benchmarks/report.py"


@pytest.mark.parametrize("benchmark", ["accuracy", "side_by_side", "footprint"])
def test_results_name_their_machine_and_commit(benchmark: str) -> None:
    files = list((ROOT / "benchmarks" / "results").glob(f"{benchmark}-*.json"))
    assert files
    for file in files:
        result = json.loads(file.read_text(encoding="utf-8"))
        assert result["benchmark"] == benchmark
        assert result["commit"] not in ("", "unknown")
        assert {"processor", "cores", "onnxruntime", "python"} <= set(result["environment"])
