"""The student's image encoder: plain 3x3 convolutions at strides 4 to 32, for processors without an accelerator.

Plain convolutions, because ONNX Runtime runs them near the machine's peak and depth-wise ones far below it. The levels
from stride 8 on are summed into the image embedding (a feature pyramid without its own pyramid: Lin et al., 2017); the
stride-4 features go to the mask decoder as a high-resolution skip (as in SAM 2: Ravi et al., 2024), so that small
objects keep their outline although the transformer works on a coarse embedding.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from samsdk_training.models.encoder import SquareEncoder


@dataclass(frozen=True)
class StudentEncoderConfig:
    """Shape of a student encoder.

    Attributes:
        image_size: side S of the square input in pixels, a multiple of 32.
        stem_channels: channels at stride 2.
        widths: channels at strides 4, 8, 16 and 32.
        depths: residual blocks at each of them.
        out_channels: channels C of the image embedding; the skip has a quarter of them.
        batch_norm: whether convolutions are followed by batch norms, as training needs them; `fold_batch_norms` makes
            a model without.

    Raises:
        ValueError: the sides or the numbers of stages do not fit.
    """

    image_size: int = 256
    stem_channels: int = 16
    widths: tuple[int, ...] = (32, 64, 128, 192)
    depths: tuple[int, ...] = (1, 1, 2, 2)
    out_channels: int = 128
    batch_norm: bool = True

    def __post_init__(self) -> None:
        if self.image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, got {self.image_size}")
        if len(self.widths) != 4 or len(self.depths) != 4:
            raise ValueError(f"widths and depths need one entry for each of the strides 4, 8, 16, 32, got {self}")
        if self.out_channels % 4:
            raise ValueError(f"out_channels must be a multiple of 4, got {self.out_channels}")

    @property
    def embedding_side(self) -> int:
        """Side E of the image embedding; it lies at stride 8."""
        return self.image_size // 8


class ConvUnit(nn.Sequential):
    """3x3 convolution, batch norm (or the convolution's bias in its place), ReLU."""

    def __init__(self, dim_in: int, dim_out: int, stride: int = 1, *, batch_norm: bool) -> None:
        super().__init__(
            nn.Conv2d(dim_in, dim_out, 3, stride, padding=1, bias=not batch_norm),
            nn.BatchNorm2d(dim_out) if batch_norm else nn.Identity(),
            nn.ReLU(),
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a residual (He et al., 2016); [N, C, H, W] to the same shape."""

    def __init__(self, dim: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = ConvUnit(dim, dim, batch_norm=batch_norm)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=not batch_norm)
        self.norm2 = nn.BatchNorm2d(dim) if batch_norm else nn.Identity()
        if isinstance(self.norm2, nn.BatchNorm2d):
            # A new block starts as the identity, which makes deep stacks train from the first step.
            nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return functional.relu(x + self.norm2(self.conv2(self.conv1(x))))


class StudentEncoder(SquareEncoder[StudentEncoderConfig]):
    """Map an image to its coarse embedding and to stride-4 features.

    Args:
        config: the shape.
    """

    def __init__(self, config: StudentEncoderConfig) -> None:
        super().__init__(config)
        dims, norm = (config.stem_channels, *config.widths), config.batch_norm
        self.stem = ConvUnit(3, config.stem_channels, stride=2, batch_norm=norm)
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvUnit(dims[i], dims[i + 1], stride=2, batch_norm=norm),
                *(ResidualBlock(dims[i + 1], batch_norm=norm) for _ in range(depth)),
            )
            for i, depth in enumerate(config.depths)
        )
        self.high_res = nn.Conv2d(config.widths[0], config.out_channels // 4, 1)
        self.lateral = nn.ModuleList(nn.Conv2d(width, config.out_channels, 1) for width in config.widths[1:])
        self.fuse = ConvUnit(config.out_channels, config.out_channels, batch_norm=norm)
        self.out = nn.Conv2d(config.out_channels, config.out_channels, 1)

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each output by name, without the batch."""
        channels, side = self.config.out_channels, self.embedding_side
        return {**super().embedding_shapes, "high_res_features": (channels // 4, 2 * side, 2 * side)}

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            image: [N, 3, S, S], preprocessed as the checkpoint says.

        Returns:
            The image embedding [N, C, E, E] and the stride-4 features [N, C/4, 2E, 2E].

        Raises:
            ValueError: the images have another size.
        """
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"expected images of side {self.image_size}, got {tuple(image.shape[-2:])}")
        x = self.stages[0](self.stem(image))
        high_res = self.high_res(x)
        levels = []
        for stage, lateral in zip(self.stages[1:], self.lateral, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        coarse = levels[-1]
        for finer in reversed(levels[:-1]):
            coarse = finer + _double(coarse)
        return self.out(self.fuse(coarse)), high_res


@torch.no_grad()
def fold_batch_norms(encoder: StudentEncoder) -> StudentEncoder:
    """The same function without batch norms: their statistics and gains go into the convolutions before them.

    Args:
        encoder: with batch norms, in evaluation mode.

    Raises:
        ValueError: the encoder has no batch norms, or is in training mode, where they have no fixed statistics.
    """
    if not encoder.config.batch_norm or encoder.training:
        raise ValueError("expected an encoder with batch norms in evaluation mode")
    folded = StudentEncoder(replace(encoder.config, batch_norm=False)).eval()
    state = encoder.state_dict()
    for name, norm in encoder.named_modules():
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        before = name.removesuffix(".1") + ".0" if name.endswith(".1") else name.replace("norm2", "conv2")
        conv = fuse_conv_bn_eval(encoder.get_submodule(before), norm)  # type: ignore[type-var]
        state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
        state |= {f"{before}.{key}": value for key, value in conv.state_dict().items()}
    folded.load_state_dict(state)
    return folded


def _double(x: Tensor) -> Tensor:
    """Nearest neighbours at twice the side, without ONNX's Resize, which not every engine builds."""
    side = x.shape[-1]
    repeated = x.unsqueeze(-1).unsqueeze(-3).expand(-1, -1, -1, 2, -1, 2)  # [N, C, H, 2, W, 2]
    return repeated.reshape(-1, x.shape[1], 2 * side, 2 * side)
