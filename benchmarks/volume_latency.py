"""How long bundles for volumes take, and how much memory: a crop, a volume, a process.

    python benchmarks/volume_latency.py NAME=BUNDLE ... --data SET [--threads 2] [--repeats 5]

Each bundle and backend is a process of its own; all take turns on the volumes of SET's `val.txt`, so that a machine
that drifts slows all of them alike. The JSON goes to benchmarks/results/, the table of docs/volumes.md is made of it.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import samsdk
from results import write_result
from samsdk.backends import available_devices
from samsdk.bench import percentiles
from samsdk.bundle import Bundle
from samsdk.environment import peak_memory_mb
from samsdk_training.set_folder import SetFolder

VOLUMES = 8


def work() -> None:
    """The process of one bundle and backend: a line of JSON for each line that names a volume."""
    request = json.loads(sys.stdin.readline())
    predictor = samsdk.load(request["bundle"], device=request["device"], threads=request["threads"])
    predictor.warm_up()
    _say({"ready": predictor.provider})
    for line in sys.stdin:
        volume = samsdk.read_nifti(line.strip())
        plan = predictor.plan(volume)
        result = predictor.segment(volume)
        timings = {"ms": result.timings["total"], "crop_ms": result.timings["run"] / plan.windows}
        _say({**timings, "windows": plan.windows, "peak_memory_mb": peak_memory_mb()})


def _say(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


class Worker:
    """One bundle on one backend."""

    def __init__(self, bundle: Path, device: str, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, str(Path(__file__)), "--work"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.rows: list[dict[str, Any]] = []
        self.ask(json.dumps({"bundle": str(bundle), "device": device, "threads": threads}))

    def ask(self, line: str) -> dict[str, Any]:
        """Say a line and read the answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()


def main() -> None:
    """Measure and write the JSON."""
    if sys.argv[1:] == ["--work"]:
        work()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", metavar="NAME=BUNDLE")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    bundles = {name: Path(path) for name, _, path in (text.partition("=") for text in args.bundles)}
    folder = SetFolder(args.data)
    volumes = [folder.entry(name).image for name in folder.ids("val.txt")[:VOLUMES]]
    workers = {
        (name, device): Worker(path, device, args.threads)
        for name, path in bundles.items()
        for device in available_devices()
    }
    for turn in range(args.repeats + 1):
        for volume in volumes:
            for worker in workers.values():
                row = worker.ask(str(volume))
                if turn:
                    worker.rows.append(row)
    rows = []
    for (name, device), worker in workers.items():
        worker.end()
        bundle = Bundle.open(bundles[name])
        manifest = bundle.manifest
        rows.append(
            {
                "bundle": name,
                "identity": bundle.identity,
                "device": device,
                "crop": list(manifest.volume.crop) if manifest.volume else None,
                "gflops_a_crop": round(sum(manifest.flops.values()) / 1e9, 2),
                "megabytes": round(sum(entry["size"] for entry in manifest.files.values()) / 1e6, 1),
                "windows": round(float(np.mean([row["windows"] for row in worker.rows])), 1),
                "crop_ms": round(float(np.median([row["crop_ms"] for row in worker.rows])), 2),
                "volume_ms": percentiles([row["ms"] for row in worker.rows]),
                "peak_memory_mb": round(worker.rows[-1]["peak_memory_mb"], 1),
            }
        )
    numbers = {"set": folder.path.name, "volumes": len(volumes), "threads": args.threads, "repeats": args.repeats}
    print(write_result("volume_latency", {**numbers, "rows": rows}))


if __name__ == "__main__":
    main()
