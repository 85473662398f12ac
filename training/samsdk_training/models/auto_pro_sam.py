"""AutoProSAM: Segment Anything's encoder turned to volumes, which prompts itself.

After AutoProSAM (Lee et al., 2023, https://github.com/ChengyinLee/AutoProSAM_2024, MIT), written from its description.
At ViT-B it trains 15,209,984 parameters of the encoder, 4,255,232 of the generator and, for 16 classes, 7,136,640 of
the decoder. The enlarged crop of 512 x 512 x 512 is never made (see `vit3d`).
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import Tensor, nn

from samsdk_training.models.auto_pro_sam_config import AutoProSamConfig
from samsdk_training.models.vit3d import VolumeEncoder
from samsdk_training.models.volume_prompts import AggregatingDecoder, PromptUNet

# What is the 2-D encoder's and stays as it is; its layer norms come from there too, but are trained.
_FROZEN = (
    "image_encoder.patch_embed.*",
    "image_encoder.pos_embed",
    "image_encoder.blocks.*.attn.qkv.*",
    "image_encoder.blocks.*.attn.proj.*",
    "image_encoder.blocks.*.attn.rel_pos_[hw]",
    "image_encoder.blocks.*.mlp.*",
)
_PRETRAINED = (*_FROZEN, "image_encoder.blocks.*.norm[12].*")


class AutoProSam(nn.Module):
    """Encoder, auto-prompt generator and decoder.

    Args:
        config: The shape.
    """

    def __init__(self, config: AutoProSamConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.vit.out_channels
        self.image_encoder = VolumeEncoder(config)
        self.prompt_generator = PromptUNet(channels, config.generator_widths)
        self.mask_decoder = AggregatingDecoder(channels, config.decoder_width, config.classes)

    def forward(self, crop: Tensor) -> Tensor:
        """Segment crops.

        Args:
            crop: [N, 1, D, H, W], floating point, with intensities as the checkpoint says.

        Returns:
            Logits [N, classes, D, H, W].

        Raises:
            ValueError: The crops do not have the sides that the model was built for.
        """
        if tuple(crop.shape[1:]) != (1, *self.config.crop):
            raise ValueError(f"expected crops (N, 1, {self.config.crop}), got {tuple(crop.shape)}")
        maps = self.image_encoder(crop)
        stage = self.config.apg_stage - 1
        maps[stage] = self.prompt_generator(maps[stage])
        # The encoder has the depth last.
        logits: Tensor = self.mask_decoder(maps, crop.permute(0, 1, 3, 4, 2))
        return logits.permute(0, 1, 4, 2, 3)

    def freeze(self) -> None:
        """Train all but what is the 2-D encoder's own: as published, where that one was trained on images."""
        for key, parameter in self.named_parameters():
            parameter.requires_grad_(not _is(key, _FROZEN))


def load_vit(model: AutoProSam, state: Mapping[str, Tensor]) -> None:
    """Fill in the weights of a 2-D encoder; relative positions along the depth become the mean of the two it has.

    Args:
        model: Changed in place; the new parts keep their weights.
        state: Of a `Sam` whose encoder is the model's `config.vit`, but for adapters, which stay behind as the neck
            does: the model has its own.

    Raises:
        ValueError: Tensors are missing or of other shapes.
    """
    own = model.state_dict()
    wanted = [key for key in own if _is(key, _PRETRAINED)]
    wrong = [key for key in wanted if key not in state or state[key].shape != own[key].shape]
    if wrong:
        raise ValueError(f"these tensors of the ViT are missing or of another shape: {', '.join(wrong)}")
    taken = {key: state[key] for key in wanted}
    for key in own:
        if key.endswith(".rel_pos_d"):
            name = key.removesuffix("d")
            taken[key] = (taken[f"{name}h"] + taken[f"{name}w"]) / 2
    model.load_state_dict(taken, strict=False)


def _is(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)
