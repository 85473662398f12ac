"""Without a click: a bundle that prompts itself, beside others that are given a whole-image box or the same points.

python benchmarks/automatic.py BUNDLE --data DIR

DIR is a set with instance labels; its `val.txt` is asked. Then the same bundle with other ways to pick points.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import samsdk
from results import write_result
from samsdk.auto import AutoPrompts
from samsdk.embedding import Embedding
from samsdk_training.data import read_set
from samsdk_training.evaluation import foreground_cases
from samsdk_training.evaluation.report import report_sets

STRATEGIES = ("centroid", "probability")
POINTS = (5, 20, 60, 120)


class WholeImage:
    """A promptable model that is given the whole image as a box."""

    def __init__(self, predictor: samsdk.Predictor) -> None:
        self.predictor = predictor

    def encode(self, image: ArrayLike, *, window: object = None) -> Embedding:
        """Encode an image."""
        return self.predictor.encode(image)

    def decode(self, embedding: Embedding, **_: object) -> samsdk.Result:
        """Ask for what is in the box."""
        height, width = embedding.frame.original_size
        return self.predictor.decode(embedding, box=[0, 0, width - 1, height - 1])


class SamePoints:
    """A promptable model that is given the points of a bundle that prompts itself, one object a positive point."""

    def __init__(self, predictor: samsdk.Predictor, automatic: samsdk.Predictor) -> None:
        self.predictor = predictor
        self.automatic = automatic

    def encode(self, image: ArrayLike, *, window: object = None) -> tuple[Embedding, NDArray[np.float64]]:
        """Encode an image, and pick its points."""
        told = self.automatic.segment(image)
        return self.predictor.encode(image), told.points[told.point_labels == 1]

    def decode(self, encoded: tuple[Embedding, NDArray[np.float64]], **_: object) -> "Union":
        """Ask for the object at each point, and lay them over each other."""
        embedding, points = encoded
        prompts = [samsdk.Prompt([point]) for point in points]
        masks = [result.mask for result in self.predictor.decode_batch(embedding, prompts)] if prompts else []
        empty = np.zeros(embedding.frame.original_size, bool)
        return Union(np.logical_or.reduce([empty, *masks]))


class Union:
    """Some masks laid over each other."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.mask = mask


def measure(predictor: Any, automatic: samsdk.Predictor, data: Path) -> dict[str, Any]:
    """Scores of one system; all split their foreground as the bundle that prompts itself does."""
    scores = list(foreground_cases(predictor, read_set(data, "val.txt"), splitting=automatic.manifest.auto.splitting))
    report = report_sets({data.name: scores})
    row = {key: value["foreground"] for key, value in report.items() if key.startswith("mean_")}
    print({key: round(value, 3) for key, value in row.items()}, file=sys.stderr, flush=True)
    return {**row, "intervals": report["intervals"], "images": len(scores)}


def main() -> None:
    """Measure the systems, then the ways to pick points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    bundle = samsdk.load(args.bundle, device="cpu")
    student = samsdk.load("student", device="cpu")
    systems = {
        "bundle": measure(bundle, bundle, args.data),
        "LiteMedSAM, the whole image as a box": measure(
            WholeImage(samsdk.load("lite-medsam", device="cpu")), bundle, args.data
        ),
        "default model, the same points": measure(SamePoints(student, bundle), bundle, args.data),
        "default model, the whole image as a box": measure(WholeImage(student), bundle, args.data),
    }
    selections = []
    manifest = bundle.manifest
    for strategy in STRATEGIES:
        for count in POINTS:
            selection = replace(manifest.auto.selection, strategy=strategy, positives=count, negatives=min(count, 20))
            bundle.manifest = replace(manifest, auto=AutoPrompts(selection, manifest.auto.splitting))
            selections.append({"strategy": strategy, "positives": count, **measure(bundle, bundle, args.data)})
    print(write_result("automatic", {"systems": systems, "selections": selections, "identity": bundle.bundle.identity}))


if __name__ == "__main__":
    main()
