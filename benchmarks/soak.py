"""One system for an hour: does its memory grow, does its latency drift?

    python benchmarks/soak.py [--data FOLDER] [--threads 2] [--seconds 3600] [--bundle student] [--device cpu]

Image after image, one box each, in a process of its own as benchmarks/side_by_side.py has them. The JSON goes to
benchmarks/results/, the table of docs/benchmarks.md is made of it by benchmarks/report.py.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from machine import EnergyMeter, machine_state
from results import write_result
from runner import Runner, System
from side_by_side import OWN_WORKER, keep_on_disk
from workloads import stream_images

# Of the images that are shown again and again.
IMAGES = 200


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of labelled sets; else scikit-image's images")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--bundle", default="student")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    name = f"{args.bundle}, {args.device}, exact"
    request = {"model": args.bundle, "device": args.device, "tier": "exact"}
    runner = Runner(System(name, Path(sys.executable), OWN_WORKER, request), args.threads, EnergyMeter())
    before = machine_state()
    with tempfile.TemporaryDirectory() as folder:
        images = [
            keep_on_disk(Path(folder) / f"{number}.npy", image)
            for number, image in enumerate(stream_images(args.data, IMAGES))
        ]
        try:
            runner.start(images[0], 1)
            parts = runner.soak(images, args.seconds)
        finally:
            runner.kill()
    numbers = {
        "system": name,
        "threads": args.threads,
        "seconds": args.seconds,
        "images": "the labelled sets'" if args.data else "scikit-image's",
        "state": {"before": before, "after": machine_state()},
        "parts": parts,
    }
    print(write_result("soak", numbers))


if __name__ == "__main__":
    main()
