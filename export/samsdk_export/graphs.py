"""The two graphs of a bundle as modules with the contract's inputs and outputs; control flow is settled here.

Names are those of Segment Anything's ONNX model (`segment_anything/utils/onnx.py`, Apache-2.0). Unlike it, the decoder
takes any number of prompts at once and knows no image size: upsampling happens outside.
"""

from torch import Tensor, nn

from samsdk_training.models.sam import Sam

ENCODER_INPUTS = ("image",)
PROMPT_INPUTS = ("point_coords", "point_labels", "mask_input", "has_mask_input")
DECODER_OUTPUTS = ("low_res_masks", "iou_predictions")


def embedding_names(model: Sam) -> tuple[str, ...]:
    """The encoder graph's outputs, which the decoder graph takes, in the order of the encoder."""
    return tuple(model.image_encoder.embedding_shapes)


def decoder_inputs(model: Sam) -> tuple[str, ...]:
    """The decoder graph's inputs, in the order in which `DecoderGraph.forward` takes them."""
    embedding, *skips = embedding_names(model)
    return (embedding, *PROMPT_INPUTS, *skips)


class EncoderGraph(nn.Module):
    """`image` [N, 3, S, S] to `image_embeddings` [N, C, E, E], and `high_res_features` where the model has them."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Encode images, float32, preprocessed as the manifest says."""
        embeddings: Tensor | tuple[Tensor, ...] = self.image_encoder(image)
        return embeddings


class DecoderGraph(nn.Module):
    """Prompt encoder and mask decoder: P prompts of K tokens on one image to all masks of each."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        high_res_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts.

        Args:
            image_embeddings: [1, C, E, E].
            point_coords: [P, K, 2], (x, y) in pixels of the input square.
            point_labels: [P, K] float32: 1 foreground, 0 background, 2 and 3 the corners of a box, -1 padding.
            mask_input: [P, 1, 4E, 4E] logits; ignored where `has_mask_input` is 0.
            has_mask_input: [P] float32, 1 or 0.
            high_res_features: [1, C/4, 2E, 2E] of a student, else None.

        Returns:
            `low_res_masks` [P, M, 4E, 4E] logits and `iou_predictions` [P, M]; the first of the M masks is the single
            one, the others are for ambiguous prompts.
        """
        sparse = self.prompt_encoder.embed_points(point_coords, point_labels)
        has_mask = has_mask_input.reshape(-1, 1, 1, 1)
        no_mask = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        dense = has_mask * self.prompt_encoder.mask_downscaling(mask_input) + (1 - has_mask) * no_mask
        positions = self.prompt_encoder.get_dense_pe()
        return self.mask_decoder.predict_masks(image_embeddings, positions, sparse, dense, high_res_features)
