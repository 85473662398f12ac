"""What a training run is worth: its bundle beside what it is compared with, through `samsdk evaluate`.

python benchmarks/trained.py NAME --run RUN --data DIR --system "LABEL: MODEL [OPTIONS of samsdk evaluate]" ...

Each system is asked on the same data; the run's folder says what was trained, on what and for how long. One file a run
in benchmarks/results/, from which benchmarks/report.py makes the tables of docs/training.md and the README.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from results import write_result

# Of the evaluation's report; the rest is long, and the same for all systems.
KEPT = ("bundle", "checkpoint", "task", "tier", "zoom", "rules", "intervals")


def evaluate(options: list[str], data: Path) -> dict[str, Any]:
    """What `samsdk evaluate` says of one system: means and intervals, and of each set its counts and means."""
    command = [sys.executable, "-m", "samsdk", "evaluate", *options, "--data", str(data), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report = json.loads(done.stdout)
    means = {key: value for key, value in report.items() if key.startswith("mean_")}
    sets = {
        name: {key: value for key, value in row.items() if key not in ("intervals", "calibration")}
        for name, row in report["sets"].items()
    }
    return {**{key: report[key] for key in KEPT}, **means, "sets": sets}


def elsewhere(options: list[str], data: Path, taught: str) -> dict[str, float]:
    """Mean Dice over all sets of a folder but the one that was trained on: what fine-tuning made a model forget."""
    sets = evaluate([*options, "--images", "3"], data)["sets"]
    kept = [row["dice"] for name, row in sets.items() if name != taught]
    return {prompt: sum(row[prompt] for row in kept) / len(kept) for prompt in kept[0]}


def about_run(run: Path) -> dict[str, Any]:
    """What was trained: the configuration, its steps, the time they took with their validations, and each of these."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    validations = [{"step": line["step"], **line["validation"]} for line in lines if "validation" in line]
    return {
        "config": json.loads((run / "config.json").read_bytes()),
        "steps": max(line["step"] for line in lines),
        "seconds": sum(line.get("seconds", 0.0) for line in lines),
        "validations": validations,
    }


def main() -> None:
    """Evaluate all systems and keep what they scored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--taught", required=True, help="the set or sets that were trained on, as the table names them")
    parser.add_argument("--beside", help="a published number that stands beside ours, with its source")
    parser.add_argument("--others", type=Path, help="folder of sets: measure what was forgotten, 3 images of each")
    parser.add_argument("--threads", type=int, required=True, help="that the training had, for the table")
    parser.add_argument("--system", action="append", required=True, metavar="LABEL: MODEL [OPTIONS]")
    args = parser.parse_args()
    systems = {}
    for text in args.system:
        label, _, command = text.partition(": ")
        options = shlex.split(command)
        systems[label] = evaluate(options, args.data)
        if args.others is not None:
            systems[label]["mean_others"] = elsewhere(options, args.others, args.taught)
        print(label, {k: v for k, v in systems[label].items() if k.startswith("mean_")}, file=sys.stderr, flush=True)
    numbers = {
        "run": args.name,
        "taught": args.taught,
        "beside": args.beside,
        "threads": args.threads,
        "trained": about_run(args.run),
        "systems": systems,
    }
    print(write_result(f"trained-{args.name}", numbers))


if __name__ == "__main__":
    main()
