"""MobileSAM with 1024-pixel input, from the packaging mirror of its repository.

{"do": "load", "weights": PATH or null, ...}    without a checkpoint the weights are random
"""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from protocol import serve
from sam_predictor_peer import SamPredictorPeer, about, load_weights, set_threads
from stand_ins import provide_timm, provide_torchvision


class MobileSam(SamPredictorPeer):
    """`SamPredictor` of `mobile_sam`."""

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Build TinyViT."""
        import torch

        set_threads(torch, request)
        stand_ins = provide_torchvision(), provide_timm()
        from mobile_sam import SamPredictor, sam_model_registry

        model = sam_model_registry["vit_t"]()
        weights = load_weights(torch, model, request)
        # After the weights: `eval` gathers the attention biases from them.
        self.torch, self.predictor = torch, SamPredictor(model.eval())
        package = f"mobilesam-mirror {version('mobilesam-mirror')}, torch {torch.__version__}"
        return about("MobileSAM, PyTorch", package, weights, *stand_ins)


if __name__ == "__main__":
    sys.exit(serve(MobileSam()))
