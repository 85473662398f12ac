"""A whole promptable model: image encoder, prompt encoder, mask decoder, and the configuration that describes it.

After Segment Anything (Kirillov et al., 2023, https://github.com/facebookresearch/segment-anything, Apache-2.0) and
LiteMedSAM (Ma et al., https://github.com/bowang-lab/MedSAM, Apache-2.0).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import Any

from torch import Tensor, nn

from samsdk_training.models.mask_decoder import MaskDecoder
from samsdk_training.models.prompt_encoder import PromptEncoder
from samsdk_training.models.student import StudentEncoder, StudentEncoderConfig
from samsdk_training.models.tiny_vit import TinyViT, TinyViTConfig
from samsdk_training.models.transformer import TwoWayTransformer

ARCHITECTURE = "sam"
EncoderConfig = TinyViTConfig | StudentEncoderConfig
ImageEncoder = TinyViT | StudentEncoder
# The name that a configuration bears in a checkpoint.
_ENCODERS: dict[str, type[EncoderConfig]] = {"tiny_vit": TinyViTConfig, "student": StudentEncoderConfig}
_PER_STAGE = {"embed_dims", "depths", "num_heads", "window_sizes", "strides", "widths"}


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
        encoder = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.encoder).items()}
        architecture = next(name for name, kind in _ENCODERS.items() if isinstance(self.encoder, kind))
        return {
            "architecture": ARCHITECTURE,
            "encoder": {"architecture": architecture, **encoder},
            "decoder": asdict(self.decoder),
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
        _expect_fields("model", config, {"architecture", "encoder", "decoder", "mask_channels"})
        _expect_architecture("model", config, ARCHITECTURE)
        encoder = config["encoder"]
        kind = _encoder_kind(encoder)
        _expect_fields("encoder", encoder, {"architecture", *(f.name for f in fields(kind))})
        _expect_fields("decoder", config["decoder"], {f.name for f in fields(DecoderConfig)})
        _expect_numbers("model", config, {"mask_channels"})
        switches = {f.name for f in fields(kind) if f.type is bool}
        _expect_numbers("encoder", encoder, set(encoder) - {"architecture"} - switches)
        if wrong := sorted(name for name in switches if not isinstance(encoder[name], bool)):
            raise ValueError(f"encoder: expected true or false for {', '.join(wrong)}")
        _expect_numbers("decoder", config["decoder"], set(config["decoder"]))
        shape: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in encoder.items()}
        del shape["architecture"]
        return cls(kind(**shape), DecoderConfig(**config["decoder"]), config["mask_channels"])


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
    encoder, decoder = config.encoder, config.decoder
    dim = encoder.out_channels
    return Sam(
        image_encoder=TinyViT(encoder) if isinstance(encoder, TinyViTConfig) else StudentEncoder(encoder),
        prompt_encoder=PromptEncoder(dim, encoder.embedding_side, encoder.image_size, config.mask_channels),
        mask_decoder=MaskDecoder(
            transformer=TwoWayTransformer(decoder.depth, dim, decoder.num_heads, decoder.mlp_dim),
            transformer_dim=dim,
            num_multimask_outputs=decoder.num_multimask_outputs,
            iou_head_depth=decoder.iou_head_depth,
            iou_head_hidden_dim=decoder.iou_head_hidden_dim,
        ),
    )


def lite_medsam_config() -> SamConfig:
    """Return the shape of LiteMedSAM: 256-pixel input, 64 x 64 embedding, 9,791,300 parameters."""
    return SamConfig()


def student_config() -> SamConfig:
    """Return the shape of the student for two processor cores: 256-pixel input, 32 x 32 embedding, width 128."""
    decoder = DecoderConfig(num_heads=4, mlp_dim=512, iou_head_hidden_dim=128)
    return SamConfig(StudentEncoderConfig(), decoder)


def _expect_fields(name: str, values: object, expected: set[str]) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{name}: expected an object, got {type(values).__name__}")
    missing, unknown = sorted(expected - set(values)), sorted(set(values) - expected)
    if missing or unknown:
        raise ValueError(f"{name}: missing fields {missing}, unknown fields {unknown}")


def _encoder_kind(encoder: object) -> type[EncoderConfig]:
    name = encoder.get("architecture") if isinstance(encoder, Mapping) else None
    if name not in _ENCODERS:
        raise ValueError(f"encoder: expected an architecture out of {', '.join(_ENCODERS)}, got {name!r}")
    return _ENCODERS[name]


def _expect_architecture(name: str, values: Mapping[str, Any], expected: str) -> None:
    if values["architecture"] != expected:
        raise ValueError(f"{name}: expected the architecture {expected!r}, got {values['architecture']!r}")


def _expect_numbers(name: str, values: Mapping[str, Any], names: set[str]) -> None:
    for field_name in sorted(names):
        value = values[field_name]
        many = name == "encoder" and field_name in _PER_STAGE
        entries = value if many and isinstance(value, list | tuple) else [value]
        kinds = int | float if field_name.endswith("_ratio") else int
        if isinstance(value, list | tuple) != many or not all(_positive(x, kinds) for x in entries):
            expected = "a list of positive numbers" if many else "a positive number"
            raise ValueError(f"{name}: {field_name}: expected {expected}, got {value!r}")


def _positive(value: object, kinds: type | UnionType) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and value > 0  # type: ignore[operator]
