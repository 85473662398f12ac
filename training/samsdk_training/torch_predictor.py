"""A torch model behind the runtime's interface, so that training validates by the very protocol that bundles are
measured by."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from samsdk.embedding import Embedding
from samsdk.io.images import as_array
from samsdk.masks import upsample_region
from samsdk.prompts import BACKGROUND, BOX_TOP_LEFT, FOREGROUND, PROMPT_KINDS, DecoderInputs, Prompt, encode_prompt
from samsdk.results import Result
from samsdk.transforms import Preprocessing, Window
from samsdk_training.models.sam import Sam

PROVIDER = "torch"


def model_prompt(
    feeds: DecoderInputs, device: torch.device | None = None
) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None, Tensor | None]:
    """Take the runtime's feeds apart into what `Sam.decode` takes: points with labels, boxes, masks; None if absent.

    Padding points are left out: the model appends its own.
    """
    coords = torch.from_numpy(feeds.point_coords).to(device)
    labels = torch.from_numpy(feeds.point_labels).to(device)
    clicked, cornered = (labels == BACKGROUND) | (labels == FOREGROUND), labels >= BOX_TOP_LEFT
    points = (coords[clicked][None], labels[clicked][None]) if clicked.any() else None
    boxes = coords[cornered].reshape(1, 4) if cornered.any() else None
    masks = torch.from_numpy(feeds.mask_input)[None, None].to(device) if feeds.has_mask_input else None
    return points, boxes, masks


class TorchPredictor:
    """Encode and decode with a torch model.

    Args:
        model: in evaluation mode.
        preprocessing: the checkpoint's.
        name: what results and embeddings say they come from.
    """

    def __init__(self, model: Sam, preprocessing: Preprocessing, name: str = "torch model") -> None:
        self.model = model
        self.preprocessing = preprocessing
        self.name = name

    @torch.inference_mode()
    def encode(self, image: object, *, window: Window | None = None) -> Embedding:
        """Encode one image, or a window of it; see `samsdk.Predictor.encode`."""
        square, frame = self.preprocessing.apply_image(as_array(image), window)
        device = next(self.model.parameters()).device
        tensors = self.model.encode(torch.from_numpy(square).to(device))
        return Embedding(
            {key: value.float().cpu().numpy() for key, value in tensors.items()}, frame, self.name, PROVIDER
        )

    @torch.inference_mode()
    def decode(
        self,
        embedding: Embedding,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | Result | None = None,
    ) -> Result:
        """Decode one prompt to its single mask; see `samsdk.Predictor.decode`."""
        side = self.model.prompt_encoder.mask_side
        prompt = Prompt(points, labels, box, mask)
        feeds = encode_prompt(prompt, embedding.frame, self.preprocessing, side, PROMPT_KINDS)
        device = next(self.model.parameters()).device
        points, boxes, masks = model_prompt(feeds, device)
        embeddings = {key: torch.tensor(value, device=device) for key, value in embedding.tensors.items()}
        logits, scores = self.model.decode(embeddings, points=points, boxes=boxes, masks=masks)
        low = logits[0].float().cpu().numpy()
        regions = tuple(upsample_region(np.ascontiguousarray(one), embedding.frame) for one in low)
        return Result(regions, scores[0].float().cpu().numpy(), low, embedding.frame, {}, {}, PROVIDER, self.name)
