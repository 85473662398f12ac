"""An object in a volume from one box on one slice, with bundles for images: Dice and seconds.

    python benchmarks/propagation.py --data FOLDER [--model student --model lite-medsam]

The box is the tight box of the object on the middle slice of its extent along z. `dice` is that of the volume when the
object is followed from there, `dice_extent` when its first and last slice are told, too; `ceiling` when every slice of
the object is prompted with its own tight box. FOLDER holds the sets: FLAIR of mr_brats2015 (whole tumour), liver,
spleen and kidneys of ct_totalseg (its labels are another model's: they show that an object is followed, not how well it
is segmented), and ten volumes of mr_hippocampus. The default model was trained with slices of ct_totalseg.
The settings were chosen on the volumes in `TUNED`. A JSON a model goes to benchmarks/results/, after each volume.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import samsdk
from results import write_result
from samsdk.io.nifti import read_nifti
from samsdk.masks import dice
from samsdk.propagation import Following, Session
from samsdk_training.data import read_ids, tight_box

ORGANS = {"liver": 5, "spleen": 1, "kidney_right": 2, "kidney_left": 3}
HIPPOCAMPI = 10
TUNED = ("ct3mm_whole", "pat0002_flair", "hippocampus_004", "hippocampus_007")
# Of embeddings: the ceiling then encodes no slice that was seen. The default holds fewer of LiteMedSAM's.
MEMORY_MB = 2000


class Case(NamedTuple):
    """One object."""

    set: str
    volume: str
    object: str
    voxels: samsdk.Volume
    truth: NDArray[np.bool_]


def cases(data: Path) -> Iterator[Case]:
    """All objects of the three sets."""
    for name in ("ct_totalseg", "mr_brats2015", "mr_hippocampus"):
        folder = data / name
        wanted = read_ids(folder)
        if name == "mr_brats2015":
            wanted = [one for one in wanted if one.endswith("_flair")]
        for one in ["ct3mm_whole"] if name == "ct_totalseg" else wanted[:HIPPOCAMPI]:
            voxels, labels = (read_nifti(folder / kind / f"{one}.nii.gz") for kind in ("images", "masks"))
            if name == "ct_totalseg":
                for organ, number in ORGANS.items():
                    yield Case(name, one, organ, voxels, labels.array == number)
            else:
                yield Case(name, one, "whole tumour" if "flair" in one else "hippocampus", voxels, labels.array > 0)


def measure(predictor: samsdk.Predictor, case: Case) -> dict[str, Any]:
    """The numbers of one object."""
    planes = np.flatnonzero(case.truth.any(axis=(1, 2)))
    middle = int(planes[0] + planes[-1]) // 2
    box = tight_box(case.truth[middle])
    session = Session(predictor, case.voxels, memory_mb=MEMORY_MB)
    start = time.perf_counter()
    followed = session.prompt(middle, box=box)
    seconds = time.perf_counter() - start
    found, encoded = sorted(session.found), session.encoded
    told = session.prompt(middle, box=box, extent=(int(planes[0]), int(planes[-1])))
    ceiling = np.zeros_like(case.truth)
    for index in planes:
        ceiling[index] = session.preview(int(index), box=tight_box(case.truth[index]))
    row = {
        "set": case.set,
        "volume": case.volume,
        "object": case.object,
        "tuned_on": case.volume in TUNED,
        "shape": list(case.voxels.shape),
        "slices": len(planes),
        "slices_found": len(found),
        "encoded": encoded,
        "seconds": round(seconds, 2),
        "first_seconds": round(followed.timings["first"] / 1e3, 2),
        "dice": dice(followed.label_map > 0, case.truth),
        "dice_extent": dice(told.label_map > 0, case.truth),
        "ceiling": dice(ceiling, case.truth),
    }
    return {**row, "share": row["dice"] / row["ceiling"], "share_extent": row["dice_extent"] / row["ceiling"]}


def main() -> None:
    """Measure the objects and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", action="append", help="student and lite-medsam when left out")
    args = parser.parse_args()
    for name in args.model or ["student", "lite-medsam"]:
        predictor = samsdk.load(name)
        predictor.warm_up()
        rows: list[dict[str, Any]] = []
        for case in cases(args.data):
            rows.append(measure(predictor, case))
            print(f"{name} {rows[-1]}", file=sys.stderr, flush=True)
            measured = {
                "bundle": predictor.bundle.identity,
                "provider": predictor.provider,
                "zoom": predictor.zoom() is not None,
                "objects": rows,
            }
            rules = {"following": asdict(Following()), "tuned_on": TUNED}
            path = write_result(f"propagation-{name}", {**rules, "models": {name: measured}})
        print(path)


if __name__ == "__main__":
    main()
