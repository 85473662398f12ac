"""The two graphs of a bundle as modules with the contract's inputs and outputs; control flow is settled here.

Names are those of Segment Anything's ONNX model (`segment_anything/utils/onnx.py`, Apache-2.0). Unlike it, the decoder
takes any number of prompts at once and knows no image size: upsampling happens outside.
"""

from torch import Tensor, nn

from samsdk_export.ahead import PROJECTIONS, ImageProjections, first_block
from samsdk_export.attention import rewrite_attention
from samsdk_training.models.sam import Sam
from samsdk_training.models.vit import VitEncoder

ENCODER_INPUTS = ("image",)
PROMPT_INPUTS = ("point_coords", "point_labels", "mask_input", "has_mask_input")
DECODER_OUTPUTS = ("low_res_masks", "iou_predictions")


def embedding_shapes(model: Sam, ahead: bool) -> dict[str, tuple[int, ...]]:
    """Shapes without the batch axis of the encoder graph's outputs, which the decoder graph takes, in their order.

    Args:
        model: the model.
        ahead: whether the encoder's graph makes the first block's projections too (see `ahead`).
    """
    embedding, *skips = model.image_encoder.embedding_shapes.items()
    if not ahead:
        return dict([embedding, *skips])
    channels = first_block(model).cross_attn_token_to_image.k_proj.out_features
    side = model.embedding_side
    return dict([embedding, *((name, (channels, side, side)) for name in PROJECTIONS), *skips])


def decoder_inputs(model: Sam, ahead: bool) -> tuple[str, ...]:
    """The decoder graph's inputs, in the order in which its `forward` takes them."""
    embedding, *others = embedding_shapes(model, ahead)
    return (embedding, *PROMPT_INPUTS, *others)


class EncoderGraph(nn.Module):
    """`image` [N, 3, S, S] to what `embedding_shapes` lists.

    Args:
        model: the model.
        ahead: as for `embedding_shapes`.
        attention: how a ViT's attentions are rewritten, see `attention.ATTENTIONS`; other encoders have none of those.
    """

    def __init__(self, model: Sam, ahead: bool, attention: str | None = None) -> None:
        super().__init__()
        encoder = model.image_encoder
        if attention is not None and isinstance(encoder, VitEncoder):
            encoder = rewrite_attention(encoder, attention)
        self.image_encoder = encoder
        self.projections = ImageProjections(model) if ahead else None

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Encode images, float32, preprocessed as the manifest says."""
        outputs: Tensor | tuple[Tensor, ...] = self.image_encoder(image)
        if self.projections is None:
            return outputs
        embedding, *skips = (outputs,) if isinstance(outputs, Tensor) else outputs
        return (embedding, *self.projections(embedding), *skips)


class DecoderGraph(nn.Module):
    """Prompt encoder and mask decoder as trained: P prompts of K tokens on one image to all masks of each."""

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
        *others: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts.

        Args:
            image_embeddings: [1, C, E, E].
            point_coords: [P, K, 2], (x, y) in pixels of the input square.
            point_labels: [P, K] float32: 1 foreground, 0 background, 2 and 3 the corners of a box, -1 padding.
            mask_input: [P, 1, 4E, 4E] logits; ignored where `has_mask_input` is 0.
            has_mask_input: [P] float32, 1 or 0.
            others: `high_res_features`, [1, C/4, 2E, 2E], of a student, else none.

        Returns:
            `low_res_masks` [P, M, 4E, 4E] logits and `iou_predictions` [P, M]; the first of the M masks is the single
            one, the others are for ambiguous prompts.
        """
        sparse = self.prompt_encoder.embed_points(point_coords, point_labels)
        has_mask = has_mask_input.reshape(-1, 1, 1, 1)
        no_mask = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        dense = has_mask * self.prompt_encoder.mask_downscaling(mask_input) + (1 - has_mask) * no_mask
        positions = self.prompt_encoder.get_dense_pe()
        return self.mask_decoder.predict_masks(image_embeddings, positions, sparse, dense, *others)
