"""AutoProSAM's auto-prompt generator and decoder: what follows the image encoder.

After AutoProSAM (Lee et al., 2023), written from its description. The prompt is no point or box but a map of features,
made by a small 3-D U-Net and trained with everything else; the decoder aggregates all maps of the encoder.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from samsdk_training.models.auto_pro_sam_config import STAGES


class ConvUnit3d(nn.Sequential):
    """A 3 x 3 x 3 convolution without bias, instance norm, ReLU."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__(_conv(dim_in, dim_out), nn.InstanceNorm3d(dim_out), nn.ReLU())


class PromptUNet(nn.Module):
    """The auto-prompt generator: a map of features to another of the same shape, the prompt.

    Args:
        channels: C of the map.
        widths: Channels of the levels; each halves the sides of the one above.
    """

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.entry = nn.Sequential(_conv(channels, widths[0]), ConvUnit3d(widths[0], widths[0]))
        self.down = nn.ModuleList(_two_units(shallow, deep) for shallow, deep in pairs)
        self.pool = nn.MaxPool3d(2)
        self.up = nn.ModuleList(_two_units(shallow + deep, shallow) for shallow, deep in reversed(pairs))
        self.head = nn.Conv3d(widths[0], channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Make the prompt, [N, C, H, W, D] to the same shape."""
        x = self.entry(x)
        levels = []
        for down in self.down:
            levels.append(x)
            x = down(self.pool(x))
        for up, level in zip(self.up, reversed(levels), strict=True):
            x = up(torch.cat([level, _resized(x, level.shape[2:])], dim=1))
        prompt: Tensor = self.head(x)
        return prompt


class AggregatingDecoder(nn.Module):
    """The decoder: each map on its own to twice its sides, then all of them and the raw crop together to logits.

    Args:
        channels: C of each map.
        width: Channels in here.
        classes: K, the background included.
    """

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_two_units(channels, width) for _ in range(STAGES))
        self.merge = ConvUnit3d(STAGES * width + 1, width)
        self.classify = _conv(width, classes)

    def forward(self, maps: Sequence[Tensor], crop: Tensor) -> Tensor:
        """Decode four maps.

        Args:
            maps: Four of [N, C, H', W', D'].
            crop: [N, 1, H, W, D].

        Returns:
            Logits [N, K, H, W, D].
        """
        size = [2 * side for side in maps[0].shape[2:]]
        features = [_resized(head(one), size) for head, one in zip(self.heads, maps, strict=True)]
        raw = functional.interpolate(crop, size, mode="trilinear")
        logits: Tensor = self.classify(self.merge(torch.cat([*features, raw], dim=1)))
        return _resized(logits, crop.shape[2:])


def _conv(dim_in: int, dim_out: int) -> nn.Conv3d:
    return nn.Conv3d(dim_in, dim_out, kernel_size=3, padding=1, bias=False)


def _two_units(dim_in: int, dim_out: int) -> nn.Sequential:
    return nn.Sequential(ConvUnit3d(dim_in, dim_out), ConvUnit3d(dim_out, dim_out))


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """A volume of another size, corners on corners."""
    return functional.interpolate(x, tuple(size), mode="trilinear", align_corners=True)
