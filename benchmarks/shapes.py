"""Student shapes: latency on the CPU backends, size, and Dice after the same short training.

    python benchmarks/shapes.py --data FOLDER --runs FOLDER [--steps 500]

Every shape is exported with random weights and timed, all shapes in turns; then each is trained for the same number of
steps on the labelled sets of training/student_plan.json, a run folder each, so that the search can be interrupted.
Dice is the validation's: a box, one point and three, with zoom. The JSON goes to benchmarks/results/, the picture of
Dice against latency to docs/shapes.png.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch

from results import ROOT, write_result
from samsdk.backends import Backend, open_graph
from samsdk.backends.options import BackendOptions
from samsdk.tiers import Graph
from samsdk_export.flops import count_flops
from samsdk_export.graphs import embedding_shapes
from samsdk_export.onnx_export import export_decoder, export_encoder, rewrites_for
from samsdk_training.loop import LoopConfig
from samsdk_training.models.sam import build_sam
from samsdk_training.models.sam_config import DecoderConfig, SamConfig
from samsdk_training.models.student import StudentEncoderConfig
from samsdk_training.recipes.student import train_student
from samsdk_training.recipes.student_plan import labelled_sets, read_plan

PLAN = ROOT / "training" / "student_plan.json"
PICTURE = ROOT / "docs" / "shapes.png"
REPEATS = 40


def shape(
    stem: int, widths: tuple[int, ...], depths: tuple[int, ...], channels: int, batch_norm: bool = True
) -> SamConfig:
    """A student's configuration."""
    encoder = StudentEncoderConfig(256, stem, widths, depths, channels, batch_norm)
    return SamConfig(encoder, DecoderConfig(num_heads=4, mlp_dim=4 * channels, iou_head_hidden_dim=128))


SHAPES = {
    "narrow": shape(16, (24, 48, 96, 160), (1, 1, 2, 2), 96),
    "first": shape(16, (32, 64, 128, 192), (1, 1, 2, 2), 128),
    "deep": shape(16, (32, 64, 128, 256), (1, 1, 3, 3), 96),
    "fine": shape(24, (48, 96, 128, 192), (2, 2, 2, 1), 96),
    "wide": shape(24, (48, 96, 192, 256), (1, 2, 3, 2), 96),
}


def engines(config: SamConfig, device: str) -> dict[str, tuple[Backend, dict[str, Any]]]:
    """Encoder and decoder of a model with random weights, as it would ship, with feeds for one point."""
    model = build_sam(replace(config, encoder=replace(config.encoder, batch_norm=False))).eval()
    rewrites = rewrites_for(model, count_flops(model)["encoder"])
    shapes = embedding_shapes(model, "ahead" in rewrites)
    embeddings = {name: np.ones((1, *size), np.float32) for name, size in shapes.items()}
    side = model.prompt_encoder.mask_side
    prompt = {
        "point_coords": np.array([[[100.0, 120.0], [0.0, 0.0]]], np.float32),
        "point_labels": np.array([[1.0, -1.0]], np.float32),
        "mask_input": np.zeros((1, 1, side, side), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }
    return {
        "encoder": (
            open_graph(export_encoder(model, rewrites), Graph("encoder.onnx", "float32"), device, BackendOptions()),
            {"image": np.ones((1, 3, 256, 256), np.float32)},
        ),
        "decoder": (
            open_graph(export_decoder(model, rewrites), Graph("decoder.onnx", "float32"), device, BackendOptions()),
            {**embeddings, **prompt},
        ),
    }


def latencies() -> dict[str, dict[str, float]]:
    """Median milliseconds of each shape's graphs on each backend; all take turns."""
    devices = ["cpu", *(["openvino"] if find_spec("openvino") else [])]
    built = {
        (name, device, part): engine
        for name, config in SHAPES.items()
        for device in devices
        for part, engine in engines(config, device).items()
    }
    times: dict[tuple[str, str, str], list[float]] = {key: [] for key in built}
    for turn in range(REPEATS + 3):
        for key, (backend, feeds) in built.items():
            start = time.perf_counter()
            backend.run(feeds)
            if turn >= 3:
                times[key].append((time.perf_counter() - start) * 1e3)
    return {
        name: {
            f"{device}_{part}_ms": round(statistics.median(times[name, device, part]), 2)
            for device in devices
            for part in ("encoder", "decoder")
        }
        for name in SHAPES
    }


def short_training(config: SamConfig, data: Path, run: Path, steps: int, leave_out: str = "-") -> dict[str, float]:
    """The validation after a short training; a run that is there already goes on, or is only read.

    Args:
        config: the student's shape.
        data: the folder of sets.
        run: the run's folder; slices of volumes are made beside it.
        steps: of the training; the rate decays to nothing within them.
        leave_out: sets whose name starts with this do not teach.
    """
    plan = read_plan(PLAN)
    stage = plan.stages[0]
    loop = LoopConfig(
        steps=steps,
        learning_rate=stage.recipe.loop.learning_rate,
        warmup_steps=min(100, steps // 10),
        precision=stage.recipe.loop.precision,
        weight_decay=stage.recipe.loop.weight_decay,
        ema_decay=0.98,
        validate_every=steps,
        save_every=50,
    )
    plan = replace(plan, sets={name: one for name, one in plan.sets.items() if not name.startswith(leave_out)})
    sets = list(labelled_sets(plan, data, run.parent / "data"))
    validation = [data / one for one in plan.validation]
    recipe = replace(stage.recipe, loop=loop, model=config)
    train_student(recipe, sets, validation, run, licence=plan.licence)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row["validation"] for row in map(json.loads, lines) if "validation" in row]
    return {name: round(value, 4) for name, value in rows[-1].items()}


def draw(rows: dict[str, dict[str, float]], steps: int) -> None:
    """Dice against the milliseconds of an image with one prompt, a curve for each kind of prompt and backend."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    prompts = {"dice_box": ("tight box", "o"), "dice_point1": ("1 point", "^"), "dice_point3": ("3 points", "s")}
    for colour, device in zip(("tab:blue", "tab:orange"), ("cpu", "openvino"), strict=True):
        if f"{device}_encoder_ms" not in next(iter(rows.values())):
            continue
        at = {name: row[f"{device}_encoder_ms"] + row[f"{device}_decoder_ms"] for name, row in rows.items()}
        order = sorted(at, key=at.__getitem__)
        for key, (label, marker) in prompts.items():
            title = f"{label}, {'ONNX Runtime' if device == 'cpu' else 'OpenVINO'}"
            dice = [rows[name][key] for name in order]
            axes.plot([at[name] for name in order], dice, marker=marker, color=colour, alpha=0.8, label=title)
        # Above for one backend and below for the other, which may take the same time.
        place = {"xytext": (0, 6 if device == "cpu" else -14), "textcoords": "offset points", "ha": "center"}
        for name in order:
            axes.annotate(name, (at[name], rows[name]["dice_box"]), color=colour, **place)
    axes.set_xlabel("encode + decode, ms")
    axes.set_ylabel(f"mean validation Dice after {steps} steps")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)


def main() -> None:
    """Time, train, write the JSON, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    rows = latencies()
    for name, config in SHAPES.items():
        with torch.device("meta"):
            parameters = sum(one.numel() for one in build_sam(config).parameters())
        rows[name] |= {"parameters": parameters, "half_mb": round(parameters * 2 / 1e6, 1)}
        print(name, rows[name], file=sys.stderr)
    for name in SHAPES:
        rows[name] |= short_training(SHAPES[name], args.data, args.runs / name, args.steps)
        print(name, rows[name], file=sys.stderr)
    draw(rows, args.steps)
    print(write_result("shapes", {"steps": args.steps, "shapes": rows}))


if __name__ == "__main__":
    main()
