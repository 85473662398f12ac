"""micro-sam's path for 2-D images with a ViT-B encoder: `precompute_image_embeddings` and `batched_inference`.

{"do": "load", "weights": PATH or null, ...}    without a checkpoint the weights are random
"""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from protocol import Decoded, Peer, Prompts, serve
from sam_predictor_peer import load_weights, set_threads
from stand_ins import provide_torchvision

# As many prompts as the harness gives at most.
BATCH = 64


class MicroSam(Peer):
    """micro-sam's functions around `SamPredictor` of segment-anything-py."""

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Build ViT-B as `get_sam_model` does once it has a checkpoint."""
        import torch

        set_threads(torch, request)
        stand_in = provide_torchvision()
        from micro_sam import inference, util
        from segment_anything import SamPredictor, sam_model_registry

        model = sam_model_registry["vit_b"]().eval()
        weights = load_weights(torch, model, request)
        self._util, self._inference = util, inference
        self._predictor = SamPredictor(model)
        self._predictor.model_type = self._predictor.model_name = "vit_b"
        excluded = ["reading the image file", "tiling, which one image of this size does not need", stand_in]
        return {
            "name": "micro-sam, ViT-B 1024, PyTorch",
            "version": f"micro-sam {version('micro-sam')}, torch {torch.__version__}",
            "weights": weights,
            "timed": "`precompute_image_embeddings`; `batched_inference` up to masks of the image's size",
            "excluded": "; ".join(filter(None, excluded)),
        }

    def encode(self, image: NDArray[Any]) -> None:
        """`precompute_image_embeddings`, kept in memory."""
        embeddings = self._util.precompute_image_embeddings(self._predictor, image, ndim=2, verbose=False)
        self._util.set_precomputed(self._predictor, embeddings)

    def decode(self, prompts: Prompts) -> Decoded:
        """`batched_inference`, all prompts in one call where they have as many points each."""
        if prompts.boxes is not None:
            return Decoded(self._infer(boxes=prompts.boxes), batched=True)
        batched = len({len(points) for points in prompts.points}) == 1
        groups = [range(len(prompts))] if batched else [range(i, i + 1) for i in range(len(prompts))]
        masks: list[NDArray[np.bool_]] = []
        for group in groups:
            points = np.stack([prompts.points[index] for index in group])
            labels = np.stack([prompts.labels[index] for index in group])
            masks.extend(self._infer(points=points, point_labels=labels))
        return Decoded(masks, batched=batched)

    def _infer(self, **prompt: Any) -> list[NDArray[np.bool_]]:
        records = self._inference.batched_inference(
            self._predictor, None, batch_size=BATCH, return_instance_segmentation=False, **prompt
        )
        return [np.asarray(record["segmentation"]) for record in records]


if __name__ == "__main__":
    sys.exit(serve(MicroSam()))
