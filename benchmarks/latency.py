"""Encode + first decode: the default model, LiteMedSAM through `samsdk`, by hand in ONNX Runtime, and in PyTorch.

    python benchmarks/latency.py [--repeats 15]

All systems take turns in one process, so that a machine that drifts slows all of them alike. Medians are kept, and
ratios are medians of the ratios within a turn. What is timed: through `samsdk` from an image array to a mask of the
image's size; by hand and in PyTorch from a prepared input to the logits, with no preprocessing and no mask. The JSON
goes to benchmarks/results/.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import onnxruntime
import skimage.data
import torch

import samsdk
from results import write_result
from samsdk import hub
from samsdk.prompts import Prompt, encode_prompt
from samsdk_export.onnx_export import export_decoder, export_encoder
from samsdk_training.importers import import_lite_medsam

REFERENCE = "lite-medsam"
BOX = (250, 302, 384, 510)
POINT = (316, 400)
# PyTorch takes seconds a call: every fifth turn is enough. Calls of a few milliseconds are repeated within a turn.
TORCH_EVERY = 5
QUICK_CALLS = 5
Systems = dict[str, Callable[[], object]]


def reference_systems() -> tuple[samsdk.Predictor, Systems]:
    """LiteMedSAM: through `samsdk`, as a plain ONNX export by hand, and the torch model."""
    predictor = samsdk.load(REFERENCE, device="cpu")
    manifest = predictor.manifest
    image = skimage.data.immunohistochemistry()
    square, frame = manifest.preprocessing.apply_image(image)
    feeds = encode_prompt(Prompt(box=BOX), frame, manifest.preprocessing, manifest.mask_side, manifest.prompt_kinds)
    model = import_lite_medsam(hub.weights_path(REFERENCE)).build()
    encoder, decoder = (
        onnxruntime.InferenceSession(export(model, ()), providers=["CPUExecutionProvider"])
        for export in (export_encoder, export_decoder)
    )
    prompt = {
        "point_coords": feeds.point_coords[None],
        "point_labels": feeds.point_labels[None],
        "mask_input": feeds.mask_input[None, None],
        "has_mask_input": np.zeros(1, dtype=np.float32),
    }
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


def student_systems(device: str, suffix: str) -> tuple[samsdk.Predictor, Systems]:
    """The default model: one look, a box or a point with its second look, and the next prompt."""
    predictor = samsdk.load(device=device)
    image = skimage.data.immunohistochemistry()
    embedding = predictor.encode(image)

    def zoomed(**prompt: object) -> object:
        # A predictor of its own each time would load the graphs; forgetting the embeddings is what is wanted.
        predictor.forget()
        return predictor.segment(image, zoom=True, **prompt)  # type: ignore[arg-type]

    return predictor, {
        f"student{suffix}": lambda: predictor.decode(predictor.encode(image), box=BOX),
        f"student_zoomed_box{suffix}": lambda: zoomed(box=BOX),
        f"student_zoomed_point{suffix}": lambda: zoomed(points=[POINT]),
        f"student_next_prompt{suffix}": lambda: predictor.decode(embedding, points=[POINT]),
    }


def measure(systems: Systems, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each system in each turn, after one turn that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(repeats + 1):
        for name, call in systems.items():
            if name == "torch" and turn % TORCH_EVERY:
                continue
            calls = []
            for _ in range(QUICK_CALLS if name.startswith("student") else 1):
                start = time.perf_counter()
                call()
                calls.append((time.perf_counter() - start) * 1e3)
            if turn:
                times[name].append(statistics.median(calls))
        print(f"\rround {turn} of {repeats}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return times


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    reference, systems = reference_systems()
    student, more = student_systems("cpu", "")
    systems |= more
    if find_spec("openvino"):
        systems |= student_systems("openvino", "_openvino")[1]
    times = measure(systems, repeats)
    ratios = [ours / theirs for ours, theirs in zip(times["samsdk"], times["by_hand"], strict=True)]
    median = {name: round(statistics.median(values), 2) for name, values in times.items()}
    numbers = {
        "bundle": reference.bundle.identity,
        "student": student.bundle.identity,
        "torch": torch.__version__.split("+")[0],
        "repeats": repeats,
        "median_ms": median,
        "samsdk_over_by_hand": round(statistics.median(ratios), 4),
        "by_hand_over_student": {
            name: round(statistics.median(a / b for a, b in zip(times["by_hand"], times[name], strict=True)), 1)
            for name in times
            if name in ("student", "student_openvino")
        },
        "torch_over_student": {
            name: round(median["torch"] / median[name], 1) for name in times if name in ("student", "student_openvino")
        },
    }
    path = write_result("latency", numbers)
    print(*(f"{name:<32}{value:9.1f} ms" for name, value in median.items()), sep="\n")
    print(f"samsdk over by hand: {numbers['samsdk_over_by_hand']:.3f}\n{path}")


if __name__ == "__main__":
    main()
