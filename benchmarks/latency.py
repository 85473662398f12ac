"""Encode + first decode: through `samsdk`, the same graphs called by hand in ONNX Runtime, and the model in PyTorch.

    python benchmarks/latency.py [--model lite-medsam] [--repeats 15]

The systems take turns, so that a machine that drifts slows all of them alike; medians are kept, and the ratio is the
median of the ratios of neighbours. What is timed: `samsdk` from an image array to a mask of the image's size; by hand
and in PyTorch from a prepared input to the logits, with no preprocessing and no mask. The JSON goes to
benchmarks/results/.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import onnxruntime
import skimage.data
import torch

import samsdk
from results import write_result
from samsdk import hub
from samsdk.prompts import Prompt, encode_prompt
from samsdk_training.importers import import_lite_medsam

BOX = (250, 302, 384, 510)
TORCH_EVERY = 5


def build_systems(name: str) -> tuple[samsdk.Predictor, dict[str, Callable[[], object]]]:
    """The calls that are timed."""
    predictor = samsdk.load(name, device="cpu")
    bundle, manifest = predictor.bundle, predictor.manifest
    image = skimage.data.immunohistochemistry()
    square, frame = manifest.preprocessing.apply_image(image)
    feeds = encode_prompt(Prompt(box=BOX), frame, manifest.preprocessing, manifest.mask_side, manifest.prompt_kinds)
    plan = manifest.tiers[predictor.tier]
    encoder, decoder = (
        onnxruntime.InferenceSession(bundle.read(graph), providers=["CPUExecutionProvider"])
        for graph in (plan.encoder, plan.decoder)
    )
    prompt = {
        "point_coords": feeds.point_coords[None],
        "point_labels": feeds.point_labels[None],
        "mask_input": feeds.mask_input[None, None],
        "has_mask_input": np.zeros(1, dtype=np.float32),
    }
    model = import_lite_medsam(hub.weights_path(name)).build()
    pixels, box = torch.from_numpy(square), torch.from_numpy(feeds.point_coords.reshape(1, 4))

    def by_hand() -> object:
        (embedding,) = encoder.run(None, {"image": square})
        return decoder.run(None, {"image_embeddings": embedding, **prompt})

    def in_torch() -> object:
        with torch.inference_mode():
            return model(pixels, boxes=box)

    embedding = predictor.encode(image)
    return predictor, {
        "samsdk": lambda: predictor.decode(predictor.encode(image), box=BOX),
        "by_hand": by_hand,
        "torch": in_torch,
        "samsdk_next_prompt": lambda: predictor.decode(embedding, box=BOX),
    }


def measure(systems: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each system's calls, taken in turns after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(repeats + 1):
        for name, call in systems.items():
            if name == "torch" and turn % TORCH_EVERY:
                continue
            start = time.perf_counter()
            call()
            if turn:
                times[name].append((time.perf_counter() - start) * 1e3)
        print(f"\rround {turn} of {repeats}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return times


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-medsam", choices=sorted(hub.MODELS))
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    predictor, systems = build_systems(args.model)
    times = measure(systems, args.repeats)
    ratios = [ours / theirs for ours, theirs in zip(times["samsdk"], times["by_hand"], strict=True)]
    numbers = {
        "bundle": predictor.bundle.identity,
        "torch": torch.__version__.split("+")[0],
        "repeats": args.repeats,
        "median_ms": {name: round(statistics.median(values), 2) for name, values in times.items()},
        "samsdk_over_by_hand": round(statistics.median(ratios), 4),
    }
    path = write_result("latency", numbers)
    print(*(f"{name:<20}{value:9.1f} ms" for name, value in numbers["median_ms"].items()), sep="\n")
    print(f"samsdk over by hand: {numbers['samsdk_over_by_hand']:.3f}\n{path}")


if __name__ == "__main__":
    main()
