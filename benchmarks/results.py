"""Where benchmark numbers are kept: one JSON a benchmark and device, with the environment and the commit."""

import json
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from samsdk.environment import describe_environment

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "results"


def write_result(benchmark: str, numbers: dict[str, Any]) -> Path:
    """Write one benchmark's numbers.

    Args:
        benchmark: its name, the first part of the file's name.
        numbers: as JSON can hold them.

    Returns:
        The file. A former result of the same benchmark on the same kind of device is replaced; git keeps it.
    """
    environment = describe_environment()
    device = f"{processor_name(environment)} {environment['cores']} cores"
    path = FOLDER / f"{benchmark}-{re.sub('[^a-z0-9]+', '-', device.lower())}.json"
    about = {"benchmark": benchmark, "date": datetime.now(UTC).date().isoformat(), "commit": _commit()}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(
        json.dumps({**about, "environment": environment, **numbers}, indent=1) + "\n", encoding="utf-8"
    )
    temporary.replace(path)
    return path


def read_results(benchmark: str) -> list[dict[str, Any]]:
    """All kept results of a benchmark, one per device."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob(f"{benchmark}-*.json"))]


def machine(result: Mapping[str, Any]) -> str:
    """The machine and the libraries that a result was measured on."""
    environment = result["environment"]
    return (
        f"{processor_name(environment)}, {environment['cores']} cores, {environment['system']}, Python "
        f"{environment['python']}, ONNX Runtime {environment['onnxruntime']}, {result['date']}"
    )


def processor_name(environment: Mapping[str, Any]) -> str:
    """Its name with its widest instructions, which results from before 2026-11-29 do not know."""
    instructions = environment.get("instructions")
    return f"{environment['processor']} ({instructions})" if instructions else str(environment["processor"])


def _commit() -> str:
    """The commit that is checked out, marked where code differs from it; results themselves are not code."""
    commit = _git("rev-parse", "--short=12", "HEAD") or "unknown"
    return (
        f"{commit}-dirty" if _git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!README.md") else commit
    )


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    ).stdout.strip()
