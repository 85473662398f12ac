"""What each exact rewrite of the decoder is worth: milliseconds, graph size and distance to the torch model.

    python benchmarks/rewrites.py [--repeats 15]

LiteMedSAM's and the default model's decoder, as exported plainly and with each rewrite, on the CPU backends, for one
prompt of a box and for 16 in one call. All graphs take turns. The JSON goes to benchmarks/results/.
"""

import argparse
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from results import ROOT, write_result
from samsdk import hub
from samsdk.backends import open_graph
from samsdk.backends.options import BackendOptions
from samsdk.tiers import Graph
from samsdk_export.graphs import DecoderGraph, decoder_inputs
from samsdk_export.onnx_export import DECODER_REWRITES, export_decoder
from samsdk_training.checkpoints import load_checkpoint
from samsdk_training.importers import import_lite_medsam
from samsdk_training.models.sam import Sam

VARIANTS = {"plain": (), **{name: (name,) for name in DECODER_REWRITES}, "all": DECODER_REWRITES}
PROMPTS = (1, 16)
GRAPH = Graph("decoder.onnx", "float32")


def prompts_for(model: Sam, count: int) -> dict[str, NDArray[np.float32]]:
    """Boxes on embeddings of an image of noise, by the names of the graph's inputs."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, 3, model.image_size, model.image_size), dtype=np.float32))
    with torch.inference_mode():
        embeddings = {name: tensor.numpy() for name, tensor in model.encode(image).items()}
    side = model.prompt_encoder.mask_side
    corners = np.sort(rng.random((count, 2, 2), dtype=np.float32), axis=1) * model.image_size
    return {
        **embeddings,
        "point_coords": corners,
        "point_labels": np.tile(np.array([[2, 3]], np.float32), (count, 1)),
        "mask_input": np.zeros((count, 1, side, side), np.float32),
        "has_mask_input": np.zeros(count, np.float32),
    }


def measure(name: str, model: Sam, repeats: int) -> list[dict[str, Any]]:
    """A row for each backend, variant and number of prompts."""
    graphs = {variant: export_decoder(model, rewrites) for variant, rewrites in VARIANTS.items()}
    devices = ["cpu", *(["openvino"] if find_spec("openvino") else [])]
    backends = {
        (device, variant): open_graph(graph, GRAPH, device, BackendOptions())
        for variant, graph in graphs.items()
        for device in devices
    }
    rows = []
    for count in PROMPTS:
        feeds = prompts_for(model, count)
        with torch.inference_mode():
            truth, _ = DecoderGraph(model)(*(torch.from_numpy(feeds[one]) for one in decoder_inputs(model)))
        times: dict[tuple[str, str], list[float]] = {key: [] for key in backends}
        difference = {}
        for turn in range(repeats + 2):
            for key, backend in backends.items():
                start = time.perf_counter()
                answer = backend.run(feeds)
                if turn >= 2:
                    times[key].append((time.perf_counter() - start) * 1e3)
                difference[key] = float(np.abs(answer["low_res_masks"] - truth.numpy()).max())
        for (device, variant), values in times.items():
            plain = times[device, "plain"]
            rows.append(
                {
                    "model": name,
                    "device": device,
                    "rewrites": variant,
                    "prompts": count,
                    "ms": round(statistics.median(values), 2),
                    "over_plain": round(statistics.median(a / b for a, b in zip(values, plain, strict=True)), 3),
                    "logit_difference": difference[device, variant],
                    "megabytes": round(len(graphs[variant]) / 1e6, 1),
                }
            )
            print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--student", type=Path, help="the default model's checkpoint, after `samsdk slim`")
    args = parser.parse_args()
    rows = measure("lite-medsam", import_lite_medsam(hub.weights_path("lite-medsam")).build(), args.repeats)
    if args.student:
        rows += measure("student", load_checkpoint(args.student).build(), args.repeats)
    print(write_result("rewrites", {"repeats": args.repeats, "rows": rows}).relative_to(ROOT))


if __name__ == "__main__":
    main()
