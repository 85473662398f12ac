"""One process that runs encoder graphs in turns, and nothing else: its memory is that of a device without torch.

    python benchmarks/graph_process.py DEVICE REPEATS FOLDER GRAPH [GRAPH ...]

FOLDER holds `GRAPH.onnx`, `image.npy` and `truth.npy`; prints one JSON object.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from samsdk.backends import open_graph
from samsdk.backends.options import BackendOptions
from samsdk.environment import peak_memory_mb
from samsdk.tiers import Graph


def measure(device: str, repeats: int, folder: Path, names: list[str]) -> dict[str, Any]:
    """Milliseconds of each graph in each turn, its distance to the truth, and the process's peak memory.

    Args:
        device: see `samsdk.backends.DEVICES`.
        repeats: turns that count, after one that does not; 0 runs each graph once.
        folder: see the module.
        names: of the graphs.
    """
    image, truth = (np.load(folder / f"{name}.npy") for name in ("image", "truth"))
    graphs = {
        name: open_graph(
            (folder / f"{name}.onnx").read_bytes(), Graph(f"{name}.onnx", "float32"), device, BackendOptions()
        )
        for name in names
    }
    times: dict[str, list[float]] = {name: [] for name in names}
    difference = {}
    for turn in range(1 + repeats):
        for name, graph in graphs.items():
            start = time.perf_counter()
            answer = graph.run({"image": image})["image_embeddings"]
            if turn:
                times[name].append((time.perf_counter() - start) * 1e3)
            difference[name] = float(np.abs(answer - truth).max() / np.abs(truth).max())
    return {"ms": times, "difference": difference, "peak_memory_mb": peak_memory_mb()}


def main() -> None:
    """Measure and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device")
    parser.add_argument("repeats", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("graphs", nargs="+")
    args = parser.parse_args()
    print(json.dumps(measure(args.device, args.repeats, args.folder, args.graphs)))


if __name__ == "__main__":
    main()
