"""What breadth buys: one modality left out of a short training, and then asked for.

    python benchmarks/breadth.py --data FOLDER --runs FOLDER [--steps 500]

The same shape is trained three times for the same number of steps: on all labelled sets of training/student_plan.json,
and without those of one modality; each is a run folder, so that this can be interrupted. What counts is the Dice on the
validation lists of the modality that one of the two never saw. The JSON goes to benchmarks/results/.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from results import write_result
from samsdk.zoom import Zoom
from samsdk_training.checkpoints import load_checkpoint
from samsdk_training.data import read_set
from samsdk_training.evaluation import PROMPTS, evaluate_images, summarise
from samsdk_training.recipes.student_plan import read_plan
from samsdk_training.torch_predictor import TorchPredictor
from shapes import PLAN, SHAPES, short_training

SHAPE = "deep"
MODALITIES = ("us_", "mr_")
IMAGES = 12


def dice_on(run: Path, sets: list[Path]) -> dict[str, Any]:
    """Dice of a run's best weights on the validation lists of some sets, and the mean over them."""
    checkpoint = load_checkpoint(run / "best")
    predictor = TorchPredictor(checkpoint.build(), checkpoint.preprocessing)
    rows = {}
    for folder in sets:
        images = read_set(folder, "val.txt", slice(IMAGES))
        rows[folder.name] = summarise(list(evaluate_images(predictor, images, zoom=Zoom())))["dice"]
    mean = {prompt: round(float(np.mean([row[prompt] for row in rows.values()])), 4) for prompt in PROMPTS}
    return {"sets": rows, "mean": mean}


def main() -> None:
    """Train, compare, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    # The search over shapes trains this one too; in the same folder it is trained once.
    short_training(SHAPES[SHAPE], args.data, args.runs / SHAPE, args.steps)
    rows = {}
    for modality in MODALITIES:
        run = args.runs / f"{SHAPE}-without-{modality.strip('_')}"
        short_training(SHAPES[SHAPE], args.data, run, args.steps, leave_out=modality)
        sets = [args.data / name for name in read_plan(PLAN).validation if name.startswith(modality)]
        rows[modality.strip("_")] = {"with": dice_on(args.runs / SHAPE, sets), "without": dice_on(run, sets)}
        print(modality, {name: row["mean"] for name, row in rows[modality.strip("_")].items()}, file=sys.stderr)
    print(write_result("breadth", {"steps": args.steps, "shape": SHAPE, "modalities": rows}))


if __name__ == "__main__":
    main()
