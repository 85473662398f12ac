"""The default model and LiteMedSAM under simulated users, on sets and lists that neither saw in training.

    python benchmarks/evaluation.py --data FOLDER [--only student,lite_medsam]

Three groups. `validation`: `val.txt` of the sets whose training lists taught the default model; its best weights were
picked by the Dice on the first 4 images and 4 objects of each. `held_back`: the last third of two lists whose first two
thirds taught it. `never_trained`: sets that may not teach weights that are given away; of volumes, the axial slice with
the most labelled pixels. First 12 images of each (25 and 24 of the two held back), up to 8 objects of at least 30
pixels an image. Systems: the default model with its zoom and without, and LiteMedSAM. The JSON goes to
benchmarks/results/; with --only, the other systems are kept as the last result has them, and say from when they are.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import samsdk
from results import read_results, write_result
from samsdk.zoom import Zoom
from samsdk_training.data import part_of_list, read_set
from samsdk_training.evaluation import ObjectScores, calibration, evaluate_images, summarise
from samsdk_training.slices import write_slices

# The model's name, and whether it is asked with zoom.
SYSTEMS = {
    "student": ("student", True),
    "student_without_zoom": ("student", False),
    "lite_medsam": ("lite-medsam", False),
}
IMAGES = 12
HELD_BACK = {"us_hc18": 25, "nuclei_dsb2018": 24}
NEVER_TRAINED = {
    "ct_hepatic_vessels_msd": "val.txt",
    "ct_kits19_mini": "list.txt",
    "ct_lung_tumour_msd": "val.txt",
    "ct_spleen_msd": "val.txt",
    "mr_brain_tumour_brisc": "val.txt",
}
VOLUMES = ("mr_brats2015", "mr_hippocampus")
Source = tuple[Path, str, slice]


def groups(data: Path, scratch: Path) -> dict[str, dict[str, Source]]:
    """Group, set, and where its images are: folder, list, part of the list."""
    taught = sorted(path.parent for path in data.glob("*/val.txt") if path.read_text(encoding="utf-8").strip())
    never = {name: (data / name, listed, slice(IMAGES)) for name, listed in NEVER_TRAINED.items()}
    for name in VOLUMES:
        write_slices(data / name, scratch / name, axes="z", largest=True, fewest=30)
        never[name] = (scratch / name, "train.txt", slice(IMAGES))
    held = {name: _last_third(data / name, count) for name, count in HELD_BACK.items()}
    return {
        "validation": {
            path.name: (path, "val.txt", slice(IMAGES)) for path in taught if path.name not in NEVER_TRAINED
        },
        "held_back": held,
        "never_trained": never,
    }


def _last_third(folder: Path, count: int) -> Source:
    part = part_of_list(folder, "list.txt", (2 / 3, 1.0))
    return folder, "list.txt", slice(part.start, part.start + count)


def evaluate(predictor: samsdk.Predictor, source: Source, zoom: Zoom | None) -> list[ObjectScores]:
    """All scores of one set."""
    folder, listed, part = source
    return list(evaluate_images(predictor, read_set(folder, listed, part), zoom=zoom))


def system(name: str, model: str, zoom: bool, sets: dict[str, dict[str, Source]]) -> dict[str, Any]:
    """One system's numbers: for each group its sets and the mean over them, and the calibration over all."""
    predictor = samsdk.load(model, device="cpu")
    closeness = predictor.zoom(zoom)
    answer: dict[str, Any] = {"bundle": predictor.bundle.identity, "zoom": closeness and asdict(closeness)}
    predicted: list[float] = []
    actual: list[float] = []
    for group, members in sets.items():
        rows = {}
        for set_name, source in members.items():
            scores = evaluate(predictor, source, closeness)
            rows[set_name] = summarise(scores)
            predicted += [value for score in scores for value in score.predicted_iou.values()]
            actual += [value for score in scores for value in score.iou.values()]
            print(f"{name} {set_name} {rows[set_name]['dice']}", file=sys.stderr, flush=True)
        answer[group] = {"sets": rows, "mean_dice": dict(_means(rows))}
    answer["calibration"] = calibration(np.array(predicted), np.array(actual))
    return answer


def last_systems() -> dict[str, dict[str, Any]]:
    """The systems of the last result; each says from when it is."""
    last = max(read_results("evaluation"), key=lambda result: result["date"])
    since = {"date": last["date"], "commit": last["commit"]}
    return {name: {"since": since, **row} for name, row in last["systems"].items()}


def _means(rows: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for prompt in next(iter(rows.values()))["dice"]:
        yield prompt, float(np.mean([row["dice"][prompt] for row in rows.values()]))


def main() -> None:
    """Evaluate the systems and keep what they scored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", metavar="NAME,NAME", help=f"of {', '.join(SYSTEMS)}")
    args = parser.parse_args()
    wanted = args.only.split(",") if args.only else list(SYSTEMS)
    if unknown := set(wanted) - set(SYSTEMS):
        parser.error(f"expected systems of {', '.join(SYSTEMS)}, got {', '.join(sorted(unknown))}")
    systems = {} if args.only is None else last_systems()
    with tempfile.TemporaryDirectory() as scratch:
        sets = groups(args.data, Path(scratch))
        systems |= {name: system(name, *SYSTEMS[name], sets) for name in wanted}
    rules = {"images": IMAGES, "held_back_images": HELD_BACK, "objects_per_image": 8, "smallest_object": 30}
    print(write_result("evaluation", {"rules": rules, "systems": systems}))


if __name__ == "__main__":
    main()
