"""TinyViT as an image encoder, in the layouts of LiteMedSAM and MobileSAM.

TinyViT: Wu et al., 2022, https://github.com/microsoft/Cream (MIT); as an encoder for SAM: Zhang et al., MobileSAM, 2023
(Apache-2.0); without a strided stem and with 256-pixel input: Ma et al., LiteMedSAM, https://github.com/bowang-lab/MedSAM
(Apache-2.0). The state-dict keys are those of the published weights.
"""

import itertools
import math
import operator
from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from samsdk_kernels.attention import Implementation, constant_bias_attention
from samsdk_kernels.reference import attention
from samsdk_training.models.adapters import ADAPTERS, Adapter
from samsdk_training.models.config import OPTIONAL
from samsdk_training.models.encoder import SquareEncoder, build_neck


@dataclass(frozen=True)
class TinyViTConfig:
    """Shape of a TinyViT encoder; the defaults are LiteMedSAM's.

    Attributes:
        image_size: Side S of the square input in pixels.
        embed_dims: Channels of each stage.
        depths: Blocks of each stage; the first stage is convolutional.
        num_heads: Heads of each stage; the first entry is not used.
        window_sizes: Side of the attention windows of each stage; the first entry is not used.
        strides: Stride of the down-sampling after each stage but the last.
        mlp_ratio: Hidden width of a block's MLP over its width.
        expand_ratio: Hidden channels of a convolutional block over its channels.
        out_channels: Channels of the image embedding.
        stem_stride: 1: the stem is two 1 x 1 convolutions, LiteMedSAM's; 4: two 3 x 3 convolutions of stride 2,
            MobileSAM's.
        adapters: SAM-Med2D's adapters in each block with attention, see `VitConfig`.

    Raises:
        ValueError: The stages disagree in number, heads do not divide channels, strides do not divide the image, the
            stem has another stride, or adapters meet a map of an odd side.
    """

    image_size: int = 256
    embed_dims: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (2, 4, 5, 10)
    window_sizes: tuple[int, ...] = (7, 7, 14, 7)
    strides: tuple[int, ...] = (2, 2, 1)
    mlp_ratio: float = 4.0
    expand_ratio: float = 4.0
    out_channels: int = 256
    stem_stride: int = field(default=1, metadata=OPTIONAL)
    adapters: str = field(default="none", metadata=OPTIONAL)

    def __post_init__(self) -> None:
        stages = len(self.embed_dims)
        if stages < 2 or any(len(x) != stages for x in (self.depths, self.num_heads, self.window_sizes)):
            raise ValueError(
                f"embed_dims, depths, num_heads and window_sizes need one entry a stage (>= 2), got {self}"
            )
        if len(self.strides) != stages - 1:
            raise ValueError(f"strides needs {stages - 1} entries, one between two stages, got {self.strides}")
        if any(dim % heads for dim, heads in zip(self.embed_dims, self.num_heads, strict=True)):
            raise ValueError(f"num_heads {self.num_heads} must divide embed_dims {self.embed_dims}")
        if self.stem_stride not in (1, 4):
            raise ValueError(f"stem_stride must be 1 or 4, got {self.stem_stride}")
        total = self.stem_stride * math.prod(self.strides)
        if self.image_size % total:
            raise ValueError(f"image_size {self.image_size} is not a multiple of the total stride {total}")
        if self.adapters not in ADAPTERS:
            raise ValueError(f"adapters must be one of {', '.join(ADAPTERS)}, got {self.adapters!r}")
        if self.adapters != "none" and any(side % 2 for side in self.sides[1:]):
            raise ValueError(f"adapters need maps of even sides, got {self.sides[1:]}")

    @property
    def sides(self) -> tuple[int, ...]:
        """Side in positions of each stage's feature map."""
        totals = itertools.accumulate((self.stem_stride, *self.strides), operator.mul)
        return tuple(self.image_size // total for total in totals)

    @property
    def embedding_side(self) -> int:
        """Side E of the image embedding."""
        return self.sides[-1]


class ConvNorm(nn.Sequential):
    """A convolution without bias and its batch norm, keys `c` and `bn`."""

    def __init__(self, dim_in: int, dim_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(dim_in, dim_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(dim_out)


class ConvBlock(nn.Module):
    """Inverted bottleneck: widen, depth-wise 3x3, narrow, with a residual; [N, C, H, W] to the same shape."""

    def __init__(self, dim: int, expand_ratio: float) -> None:
        super().__init__()
        hidden = int(dim * expand_ratio)
        self.conv1 = ConvNorm(dim, hidden)
        self.conv2 = ConvNorm(hidden, hidden, kernel=3, groups=hidden)
        self.conv3 = ConvNorm(hidden, dim)
        # A new block starts as the identity (up to its last GELU).
        nn.init.zeros_(self.conv3.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to [N, C, H, W]."""
        hidden = functional.gelu(self.conv2(functional.gelu(self.conv1(x))))
        return functional.gelu(x + self.conv3(hidden))


class PatchMerging(nn.Module):
    """Change channels and resolution between two stages; [N, C, H, W] to [N, C', H/stride, W/stride]."""

    def __init__(self, dim_in: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim_in, dim_out)
        self.conv2 = ConvNorm(dim_out, dim_out, kernel=3, stride=stride, groups=dim_out)
        self.conv3 = ConvNorm(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the three convolutions to [N, C, H, W]."""
        out: Tensor = self.conv3(functional.gelu(self.conv2(functional.gelu(self.conv1(x)))))
        return out


class WindowAttention(nn.Module):
    """Attention inside one window, with a learned bias for every distance (abs dy, abs dx) and head.

    The bias is gathered in every pass. The published class caches it when it enters evaluation mode and so keeps the
    old one when weights are loaded after that; here nothing goes stale; in an exported graph the gather is constant.
    `implementation` is for `use_attention` to set.
    """

    attention_bias_idxs: Tensor

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.implementation: Implementation = "plain"
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.window = window
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))
        axis = torch.arange(window)
        y, x = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
        distances = (y[:, None] - y).abs() * window + (x[:, None] - x).abs()
        self.register_buffer("attention_bias_idxs", distances, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows.

        Args:
            x: [windows, window * window, C].

        Returns:
            [windows, window * window, C].
        """
        positions, dim = self.window**2, self.num_heads * self.head_dim
        # The fused projection lies head by head as [q | k | v], unlike SAM's ViT, where all q come first.
        heads = self.qkv(self.norm(x)).reshape(-1, positions, self.num_heads, 3 * self.head_dim).transpose(1, 2)
        q, k, v = heads.split(self.head_dim, dim=-1)  # each [windows, heads, window * window, head_dim]
        # Under autocast the queries are in half precision, and the biases are not.
        bias = self.attention_biases[:, self.attention_bias_idxs].to(q.dtype)
        attend = constant_bias_attention if self.implementation == "fused" else attention
        x = attend(q, k, v, scale=self.head_dim**-0.5, bias=bias)
        out: Tensor = self.proj(x.transpose(1, 2).reshape(-1, positions, dim))
        return out


class Mlp(nn.Module):
    """Layer norm and two linear layers with a GELU between them; [..., C] to [..., C]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply norm and layers to [..., C]."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(self.norm(x))))
        return out


class TinyViTBlock(nn.Module):
    """Window attention, depth-wise 3x3 and MLP; [N, C, side, side] to the same shape.

    Windows tile the map from the top left; what they lack at the right and bottom is filled with zeros, which take part
    in the attention, as in the published model. Adapters stand where `vit.Block` has them.
    """

    def __init__(
        self, dim: int, side: int, num_heads: int, window: int, mlp_ratio: float, adapters: str = "none"
    ) -> None:
        super().__init__()
        self.dim = dim
        self.side = side
        self.window = window
        self.tiles = math.ceil(side / window)
        self.attn = WindowAttention(dim, num_heads, window)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.local_conv = ConvNorm(dim, dim, kernel=3, groups=dim)
        self.adapters = adapters
        if adapters != "none":
            self.Adapter = Adapter(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to [N, C, side, side]."""
        # Rows of channels as published: with maps in between, OpenVINO transposes half as much again, a tenth of the
        # encoder's time.
        maps = (-1, self.dim, self.side, self.side)
        x = x.flatten(2).transpose(1, 2)  # [N, side * side, C]
        attended = self._attend(x)
        if self.adapters == "figure":
            attended = self._adapt(attended)
        x = (x + attended).transpose(1, 2).reshape(maps)
        x = self.local_conv(x).flatten(2).transpose(1, 2)
        beside = self._adapt(self.mlp.norm(x)) if self.adapters == "code" else None
        x = x + self.mlp(x)
        x = x if beside is None else x + beside
        return x.transpose(1, 2).reshape(maps)

    def _attend(self, x: Tensor) -> Tensor:
        # Every size is a Python number and the batch is -1: a graph with a dynamic batch needs no shape arithmetic.
        side, tiles, window, dim = self.side, self.tiles, self.window, self.dim
        padded = tiles * window
        x = x.reshape(-1, side, side, dim)
        if padded > side:
            x = functional.pad(x, (0, 0, 0, padded - side, 0, padded - side))
        x = x.reshape(-1, tiles, window, tiles, window, dim).transpose(2, 3)
        x = self.attn(x.reshape(-1, window * window, dim))
        x = x.reshape(-1, tiles, tiles, window, window, dim).transpose(2, 3)
        return x.reshape(-1, padded, padded, dim)[:, :side, :side].flatten(1, 2)

    def _adapt(self, x: Tensor) -> Tensor:
        # The adapter works on maps, [N, side, side, C].
        out: Tensor = self.Adapter(x.reshape(-1, self.side, self.side, self.dim))
        return out.flatten(1, 2)


class Stage(nn.Module):
    """Blocks at one resolution and, but for the last stage, the step to the next one."""

    def __init__(self, config: TinyViTConfig, index: int) -> None:
        super().__init__()
        dim = config.embed_dims[index]
        self.blocks = nn.ModuleList(
            ConvBlock(dim, config.expand_ratio)
            if index == 0
            else TinyViTBlock(
                dim,
                config.sides[index],
                config.num_heads[index],
                config.window_sizes[index],
                config.mlp_ratio,
                config.adapters,
            )
            for _ in range(config.depths[index])
        )
        last = index == len(config.strides)
        self.downsample = (
            nn.Identity() if last else PatchMerging(dim, config.embed_dims[index + 1], config.strides[index])
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply blocks and down-sampling to [N, C, H, W]."""
        for block in (*self.blocks, self.downsample):
            x = block(x)
        return x


def _stem(dim: int, stride: int) -> nn.Sequential:
    # LiteMedSAM's stem keeps the full resolution, MobileSAM's halves it twice.
    kernel, step = (1, 1) if stride == 1 else (3, 2)
    layers = nn.Sequential(ConvNorm(3, dim // 2, kernel, step), nn.GELU(), ConvNorm(dim // 2, dim, kernel, step))
    # The outer layer is there for the published key.
    return nn.Sequential(OrderedDict(seq=layers))


class TinyViT(SquareEncoder[TinyViTConfig]):
    """The image encoder.

    Args:
        config: Shape of the encoder.
    """

    def __init__(self, config: TinyViTConfig) -> None:
        super().__init__(config)
        self.patch_embed = _stem(config.embed_dims[0], config.stem_stride)
        self.layers = nn.ModuleList(Stage(config, index) for index in range(len(config.depths)))
        adapters = {one for module in self.modules() if isinstance(module, Adapter) for one in module.modules()}
        for module in self.modules():
            # Adapters begin as they say themselves.
            if isinstance(module, nn.Linear) and module not in adapters:
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.neck = build_neck(config.embed_dims[-1], config.out_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Encode images.

        Args:
            image: [N, 3, S, S], floating point, normalised as the checkpoint says (LiteMedSAM: [0, 1]).

        Returns:
            Image embeddings [N, C, E, E].

        Raises:
            ValueError: The image does not have the side that the encoder was built for.
        """
        self.expect_size(image)
        x = self.patch_embed(image)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.neck(x)
        return out
