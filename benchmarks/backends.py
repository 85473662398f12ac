"""Every backend and tier of a bundle side by side, and what a second start gains from what the first one kept.

    python benchmarks/backends.py [BUNDLE ...] [--starts 5] [--repeats 15]

The numbers are those of `samsdk bench`: processes of their own that take turns. Cold starts are measured again and
again, by turns with an empty cache of compiled models and with one that a start has filled. The JSON goes to
benchmarks/results/.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from results import ROOT, write_result
from samsdk.hub import resolve_bundle

STATES = ("empty_cache", "filled_cache")


def bench(bundle: Path, repeats: int, cache: Path) -> dict[str, Any]:
    """What `samsdk bench` says, with a cache of its own."""
    command = [sys.executable, "-m", "samsdk", "bench", str(bundle), "--json", "--repeats", str(repeats)]
    environment = {**os.environ, "SAMSDK_CACHE_DIR": str(cache)}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def cold_starts(bundle: Path, count: int) -> dict[str, dict[str, float]]:
    """Median milliseconds from process start to first mask, by backend and tier and by the state of the cache."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        for _ in range(count):
            shutil.rmtree(cache, ignore_errors=True)
            for state in STATES:
                for name, row in named(bench(bundle, 1, cache)["systems"]).items():
                    found.setdefault(name, {one: [] for one in STATES})[state].append(row["cold_start_ms"])
    return {
        name: {state: round(statistics.median(values), 1) for state, values in states.items()}
        for name, states in found.items()
    }


def named(systems: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows of `samsdk bench` by what they are of."""
    return {f"{row['device']}, {row['tier']}": row for row in systems}


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", default=["student", "lite-medsam"], metavar="BUNDLE")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    models: dict[str, Any] = {}
    for name in args.bundles:
        bundle = resolve_bundle(name)
        with tempfile.TemporaryDirectory() as folder:
            measured = bench(bundle, args.repeats, Path(folder))
        rows = named(measured["systems"])
        for system, states in cold_starts(bundle, args.starts).items():
            rows[system] |= {f"cold_start_{state}_ms": value for state, value in states.items()}
        models[Path(name).name] = {"peak_gflops": measured["peak_gflops"], "rows": rows}
        print(json.dumps(models[Path(name).name], indent=1), file=sys.stderr)
    print(
        write_result("backends", {"repeats": args.repeats, "starts": args.starts, "models": models}).relative_to(ROOT)
    )


if __name__ == "__main__":
    main()
