"""A whole promptable model: image encoder, prompt encoder and mask decoder.

After Segment Anything (Kirillov et al., 2023, https://github.com/facebookresearch/segment-anything, Apache-2.0) and
LiteMedSAM (Ma et al., https://github.com/bowang-lab/MedSAM, Apache-2.0).
"""

from collections.abc import Mapping

from torch import Tensor, nn

from samsdk_training.models.auto_prompt import AutoPromptGenerator
from samsdk_training.models.mask_decoder import MaskDecoder
from samsdk_training.models.prompt_encoder import PromptEncoder
from samsdk_training.models.sam_config import EncoderConfig, SamConfig
from samsdk_training.models.student import StudentEncoder
from samsdk_training.models.tiny_vit import TinyViT, TinyViTConfig
from samsdk_training.models.transformer import TwoWayTransformer
from samsdk_training.models.vit import VitConfig, VitEncoder

ImageEncoder = TinyViT | StudentEncoder | VitEncoder


class Sam(nn.Module):
    """Image encoder, prompt encoder and mask decoder under the published names.

    Args:
        image_encoder: Maps [N, 3, S, S] to [N, C, E, E], and to whatever else the decoder takes of an image.
        prompt_encoder: Of the same width C, side E and input size S.
        mask_decoder: Of the same width C.
        auto_prompt_generator: Of the same input size S; None in a model that does not prompt itself.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        auto_prompt_generator: AutoPromptGenerator | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.auto_prompt_generator = auto_prompt_generator

    @property
    def image_size(self) -> int:
        """Side S of the input in pixels."""
        return self.image_encoder.image_size

    @property
    def embedding_side(self) -> int:
        """Side E of the image embedding."""
        return self.image_encoder.embedding_side

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """Encode images into all that decoding takes of them, by name.

        Args:
            image: [N, 3, S, S], floating point, normalised as the checkpoint says.

        Returns:
            `image_embeddings` [N, C, E, E] and, from a student, `high_res_features` [N, C/4, 2E, 2E].
        """
        outputs = self.image_encoder(image)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return dict(zip(self.image_encoder.embedding_shapes, outputs, strict=True))

    def decode(
        self,
        embeddings: Mapping[str, Tensor],
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask_output: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Segment what P prompts mean in an image that was encoded.

        Args:
            embeddings: What `encode` returned, of one image for all prompts or of P images, one each.
            points: As in `forward`.
            boxes: As in `forward`.
            masks: As in `forward`.
            multimask_output: As in `forward`.

        Returns:
            As `forward`.
        """
        sparse, dense = self.prompt_encoder(points, boxes, masks)
        positions = self.prompt_encoder.get_dense_pe()
        logits, scores = self.mask_decoder(
            embeddings["image_embeddings"],
            positions,
            sparse,
            dense,
            multimask_output,
            embeddings.get("high_res_features"),
        )
        return logits, scores

    def decode_all(
        self,
        embeddings: Mapping[str, Tensor],
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        class_points: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict all masks: the single one and those of an ambiguous prompt, or the background and each class.

        Args:
            embeddings: As in `decode`; without any prompt, as semantic models are asked, of any number of images.
            points: As in `forward`.
            boxes: As in `forward`.
            masks: As in `forward`.
            class_points: Instead of the others: see `PromptEncoder.embed_class_points`.

        Returns:
            Logits [P, 1 + M, 4E, 4E] and predicted IoU [P, 1 + M]; without any prompt P is the number of images.
        """
        image = embeddings["image_embeddings"]
        sparse, dense = self.prompt_encoder(points, boxes, masks)
        if class_points is not None:
            sparse = self.prompt_encoder.embed_class_points(*class_points)
        count = max(len(image), len(sparse))
        return self.mask_decoder.predict_masks(
            image,
            self.prompt_encoder.get_dense_pe(),
            sparse.expand(count, -1, -1),
            dense.expand(count, -1, -1, -1),
            embeddings.get("high_res_features"),
        )

    def forward(
        self,
        image: Tensor,
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask_output: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Segment what P prompts mean.

        Args:
            image: [1, 3, S, S] for all prompts, or [P, 3, S, S], one each; floating point, normalised as the checkpoint
                says.
            points: Coordinates [P, K, 2] as (x, y) in pixels of the S x S input, and labels [P, K] (1 foreground,
                0 background, -1 padding).
            boxes: [P, 4] as (x0, y0, x1, y1) in pixels of the S x S input.
            masks: Mask prompts [P, 1, 4E, 4E].
            multimask_output: Whether to return the masks of an ambiguous prompt instead of the single one.

        Returns:
            Logits [P, M, 4E, 4E] (foreground above 0) and predicted IoU [P, M].
        """
        embeddings = self.encode(image)
        return self.decode(embeddings, points=points, boxes=boxes, masks=masks, multimask_output=multimask_output)


def build_sam(config: SamConfig) -> Sam:
    """Build a model with new random weights, in training mode.

    Args:
        config: Its shape.
    """
    encoder = config.encoder
    dim = encoder.out_channels
    generator = None if config.auto_prompt is None else AutoPromptGenerator(config.auto_prompt)
    return Sam(
        image_encoder=_build_encoder(encoder),
        prompt_encoder=PromptEncoder(
            dim, encoder.embedding_side, encoder.image_size, config.mask_channels, config.point_classes
        ),
        mask_decoder=build_mask_decoder(config),
        auto_prompt_generator=generator,
    )


def build_mask_decoder(config: SamConfig) -> MaskDecoder:
    """Build the mask decoder of a model alone, with new random weights, in training mode."""
    decoder, dim = config.decoder, config.encoder.out_channels
    return MaskDecoder(
        transformer=TwoWayTransformer(decoder.depth, dim, decoder.num_heads, decoder.mlp_dim),
        transformer_dim=dim,
        num_multimask_outputs=decoder.num_multimask_outputs,
        iou_head_depth=decoder.iou_head_depth,
        iou_head_hidden_dim=decoder.iou_head_hidden_dim,
    )


def _build_encoder(config: EncoderConfig) -> ImageEncoder:
    if isinstance(config, VitConfig):
        return VitEncoder(config)
    return TinyViT(config) if isinstance(config, TinyViTConfig) else StudentEncoder(config)
