"""The configuration that describes a whole promptable model, and the shapes of the published ones."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from samsdk_training.models.auto_prompt import AutoPromptConfig
from samsdk_training.models.config import expect_fields, from_json, to_json
from samsdk_training.models.student import StudentEncoderConfig
from samsdk_training.models.tiny_vit import TinyViTConfig
from samsdk_training.models.vit import VitConfig, vit_config

ARCHITECTURE = "sam"
EncoderConfig = TinyViTConfig | StudentEncoderConfig | VitConfig
# Fields of a model that came after the first checkpoints.
_LATER = ("auto_prompt", "point_classes")
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
        auto_prompt: Shape of the generator of a model that prompts itself; None where there is none.
        point_classes: How many classes a point can name, in models that are trained with such points; 0 for none.

    Raises:
        ValueError: The generator takes images of another side than the encoder.
    """

    encoder: EncoderConfig = field(default_factory=TinyViTConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    mask_channels: int = 16
    auto_prompt: AutoPromptConfig | None = None
    point_classes: int = 0

    def __post_init__(self) -> None:
        generator = self.auto_prompt
        if generator is not None and generator.image_size != self.encoder.image_size:
            raise ValueError(
                f"auto_prompt: expected the encoder's image_size {self.encoder.image_size}, got {generator.image_size}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON types: dictionaries, lists, strings, numbers."""
        architecture = next(name for name, kind in _ENCODERS.items() if isinstance(self.encoder, kind))
        # What most models lack is named only where it is there, as in the checkpoints that came before it.
        later = {"auto_prompt": self.auto_prompt and asdict(self.auto_prompt), "point_classes": self.point_classes}
        return {
            "architecture": ARCHITECTURE,
            "encoder": {"architecture": architecture, **to_json(self.encoder)},
            "decoder": to_json(self.decoder),
            "mask_channels": self.mask_channels,
            **{name: value for name, value in later.items() if value},
        }

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "SamConfig":
        """Rebuild a configuration from what `to_dict` returned.

        Args:
            config: The dictionary, possibly after a way through JSON.

        Raises:
            ValueError: An architecture is not known, a field is missing or unknown, or a value is of the wrong type.
        """
        names = {"architecture", "encoder", "decoder", "mask_channels", *_LATER}
        values = expect_fields("model", config, names, set(_LATER))
        if values["architecture"] != ARCHITECTURE:
            raise ValueError(f"model: expected the architecture {ARCHITECTURE!r}, got {values['architecture']!r}")
        encoder = values["encoder"]
        name = encoder.get("architecture") if isinstance(encoder, Mapping) else None
        if name not in _ENCODERS:
            raise ValueError(f"encoder: expected an architecture out of {', '.join(_ENCODERS)}, got {name!r}")
        channels, classes = values["mask_channels"], values.get("point_classes", 0)
        for key, number, least in (("mask_channels", channels, 1), ("point_classes", classes, 0)):
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise ValueError(f"model: {key}: expected a whole number of at least {least}, got {number!r}")
        shape = {key: value for key, value in encoder.items() if key != "architecture"}
        decoder = from_json(DecoderConfig, "decoder", values["decoder"])
        given = values.get("auto_prompt")
        generator = None if given is None else from_json(AutoPromptConfig, "auto_prompt", given)
        return cls(from_json(_ENCODERS[name], "encoder", shape), decoder, channels, generator, classes)


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
