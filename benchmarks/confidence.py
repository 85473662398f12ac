"""How far the default model's score can be believed on kinds of images it was never taught, and what a table helps.

    python benchmarks/confidence.py --data FOLDER

No image here taught the default model, and none is in docs/accuracy.md: `train.txt` of the sets whose `val.txt`
benchmarks/evaluation.py reports and that may not teach weights that are given away, and the axial slices of the
hippocampus' volumes after those that it reports. Each kind of prompt: predicted against true IoU, and the expected
calibration error of each set before and after a table that was fitted to the other sets. None of the tables is kept:
the rule that keeps these sets from teaching the model keeps them from its bundle, too. The JSON goes to
benchmarks/results/.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

import samsdk
from evaluation import IMAGES, NEVER_TRAINED, Source, evaluate
from results import write_result
from samsdk_training.calibration_fit import held_out_errors, read_scored, rows_by_kind
from samsdk_training.evaluation import calibration
from samsdk_training.evaluation.report import write_rows
from samsdk_training.slices import write_slices

VOLUMES = "mr_hippocampus"


def sources(data: Path, scratch: Path) -> dict[str, Source]:
    """Set, and where its images are: folder, list, part of the list."""
    write_slices(data / VOLUMES, scratch / VOLUMES, axes="z", largest=True, fewest=30)
    reported = [name for name, listed in NEVER_TRAINED.items() if listed == "val.txt"]
    return {
        **{name: (data / name, "train.txt", slice(None)) for name in reported},
        VOLUMES: (scratch / VOLUMES, "train.txt", slice(IMAGES, None)),
    }


def main() -> None:
    """Evaluate, leave out one set after the other, and keep the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    predictor = samsdk.load(device="cpu")
    zoom = predictor.zoom()
    scores = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, source in sources(data, Path(scratch)).items():
            print(f"evaluating {name}", file=sys.stderr, flush=True)
            scores[name] = evaluate(predictor, source, zoom)
        table = Path(scratch) / "scores.csv"
        write_rows(table, scores)
        rows = rows_by_kind(read_scored(table))
    numbers = {
        "bundle": predictor.bundle.identity,
        "zoom": zoom and asdict(zoom),
        "sets": {
            name: {"images": len({one.image for one in found}), "objects": len(found)} for name, found in scores.items()
        },
        "kinds": {
            kind: {
                **calibration(np.array([row.score for row in found]), np.array([row.iou for row in found])),
                "held_out_error": held_out_errors(found).to_dict(),
            }
            for kind, found in rows.items()
        },
    }
    print(write_result("confidence", numbers))


if __name__ == "__main__":
    main()
