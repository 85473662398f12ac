"""Counting nuclei without a click: everything mode of the default model on images that did not teach it.

python benchmarks/everything.py --data FOLDER [--overlays FOLDER]

FOLDER holds `nuclei_dsb2018`. The settings were chosen on images of the first two thirds of the list, which taught the
default model; reported is the last third. An object is found if it has an IoU above 0.5 with a true one. Beside it
stands what the recipe `sac`, which is trained for nuclei alone, reaches on the same images (`benchmarks/automatic.py`).
The JSON goes to benchmarks/results/. The images of least, median and largest F1 are drawn into the folder of overlays.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import samsdk
from results import read_results, write_result
from samsdk.everything import EverythingResult, EverythingSettings, segment_everything
from samsdk.io.images import write_png
from samsdk_training.data import LabelledImage, part_of_list, read_set
from samsdk_training.metrics.instances import ObjectMatch, match_objects

SET = "nuclei_dsb2018"
HELD_BACK = (2 / 3, 1.0)


@dataclass(frozen=True)
class Counted:
    """One image: its true number of objects, the objects that were found, and how they match."""

    case: LabelledImage
    true: int
    found: EverythingResult
    match: ObjectMatch

    @property
    def f1(self) -> float:
        """Of its objects."""
        return self.match.f1()

    @property
    def error(self) -> int:
        """How many more objects were counted than there are."""
        return self.found.count - self.true

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "id": self.case.name,
            "true": self.true,
            "counted": self.found.count,
            "object_f1": round(self.f1, 4),
            "points": self.found.points,
            "ms": round(self.found.timings["total"], 1),
        }


def count(predictor: samsdk.Predictor, case: LabelledImage, settings: EverythingSettings) -> Counted:
    """Count the objects of one image."""
    truth = np.asarray(case.label)
    found = segment_everything(predictor, case.image, settings)
    one = Counted(case, len(np.unique(truth[truth > 0])), found, match_objects(found.label_map, truth))
    print(one.to_dict(), file=sys.stderr, flush=True)
    return one


def summary(counted: list[Counted]) -> dict[str, Any]:
    """Means over images, and over all objects together; the interval is a bootstrap over images."""
    scores = np.array([one.f1 for one in counted])
    errors, true = np.array([one.error for one in counted]), np.array([one.true for one in counted])
    drawn = np.random.default_rng(0).integers(0, len(scores), (2000, len(scores)))
    low, high = np.percentile(scores[drawn].mean(axis=1), (2.5, 97.5))
    together = sum((one.match for one in counted), ObjectMatch(0, 0, 0, 0.0))
    return {
        "images": len(counted),
        "objects": int(true.sum()),
        "counted": int((true + errors).sum()),
        "mean_object_f1": float(scores.mean()),
        "interval": {"low": float(low), "high": float(high)},
        "pooled_object_f1": together.f1(),
        "mean_panoptic_quality": float(np.mean([one.match.panoptic_quality() for one in counted])),
        "count_mean_absolute_error": float(np.abs(errors).mean()),
        "count_mean_absolute_relative_error": float((np.abs(errors) / true).mean()),
        "count_median_absolute_relative_error": float(np.median(np.abs(errors) / true)),
        "count_mean_relative_error": float((errors / true).mean()),
        "median_ms": float(np.median([one.found.timings["total"] for one in counted])),
        "mean_points": float(np.mean([one.found.points for one in counted])),
    }


def beside() -> dict[str, Any]:
    """What a model for nuclei alone, and this model given that one's points, reached on the same images."""
    results = read_results("automatic")
    return {name: row["mean_object_f1"] for result in results for name, row in result["systems"].items()}


def draw(counted: list[Counted], folder: Path) -> None:
    """Draw the images of least, median and largest F1, each beside itself."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(counted, key=lambda one: one.f1)
    for name, one in (("worst", ordered[0]), ("median", ordered[len(ordered) // 2]), ("best", ordered[-1])):
        pixels = np.asarray(one.case.image)
        plain = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
        write_png(folder / f"{name}.png", np.concatenate([plain, one.found.overlay(pixels)], axis=1))


def main() -> None:
    """Count, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--overlays", type=Path)
    args = parser.parse_args()
    start = time.perf_counter()
    predictor = samsdk.load(device="cpu")
    settings = EverythingSettings()
    part = part_of_list(args.data / SET, "list.txt", HELD_BACK)
    counted = [count(predictor, case, settings) for case in read_set(args.data / SET, "list.txt", part)]
    if args.overlays:
        draw(counted, args.overlays)
    numbers = {
        "identity": predictor.bundle.identity,
        "settings": settings.to_dict(),
        "default model": summary(counted),
        "beside, mean_object_f1": beside(),
        "each": [one.to_dict() for one in counted],
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(write_result("everything", numbers))


if __name__ == "__main__":
    main()
