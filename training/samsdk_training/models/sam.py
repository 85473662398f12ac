"""A whole promptable model: image encoder, prompt encoder, mask decoder, and the configuration that describes it.

After Segment Anything (Kirillov et al., 2023, https://github.com/facebookresearch/segment-anything, Apache-2.0) and
LiteMedSAM (Ma et al., https://github.com/bowang-lab/MedSAM, Apache-2.0).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from samsdk_training.models.config import expect_fields, from_json, to_json
from samsdk_training.models.mask_decoder import MaskDecoder
from samsdk_training.models.prompt_encoder import PromptEncoder
from samsdk_training.models.student import StudentEncoder, StudentEncoderConfig
from samsdk_training.models.tiny_vit import TinyViT, TinyViTConfig
from samsdk_training.models.transformer import TwoWayTransformer
from samsdk_training.models.vit import VitConfig, VitEncoder, vit_config

ARCHITECTURE = "sam"
EncoderConfig = TinyViTConfig | StudentEncoderConfig | VitConfig
ImageEncoder = TinyViT | StudentEncoder | VitEncoder
# The name that a configuration bears in a checkpoint.
_ENCODERS: dict[str, type[EncoderConfig]] = {
    "tiny_vit": TinyViTConfig,
    "student": StudentEncoderConfig,
    "vit": VitConfig,
}


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of the mask decoder; the defaults are SAM's.

    Attributes:
        depth: Blocks of the two-way transformer.
        num_heads: Heads of its attentions.
        mlp_dim: Hidden width of its MLPs.
        num_multimask_outputs: Masks offered for an ambiguous prompt.
        iou_head_depth: Linear layers of the quality head.
        iou_head_hidden_dim: Hidden width of the quality head.
    """

    depth: int = 2
    num_heads: int = 8
    mlp_dim: int = 2048
    num_multimask_outputs: int = 3
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256


@dataclass(frozen=True)
class SamConfig:
    """All that is needed to build a model without its weights.

    Attributes:
        encoder: Shape of the image encoder; its `out_channels` is the width of prompt encoder and decoder too.
        decoder: Shape of the mask decoder.
        mask_channels: Hidden channels of the mask branch of the prompt encoder.
    """

    encoder: EncoderConfig = field(default_factory=TinyViTConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    mask_channels: int = 16

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON types: dictionaries, lists, strings, numbers."""
        architecture = next(name for name, kind in _ENCODERS.items() if isinstance(self.encoder, kind))
        return {
            "architecture": ARCHITECTURE,
            "encoder": {"architecture": architecture, **to_json(self.encoder)},
            "decoder": to_json(self.decoder),
            "mask_channels": self.mask_channels,
        }

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "SamConfig":
        """Rebuild a configuration from what `to_dict` returned.

        Args:
            config: The dictionary, possibly after a way through JSON.

        Raises:
            ValueError: An architecture is not known, a field is missing or unknown, or a value is of the wrong type.
        """
        values = expect_fields("model", config, {"architecture", "encoder", "decoder", "mask_channels"})
        if values["architecture"] != ARCHITECTURE:
            raise ValueError(f"model: expected the architecture {ARCHITECTURE!r}, got {values['architecture']!r}")
        encoder = values["encoder"]
        name = encoder.get("architecture") if isinstance(encoder, Mapping) else None
        if name not in _ENCODERS:
            raise ValueError(f"encoder: expected an architecture out of {', '.join(_ENCODERS)}, got {name!r}")
        channels = values["mask_channels"]
        if not isinstance(channels, int) or isinstance(channels, bool) or channels <= 0:
            raise ValueError(f"model: mask_channels: expected a positive number, got {channels!r}")
        shape = {key: value for key, value in encoder.items() if key != "architecture"}
        decoder = from_json(DecoderConfig, "decoder", values["decoder"])
        return cls(from_json(_ENCODERS[name], "encoder", shape), decoder, channels)


class Sam(nn.Module):
    """Image encoder, prompt encoder and mask decoder under the published names.

    Args:
        image_encoder: Maps [N, 3, S, S] to [N, C, E, E], and to whatever else the decoder takes of an image.
        prompt_encoder: Of the same width C, side E and input size S.
        mask_decoder: Of the same width C.
    """

    def __init__(self, image_encoder: ImageEncoder, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

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
    ) -> tuple[Tensor, Tensor]:
        """Predict all masks: the single one and those of an ambiguous prompt, or the background and each class.

        Args:
            embeddings: As in `decode`; without any prompt, as semantic models are asked, of any number of images.
            points: As in `forward`.
            boxes: As in `forward`.
            masks: As in `forward`.

        Returns:
            Logits [P, 1 + M, 4E, 4E] and predicted IoU [P, 1 + M]; without any prompt P is the number of images.
        """
        image = embeddings["image_embeddings"]
        sparse, dense = self.prompt_encoder(points, boxes, masks)
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
    return Sam(
        image_encoder=_build_encoder(encoder),
        prompt_encoder=PromptEncoder(dim, encoder.embedding_side, encoder.image_size, config.mask_channels),
        mask_decoder=build_mask_decoder(config),
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


def sam_vit_config(size: str, image_size: int = 1024) -> SamConfig:
    """Return the shape of Segment Anything: 93,735,472 parameters as `b`, 312,342,832 as `l`, 641,090,608 as `h`.

    Args:
        size: `b`, `l` or `h`.
        image_size: Side of the input in pixels, a multiple of 16; at other sides than 1024 the positions are fewer or
            more, and so are the parameters.

    Raises:
        ValueError: The size is unknown, or the side is no multiple of 16.
    """
    return SamConfig(vit_config(size, image_size))


def sam_med2d_config(adapters: str = "code") -> SamConfig:
    """Return the shape of SAM-Med2D: ViT-B with adapters, 256-pixel input, 271,241,776 parameters.

    Args:
        adapters: Where the adapters stand, see `VitConfig`.
    """
    return SamConfig(vit_config("b", 256, adapters))


def mobile_sam_config() -> SamConfig:
    """Return the shape of MobileSAM: 1024-pixel input, 64 x 64 embedding, 9,808,452 parameters."""
    return SamConfig(TinyViTConfig(image_size=1024, stem_stride=4))


def lite_medsam_config() -> SamConfig:
    """Return the shape of LiteMedSAM: 256-pixel input, 64 x 64 embedding, 9,791,300 parameters."""
    return SamConfig()


def student_config() -> SamConfig:
    """Return the shape of the student for two processor cores: 256-pixel input, 32 x 32 embedding, width 128."""
    decoder = DecoderConfig(num_heads=4, mlp_dim=512, iou_head_hidden_dim=128)
    return SamConfig(StudentEncoderConfig(), decoder)
