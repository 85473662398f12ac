"""Graphs of the kind that osam downloads as `sam:100m`, made of random weights: ViT-B 1024, dynamically quantised.

    python export_sam_vit_b.py FOLDER

The graphs lie where osam looks for a model's files, under FOLDER as the home folder; `osam.json` names their hashes.
Latency does not depend on the weights; nothing can be said of accuracy.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from stand_ins import provide_torchvision

OPSET = 17
SIDE = 1024


def main() -> None:
    """Write the graphs."""
    folder = Path(sys.argv[1])
    blobs = folder / ".cache" / "osam" / "models" / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    provide_torchvision()
    from segment_anything import sam_model_registry
    from segment_anything.utils.onnx import SamOnnxModel

    torch.manual_seed(0)
    model = sam_model_registry["vit_b"]().eval()
    decoder = {
        "image_embeddings": torch.randn(1, 256, 64, 64),
        "point_coords": torch.randint(0, SIDE, (1, 5, 2)).float(),
        "point_labels": torch.randint(0, 4, (1, 5)).float(),
        "mask_input": torch.randn(1, 1, 256, 256),
        "has_mask_input": torch.ones(1),
        "orig_im_size": torch.tensor([1500.0, 2250.0]),
    }
    axes = {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}}
    outputs = ["masks", "iou_predictions", "low_res_masks"]
    graph = SamOnnxModel(model, return_single_mask=True)
    hashes = {
        "encoder": export(model.image_encoder, {"x": torch.rand(1, 3, SIDE, SIDE)}, ["image_embeddings"], blobs),
        "decoder": export(graph, decoder, outputs, blobs, axes),
    }
    (folder / "osam.json").write_text(json.dumps(hashes), encoding="utf-8")


def export(
    graph: Any, example: dict[str, Any], outputs: list[str], blobs: Path, axes: dict[str, Any] | None = None
) -> str:
    """Trace and quantise one graph as the official script does; gives the hash that names it."""
    plain, quantised = blobs / "plain.onnx", blobs / "quantised.onnx"
    with torch.no_grad():
        torch.onnx.export(
            graph,
            tuple(example.values()),
            str(plain),
            opset_version=OPSET,
            do_constant_folding=True,
            input_names=list(example),
            output_names=outputs,
            dynamic_axes=axes,
            dynamo=False,
        )
    quantize_dynamic(plain, quantised, per_channel=False, reduce_range=False, weight_type=QuantType.QUInt8)
    plain.unlink()
    digest = hashlib.sha256(quantised.read_bytes()).hexdigest()
    quantised.replace(blobs / f"sha256-{digest}")
    return f"sha256:{digest}"


if __name__ == "__main__":
    main()
