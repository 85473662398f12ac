"""The models that segment a crop of a volume: float32 [N, 1, D, H, W] to logits [N, classes, D, H, W]."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from samsdk_training.models import auto_pro_sam_config, swin_unetr
from samsdk_training.models.auto_pro_sam import AutoProSam
from samsdk_training.models.auto_pro_sam_config import AutoProSamConfig
from samsdk_training.models.swin_unetr import SwinUnetrConfig, build_swin_unetr

VolumeConfig = AutoProSamConfig | SwinUnetrConfig
_ARCHITECTURES: dict[str, type[VolumeConfig]] = {
    auto_pro_sam_config.ARCHITECTURE: AutoProSamConfig,
    swin_unetr.ARCHITECTURE: SwinUnetrConfig,
}


def volume_config_from_dict(config: Mapping[str, Any]) -> VolumeConfig:
    """Rebuild a configuration from what its `to_dict` returned.

    Args:
        config: The dictionary, possibly after a way through JSON.

    Raises:
        ValueError: The architecture is not known, a field is missing or unknown, or a value does not fit.
    """
    name = config.get("architecture")
    if name not in _ARCHITECTURES:
        raise ValueError(f"model: expected an architecture out of {', '.join(_ARCHITECTURES)}, got {name!r}")
    return _ARCHITECTURES[name].from_dict(config)


def build_volume_model(config: VolumeConfig) -> nn.Module:
    """Build a model with random weights, in training mode.

    Args:
        config: Its shape; crops of other sides are refused, or are not what the model was made for.

    Raises:
        MissingExtraError: A SwinUNETR needs MONAI, which is not installed.
    """
    return AutoProSam(config) if isinstance(config, AutoProSamConfig) else build_swin_unetr(config)
