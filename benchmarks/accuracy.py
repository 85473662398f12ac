"""Dice of a bundle on labelled images, prompted with the tight box of each object, and its distance from the torch
model.

    python benchmarks/accuracy.py --data FOLDER [--model lite-medsam]

FOLDER holds the sets. Of each, the first 40 images of its list are used, at most 8 objects an image, objects under 30
pixels are left out. Where one class can have several parts (two kidneys), both readings of "an object" are measured:
one box around all of the class, and one box a part. The JSON goes to benchmarks/results/.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import samsdk
from results import write_result
from samsdk import hub
from samsdk.masks import dice, mask_iou, upsample_region
from samsdk.prompts import Prompt, encode_prompt
from samsdk_export.goldens import torch_answer
from samsdk_training.data import LabelledImage, read_set, tight_box
from samsdk_training.importers import import_lite_medsam
from samsdk_training.models.sam import Sam

# (set, whether an object is a connected component of a class)
SETS = (("us_hc18", False), ("nuclei_dsb2018", False), ("ct_kits19_mini", False), ("ct_kits19_mini", True))
IMAGES, OBJECTS, SMALLEST = 40, 8, 30


def measure_image(
    predictor: samsdk.Predictor, model: Sam, labelled: LabelledImage, split: bool
) -> list[dict[str, float]]:
    """Dice through the runtime, and the runtime against torch, for each object of one image."""
    objects = labelled.objects(smallest=SMALLEST, split_components=split)[:OBJECTS]
    if not objects:
        return []
    manifest = predictor.manifest
    embedding = predictor.encode(labelled.image)
    square, frame = manifest.preprocessing.apply_image(labelled.image)
    with torch.inference_mode():
        reference = model.encode(torch.from_numpy(square))
    rows = []
    for truth in objects:
        prompt = Prompt(box=tight_box(truth))
        result = predictor.decode_batch(embedding, [prompt])[0]
        feeds = encode_prompt(prompt, frame, manifest.preprocessing, manifest.mask_side, manifest.prompt_kinds)
        with torch.inference_mode():
            logits, _ = torch_answer(model, reference, feeds)
        theirs: NDArray[np.bool_] = upsample_region(logits[0], frame).full()
        rows.append(
            {
                "dice": dice(result.mask, truth),
                "torch_mask_iou": mask_iou(result.mask, theirs),
                "torch_logit_difference": float(np.abs(result.low_res_logits[0] - logits[0]).max()),
            }
        )
    return rows


def measure_set(predictor: samsdk.Predictor, model: Sam, folder: Path, split: bool) -> dict[str, Any]:
    """All numbers of one set."""
    rows, images = [], 0
    for labelled in read_set(folder, part=slice(IMAGES)):
        rows += measure_image(predictor, model, labelled, split)
        images += 1
        print(f"\r{folder.name}: {images} images, {len(rows)} objects", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        "set": folder.name,
        "object": "connected component" if split else "label",
        "images": images,
        "objects": len(rows),
        "prompt": "box",
        "dice": float(np.mean([row["dice"] for row in rows])),
        "torch_mask_iou": float(np.mean([row["torch_mask_iou"] for row in rows])),
        "torch_logit_difference": max(row["torch_logit_difference"] for row in rows),
    }


def main() -> None:
    """Measure the sets and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="lite-medsam", choices=sorted(hub.MODELS))
    args = parser.parse_args()
    predictor = samsdk.load(args.model, device="cpu")
    model = import_lite_medsam(hub.weights_path(args.model)).build()
    sets = [measure_set(predictor, model, args.data / name, split) for name, split in SETS]
    rules = {
        "images": IMAGES,
        "objects_per_image": OBJECTS,
        "smallest_object": SMALLEST,
        "box": "tight, x1 y1 exclusive",
    }
    path = write_result("accuracy", {"bundle": predictor.bundle.identity, "rules": rules, "sets": sets})
    for row in sets:
        print(
            f"{row['set']:<16} object = {row['object']:<20} Dice {row['dice']:.4f}  against torch: mask IoU "
            f"{row['torch_mask_iou']:.6f}, largest logit difference {row['torch_logit_difference']:.1e}"
        )
    print(path)


if __name__ == "__main__":
    main()
