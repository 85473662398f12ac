"""Segment Anything with a ViT-B encoder and 1024-pixel input, from Meta's package.

{"do": "load", "weights": PATH or null, ...}    without a checkpoint the weights are random
"""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from protocol import serve
from sam_predictor_peer import SamPredictorPeer, about, load_weights, set_threads
from stand_ins import provide_torchvision


class SegmentAnything(SamPredictorPeer):
    """`SamPredictor` of `segment-anything`."""

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Build ViT-B."""
        import torch

        set_threads(torch, request)
        stand_in = provide_torchvision()
        from segment_anything import SamPredictor, sam_model_registry

        model = sam_model_registry["vit_b"]().eval()
        weights = load_weights(torch, model, request)
        self.torch, self.predictor = torch, SamPredictor(model)
        package = f"segment-anything {version('segment-anything')}, torch {torch.__version__}"
        return about("Segment Anything, ViT-B 1024, PyTorch", package, weights, stand_in)


if __name__ == "__main__":
    sys.exit(serve(SegmentAnything()))
