"""What lower precision is worth: milliseconds and change of Dice of each tier, and of what was tried beside them.

    python benchmarks/precision.py BUNDLE --checkpoint CHECKPOINT --data FOLDER [--repeats 9] [--images 3]

The bundle must have been exported with its tiers, from the checkpoint. Beside them stand the plain export of the
checkpoint, all layers in bfloat16 at once, and the encoder in int8 by ONNX Runtime's quantiser (QDQ, weights by
channel, calibrated on the same images). All take turns. Dice is that of the first images of every set with 2-D labels,
against the plain export in ONNX Runtime, for a tight box and for one point. The JSON goes to benchmarks/results/.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import skimage.data
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from results import ROOT, write_result
from samsdk import hub
from samsdk.bundle import MANIFEST, Bundle
from samsdk.predictor import Predictor
from samsdk.tiers import Graph, Plan
from samsdk_export.calibration import CalibrationSets, dice_change
from samsdk_export.manifest_writer import file_entry, plan_entry
from samsdk_export.onnx_export import export_decoder, export_encoder
from samsdk_export.precision import PARTS, list_layers, lowered_plan, trial
from samsdk_training.checkpoints import load_checkpoint
from samsdk_training.importers import import_weights
from samsdk_training.models.sam import Sam

INT8 = "encoder.int8.onnx"
BOX = (250, 302, 384, 510)
PLAIN = ("encoder.plain.onnx", "decoder.plain.onnx")
FULL = "plain export, onnxruntime"


class Images(CalibrationDataReader):  # type: ignore[misc]
    """Prepared images for the quantiser, one at a time."""

    def __init__(self, squares: list[NDArray[np.float32]]) -> None:
        self._squares = iter(squares)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next image's feeds."""
        square = next(self._squares, None)
        return None if square is None else {"image": square}


def quantise(bundle: Bundle, plan: Plan, sets: CalibrationSets, target: Path) -> None:
    """Write the encoder in int8."""
    apply = bundle.manifest.preprocessing.apply_image
    squares = [apply(sets.read(folder)[0].image)[0] for folder in sets.folders]
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # The quantiser looks for weights in 32 bits, which slim graphs hold in 16 and convert: that is folded first.
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(prepared)
        onnxruntime.InferenceSession(bundle.read(plan.encoder.file), options, providers=["CPUExecutionProvider"])
        # Unsigned activations and signed weights are what AVX-512 VNNI multiplies.
        quantize_static(
            prepared,
            target,
            Images(squares),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def with_trials(bundle: Bundle, plan: Plan, sets: CalibrationSets, model: Sam, folder: Path) -> Bundle:
    """A copy of the bundle with the tiers `plain` and `int8`."""
    shutil.copytree(bundle.path, folder)
    quantise(bundle, plan, sets, folder / INT8)
    (folder / PLAIN[0]).write_bytes(export_encoder(model, ()))
    (folder / PLAIN[1]).write_bytes(export_decoder(model, ()))
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"] |= {name: file_entry(folder / name) for name in (INT8, *PLAIN)}
    engines = ("onnxruntime", "openvino")
    plain = Plan(Graph(PLAIN[0], "float32"), Graph(PLAIN[1], "float32"), engines)
    int8 = replace(plan, encoder=Graph(INT8, "int8"), engines=engines)
    manifest["tiers"] |= {"plain": [plan_entry(plain)], "int8": [plan_entry(int8)]}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.open(folder)


def variants(bundle: Bundle, sets: CalibrationSets, model: Sam, folder: Path) -> Iterator[tuple[str, Predictor, float]]:
    """Name, predictor and share of lowered multiplications of each variant."""
    plan = bundle.manifest.plan("exact", "openvino")
    copy = with_trials(bundle, bundle.manifest.plan("exact", "onnxruntime-cpu"), sets, model, folder)
    yield FULL, Predictor(copy, device="cpu", tier="plain", uncertified="onnxruntime-cpu"), 0.0
    yield "exact, onnxruntime", Predictor(bundle, device="cpu"), 0.0
    yield "exact, openvino", Predictor(bundle, device="openvino"), 0.0
    layers = {part: {name: macs for name, _, macs in list_layers(bundle, plan, part)} for part in PARTS}

    def share(lowered: Plan) -> float:
        names = {"encoder": lowered.encoder.lowered, "decoder": lowered.decoder.lowered}
        parts = [sum(layers[part][name] for name in names[part]) / sum(layers[part].values()) for part in PARTS]
        return round(statistics.mean(parts), 3)

    for tier in ("balanced", "fast"):
        if tier in bundle.manifest.tiers:
            found = Predictor(bundle, device="openvino", tier=tier)
            yield f"{tier}, openvino", found, share(found.engines.plan)
    everything = lowered_plan(plan, {part: list(layers[part]) for part in PARTS})
    yield "all bfloat16, openvino", trial(bundle, everything), 1.0
    for device, backend in (("cpu", "onnxruntime-cpu"), ("openvino", "openvino")):
        name = f"int8 encoder, {backend.split('-')[0]}"
        yield name, Predictor(copy, device=device, tier="int8", uncertified=backend), 0.5


def latencies(found: dict[str, Predictor], repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of encoder and of a box's decode, and the ratios to the plain export's."""
    image = skimage.data.immunohistochemistry()
    encode: dict[str, list[float]] = {name: [] for name in found}
    decode: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(repeats + 1):
        for name, predictor in found.items():
            start = time.perf_counter()
            embedding = predictor.encode(image)
            middle = time.perf_counter()
            predictor.decode(embedding, box=BOX)
            if turn:
                encode[name].append((middle - start) * 1e3)
                decode[name].append((time.perf_counter() - middle) * 1e3)
    return {
        name: {
            "encode_ms": round(statistics.median(encode[name]), 2),
            "decode_ms": round(statistics.median(decode[name]), 2),
            "encode_over_full": round(
                statistics.median(a / b for a, b in zip(encode[name], encode[FULL], strict=True)), 3
            ),
            "decode_over_full": round(
                statistics.median(a / b for a, b in zip(decode[name], decode[FULL], strict=True)), 3
            ),
        }
        for name in found
    }


def worst(change: dict[str, dict[str, float]], kind: str) -> dict[str, Any]:
    """The mean change over sets, and the largest with its set."""
    values = {name: row[kind] for name, row in change.items()}
    name = max(values, key=lambda one: abs(values[one]))
    return {"mean": round(statistics.mean(values.values()), 5), "largest": round(values[name], 5), "set": name}


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="folder; LiteMedSAM's published weights when left out")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--images", type=int, default=3)
    args = parser.parse_args()
    folders = sorted(one.parent for one in args.data.glob("*/masks") if any(one.glob("*.png")))
    sets = CalibrationSets(tuple(folders), args.images)
    bundle = Bundle.open(args.bundle)
    weights = hub.weights_path("lite-medsam")
    checkpoint = load_checkpoint(args.checkpoint) if args.checkpoint else import_weights(weights, "lite-medsam")
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = {}
        for name, predictor, share in variants(bundle, sets, checkpoint.build(), Path(scratch) / "copy"):
            found[name], rows[name] = predictor, {"lowered_share": share}
        for name, times in latencies(found, args.repeats).items():
            rows[name] |= times
        reference = sets.dice(found[FULL], ("box", "points"))
        for name, predictor in found.items():
            dice = reference if name == FULL else sets.dice(predictor, ("box", "points"))
            change = dice_change(dice, reference)
            rows[name] |= {kind: worst(change, kind) for kind in ("box", "points")} | {"change": change}
            print(name, {key: value for key, value in rows[name].items() if key != "change"}, file=sys.stderr)
    numbers = {"model": bundle.manifest.name, "images_a_set": args.images, "reference": reference, "rows": rows}
    print(write_result(f"precision-{bundle.manifest.name}", numbers).relative_to(ROOT))


if __name__ == "__main__":
    main()
