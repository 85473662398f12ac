"""What each exact rewrite of the graphs is worth: milliseconds, graph size and distance to the torch model.

    python benchmarks/rewrites.py [--repeats 15] [--student CHECKPOINT]

LiteMedSAM's and the default model's graphs, as exported plainly and with one rewrite more at a time, on the CPU
backends: the decoder for one prompt of a box and for 16 in one call, the encoder for one image. All graphs take turns.
The JSON goes to benchmarks/results/.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from results import ROOT, write_result
from samsdk import hub
from samsdk.backends import Backend, open_graph
from samsdk.backends.options import BackendOptions
from samsdk.tiers import Graph
from samsdk_export.graphs import DecoderGraph, EncoderGraph, decoder_inputs, embedding_shapes
from samsdk_export.onnx_export import REWRITES, export_decoder, export_encoder
from samsdk_training.checkpoints import load_checkpoint
from samsdk_training.importers import import_lite_medsam
from samsdk_training.models.sam import Sam

PLAIN = "plain"
PROMPTS = (1, 16)
Arrays = Mapping[str, NDArray[np.float32]]


def variant(count: int) -> str:
    """The name of the graphs with the first few rewrites."""
    return f"+ {REWRITES[count - 1]}" if count else PLAIN


# How many rewrites give each graph that is measured. These models' encoders have no relative position.
ENCODERS = (0, 1, len(REWRITES))
DECODERS = tuple(count for count in range(len(REWRITES) + 1) if variant(count) != "+ pieces")


def embeddings_of(model: Sam, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """All that any decoder graph takes of an image."""
    with torch.inference_mode():
        outputs = EncoderGraph(model, ahead=True).eval()(torch.from_numpy(image))
    return {name: one.numpy() for name, one in zip(embedding_shapes(model, ahead=True), outputs, strict=True)}


def prompts_of(model: Sam, count: int) -> dict[str, NDArray[np.float32]]:
    """Boxes, by the names of the graph's inputs."""
    rng = np.random.default_rng(0)
    side = model.prompt_encoder.mask_side
    return {
        "point_coords": np.sort(rng.random((count, 2, 2), dtype=np.float32), axis=1) * model.image_size,
        "point_labels": np.tile(np.array([[2, 3]], np.float32), (count, 1)),
        "mask_input": np.zeros((count, 1, side, side), np.float32),
        "has_mask_input": np.zeros(count, np.float32),
    }


def measure(
    graphs: Mapping[str, tuple[bytes, Arrays]], output: str, truth: NDArray[np.float32], repeats: int
) -> list[dict[str, Any]]:
    """A row for each backend and graph.

    Args:
        graphs: content and inputs by variant.
        output: that is compared.
        truth: the torch model's.
        repeats: turns that count.
    """
    devices = ["cpu", *(["openvino"] if find_spec("openvino") else [])]
    backends: dict[tuple[str, str], Backend] = {
        (device, name): open_graph(content, Graph("graph.onnx", "float32"), device, BackendOptions())
        for name, (content, _) in graphs.items()
        for device in devices
    }
    times: dict[tuple[str, str], list[float]] = {key: [] for key in backends}
    difference = {}
    for turn in range(repeats + 2):
        for key, backend in backends.items():
            start = time.perf_counter()
            answer = backend.run(graphs[key[1]][1])
            if turn >= 2:
                times[key].append((time.perf_counter() - start) * 1e3)
            difference[key] = float(np.abs(answer[output] - truth).max())
    return [
        {
            "device": device,
            "rewrites": name,
            "ms": round(statistics.median(values), 2),
            "over_plain": round(statistics.median(a / b for a, b in zip(values, times[device, PLAIN], strict=True)), 3),
            "difference": difference[device, name],
            "megabytes": round(len(graphs[name][0]) / 1e6, 1),
        }
        for (device, name), values in times.items()
    ]


def measure_model(name: str, model: Sam, repeats: int) -> list[dict[str, Any]]:
    """All rows of a model."""
    image = np.random.default_rng(0).random((1, 3, model.image_size, model.image_size), dtype=np.float32)
    embeddings = embeddings_of(model, image)
    encoders = {variant(count): (export_encoder(model, REWRITES[:count]), {"image": image}) for count in ENCODERS}
    rows = measure(encoders, "image_embeddings", embeddings["image_embeddings"], repeats)
    found = [{"model": name, "part": "encoder", "prompts": 0, **row} for row in rows]
    contents = {count: export_decoder(model, REWRITES[:count]) for count in DECODERS}
    for prompts in PROMPTS:
        feeds = {**embeddings, **prompts_of(model, prompts)}
        plain = (torch.from_numpy(feeds[one]) for one in decoder_inputs(model, ahead=False))
        with torch.inference_mode():
            truth, _ = DecoderGraph(model)(*plain)
        decoders = {
            variant(count): (content, {one: feeds[one] for one in decoder_inputs(model, count == len(REWRITES))})
            for count, content in contents.items()
        }
        rows = measure(decoders, "low_res_masks", truth.numpy(), repeats)
        found += [{"model": name, "part": "decoder", "prompts": prompts, **row} for row in rows]
    for row in found:
        print(row, file=sys.stderr)
    return found


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--student", type=Path, help="the default model's checkpoint, after `samsdk slim`")
    args = parser.parse_args()
    rows = measure_model("lite-medsam", import_lite_medsam(hub.weights_path("lite-medsam")).build(), args.repeats)
    if args.student:
        rows += measure_model("student", load_checkpoint(args.student).build(), args.repeats)
    print(write_result("rewrites", {"repeats": args.repeats, "rows": rows}).relative_to(ROOT))


if __name__ == "__main__":
    main()
