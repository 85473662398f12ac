"""The auto-prompt generator of Segment Any Cell: a U-Net that says where in the image the objects are.

After the published description of Segment Any Cell (Na et al., 2024): a U-Net on the image itself, trained with binary
cross entropy (`losses.cross_entropy_loss`); points are picked from its map by `samsdk.point_selection`. What is not
published, width, depth and input size, are fields here. The U-Net is that of Ronneberger et al., 2015, with padded
convolutions and batch norms.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samsdk_training.models.student import ConvUnit


@dataclass(frozen=True)
class AutoPromptConfig:
    """Shape of a generator; 31,037,633 parameters with 64 channels, 7,763,041 with 32, 1,942,577 with 16.

    Attributes:
        image_size: side S of the square input in pixels, a multiple of 2 to the power of `depth`. The image encoder's
            own side spares a second preprocessing.
        base_channels: channels at full resolution; they double at each level below.
        depth: levels below full resolution.

    Raises:
        ValueError: the side does not fit the depth.
    """

    image_size: int = 512
    base_channels: int = 32
    depth: int = 4

    def __post_init__(self) -> None:
        if self.image_size % 2**self.depth:
            raise ValueError(
                f"image_size must be a multiple of {2**self.depth} for a depth of {self.depth}, got {self.image_size}"
            )


class AutoPromptGenerator(nn.Module):
    """Map an image to the logits of foreground, pixel by pixel.

    Args:
        config: the shape.
    """

    def __init__(self, config: AutoPromptConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.base_channels * 2**level for level in range(config.depth + 1)]
        self.down = nn.ModuleList(_two_units(*dims) for dims in zip((3, *widths), widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        above = list(zip(widths[1:], widths, strict=False))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, 2) for deep, shallow in above)
        self.merge = nn.ModuleList(_two_units(2 * shallow, shallow) for _, shallow in above)
        self.head = nn.Conv2d(config.base_channels, 1, 1)

    @property
    def image_size(self) -> int:
        """Side S of the input in pixels."""
        return self.config.image_size

    def forward(self, image: Tensor) -> Tensor:
        """Find foreground.

        Args:
            image: [N, 3, S, S], preprocessed as the checkpoint says.

        Returns:
            Logits [N, 1, S, S].

        Raises:
            ValueError: the images have another size.
        """
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"expected images of side {self.image_size}, got {tuple(image.shape[-2:])}")
        first, *others = self.down
        x = first(image)
        levels = []
        for down in others:
            levels.append(x)
            x = down(self.pool(x))
        for up, merge, level in zip(self.up, self.merge, reversed(levels), strict=True):
            x = merge(torch.cat([level, up(x)], dim=1))
        logits: Tensor = self.head(x)
        return logits


def _two_units(dim_in: int, dim_out: int) -> nn.Sequential:
    return nn.Sequential(
        ConvUnit(dim_in, dim_out, batch_norm=True),
        ConvUnit(dim_out, dim_out, batch_norm=True),
    )
