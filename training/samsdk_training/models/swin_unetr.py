"""SwinUNETR, the network for volumes that a processor can run: what AutoProSAM is distilled to.

After Hatamizadeh et al., 2022; the network is MONAI's (`monai.networks.nets.SwinUNETR`), state-dict keys included. It
takes the crop as it is, one channel; 4.1 million parameters with a feature size of 12 (tiny), 15.7 with 24 (small).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from samsdk.errors import MissingExtraError
from samsdk_training.models.config import from_json, to_json

ARCHITECTURE = "swin_unetr"
# Five halvings: one token to a patch of 2 voxels, then four mergings.
STRIDE = 32


@dataclass(frozen=True)
class SwinUnetrConfig:
    """Shape of a SwinUNETR.

    Attributes:
        crop: (D, H, W) of the input in voxels, multiples of 32.
        classes: what it tells apart, the background included.
        feature_size: channels at full resolution, a multiple of 12: 12 is the published tiny, 24 small, 48 base.

    Raises:
        ValueError: The numbers do not fit together.
    """

    crop: tuple[int, ...] = (96, 96, 96)
    classes: int = 14
    feature_size: int = 24

    def __post_init__(self) -> None:
        cells = math.prod(side // STRIDE for side in self.crop)
        # Instance norm has no variance to divide by where the deepest map is one voxel.
        if len(self.crop) != 3 or any(side % STRIDE for side in self.crop) or cells < 2:
            raise ValueError(
                f"crop must be three multiples of {STRIDE}, not all of them {STRIDE} itself, got {list(self.crop)}"
            )
        if self.classes < 2:
            raise ValueError(f"classes must be at least 2, the background being one, got {self.classes}")
        if self.feature_size % 12:
            raise ValueError(f"feature_size must be a multiple of 12, got {self.feature_size}")

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON types."""
        return {"architecture": ARCHITECTURE, **to_json(self)}

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "SwinUnetrConfig":
        """Rebuild a configuration from what `to_dict` returned.

        Raises:
            ValueError: A field is missing or unknown, or a value does not fit.
        """
        return from_json(cls, "model", {key: value for key, value in config.items() if key != "architecture"})


def build_swin_unetr(config: SwinUnetrConfig) -> nn.Module:
    """Build the network with random weights: float32 [N, 1, D, H, W] to logits [N, classes, D, H, W].

    Args:
        config: The shape.

    Raises:
        MissingExtraError: MONAI, or einops which its network needs, is not installed.
    """
    # Whoever builds or reads other models is spared the seconds that the import of MONAI takes.
    try:
        import einops  # noqa: F401
        from monai.networks.nets.swin_unetr import SwinUNETR
    except ImportError as error:
        raise MissingExtraError(f"SwinUNETR needs {error.name}: pip install 'samsdk[train]'") from error
    # MONAI reads numbers out of tensors as it builds, and those of the meta device hold none.
    device = torch.get_default_device()
    with torch.device("cpu"):
        network = SwinUNETR(in_channels=1, out_channels=config.classes, feature_size=config.feature_size)
    moved: nn.Module = network.to(device)
    return moved
