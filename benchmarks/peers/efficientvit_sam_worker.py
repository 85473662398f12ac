"""EfficientViT-SAM-L0 with 512-pixel input, from the package `efficientsam`, which carries its code.

{"do": "load", "weights": PATH or null, ...}    without a checkpoint the weights are random
"""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from protocol import serve
from sam_predictor_peer import SamPredictorPeer, about, load_weights, set_threads
from stand_ins import provide_torchvision


class EfficientVitSam(SamPredictorPeer):
    """`EfficientViTSamPredictor`."""

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Build L0 with its norms' published epsilon."""
        import torch

        set_threads(torch, request)
        stand_in = provide_torchvision()
        from efficientsam.models.efficientvit.sam import EfficientViTSamPredictor
        from efficientsam.sam_model_zoo import create_efficientvit_sam_model

        model = create_efficientvit_sam_model("efficientvit-sam-l0", pretrained=False).eval()
        weights = load_weights(torch, model, request)
        self.torch, self.predictor = torch, EfficientViTSamPredictor(model)
        package = f"efficientsam {version('efficientsam')}, torch {torch.__version__}"
        return about("EfficientViT-SAM-L0, PyTorch", package, weights, stand_in)


if __name__ == "__main__":
    sys.exit(serve(EfficientVitSam()))
