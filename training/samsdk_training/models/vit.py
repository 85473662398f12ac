"""Segment Anything's image encoder: a plain vision transformer with windowed and a few global blocks.

After Segment Anything (Kirillov et al., 2023, https://github.com/facebookresearch/segment-anything, Apache-2.0), whose
encoder is that of ViTDet (Li et al., 2022); the state-dict keys are those of the published weights. All sizes are fixed
when the encoder is built, so that its graph has static shapes.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from samsdk_kernels.attention import Implementation, relative_position_attention
from samsdk_kernels.reference import relative_position_bias
from samsdk_training.models.adapters import ADAPTERS, Adapter
from samsdk_training.models.config import FROM_ZERO
from samsdk_training.models.encoder import SquareEncoder, build_neck

PATCH = 16
_NORM_EPS = 1e-6
# Embedding width, blocks, heads, global blocks (Kirillov et al., 2023).
_SIZES = {
    "b": (768, 12, 12, (2, 5, 8, 11)),
    "l": (1024, 24, 16, (5, 11, 17, 23)),
    "h": (1280, 32, 16, (7, 15, 23, 31)),
}


@dataclass(frozen=True)
class VitConfig:
    """Shape of a ViT encoder; the defaults are those of SAM's ViT-B.

    Attributes:
        image_size: Side S of the square input in pixels, a multiple of 16.
        embed_dim: Width of the tokens.
        depth: Number of blocks.
        num_heads: Heads of every attention.
        global_blocks: Numbers of the blocks that attend over the whole image, from 0 on.
        window_size: Side in tokens of the windows of all other blocks.
        mlp_ratio: Hidden width of a block's MLP over its width.
        out_channels: Channels of the image embedding.
        adapters: `none`; `code`: an adapter beside the MLP of each block, as SAM-Med2D's code and weights have it;
            `figure`: an adapter after the attention, as the figure of its paper has it.

    Raises:
        ValueError: The numbers do not fit together.
    """

    image_size: int = 1024
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    global_blocks: tuple[int, ...] = field(default=(2, 5, 8, 11), metadata=FROM_ZERO)
    window_size: int = 14
    mlp_ratio: float = 4.0
    out_channels: int = 256
    adapters: str = "none"

    def __post_init__(self) -> None:
        if self.image_size % PATCH:
            raise ValueError(f"image_size must be a multiple of {PATCH}, got {self.image_size}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide embed_dim {self.embed_dim}")
        if any(not 0 <= index < self.depth for index in self.global_blocks):
            raise ValueError(f"global_blocks must be numbers below the depth {self.depth}, got {self.global_blocks}")
        if self.adapters not in ADAPTERS:
            raise ValueError(f"adapters must be one of {', '.join(ADAPTERS)}, got {self.adapters!r}")
        if self.adapters != "none" and self.embedding_side % 2:
            raise ValueError(f"with adapters image_size must be a multiple of {2 * PATCH}, got {self.image_size}")

    @property
    def embedding_side(self) -> int:
        """Side E of the image embedding, and of the map of tokens."""
        return self.image_size // PATCH

    def attention_side(self, block: int) -> int:
        """Side in tokens of what a block attends over: of the image or of a window."""
        return self.embedding_side if block in self.global_blocks else self.window_size


def vit_config(size: str, image_size: int = 1024, adapters: str = "none") -> VitConfig:
    """Return the shape of one of SAM's encoders.

    Args:
        size: `b`, `l` or `h`.
        image_size: Side of the input in pixels, a multiple of 16.
        adapters: See `VitConfig`.

    Raises:
        ValueError: The size is unknown, or the side is no multiple of 16.
    """
    if size not in _SIZES:
        raise ValueError(f"expected a ViT out of {', '.join(_SIZES)}, got {size!r}")
    embed_dim, depth, num_heads, global_blocks = _SIZES[size]
    return VitConfig(image_size, embed_dim, depth, num_heads, global_blocks, adapters=adapters)


class Attention(nn.Module):
    """Attention over a square of n x n tokens, with SAM's decomposed relative position.

    `implementation` is for `use_attention` to set: "plain" makes the bias and leaves the rest to torch.

    Args:
        dim: Width C of the tokens.
        num_heads: Number of heads; divides C.
        side: Side n of the square.
    """

    distances: Tensor

    def __init__(self, dim: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.implementation: Implementation = "plain"
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.side = side
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, self.head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, self.head_dim))
        axis = torch.arange(side)
        # The tables begin with the key that lies farthest behind the query.
        self.register_buffer("distances", axis[:, None] - axis + side - 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each square.

        Args:
            x: [N, n, n, C].

        Returns:
            [N, n, n, C].
        """
        q, k, v = self.project(x)
        # Under autocast the queries are in half precision, and the tables are not.
        rows, columns = (table[self.distances].to(q.dtype) for table in (self.rel_pos_h, self.rel_pos_w))
        if self.implementation == "fused":
            attended = relative_position_attention(q, k, v, rows, columns, scale=self.head_dim**-0.5)
        else:
            bias = relative_position_bias(q, rows, columns)
            attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.merge(attended)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens [N, n, n, C], [N, heads, n * n, d] each."""
        # The fused projection has all of q first, then k, then v.
        q, k, v = (
            part.reshape(-1, self.side**2, self.num_heads, self.head_dim).transpose(1, 2)
            for part in self.qkv(x).split(self.num_heads * self.head_dim, dim=-1)
        )
        return q, k, v

    def merge(self, attended: Tensor) -> Tensor:
        """What all heads gathered, [N, heads, n * n, d], as tokens [N, n, n, C]."""
        width = self.num_heads * self.head_dim
        out: Tensor = self.proj(attended.transpose(1, 2).reshape(-1, self.side, self.side, width))
        return out


class Mlp(nn.Module):
    """Two linear layers with a GELU between them; [..., C] to [..., C]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        out: Tensor = self.lin2(functional.gelu(self.lin1(x)))
        return out


class Block(nn.Module):
    """Attention, over the image or within windows, and MLP; [N, E, E, C] to the same shape.

    Windows tile the map from the top left; what they lack at the right and bottom is filled with zeros, which take part
    in the attention, as in the published model.

    Args:
        config: Shape of the encoder.
        index: Number of the block.
    """

    def __init__(self, config: VitConfig, index: int) -> None:
        super().__init__()
        dim = config.embed_dim
        self.dim = dim
        self.side = config.embedding_side
        self.window = config.attention_side(index)
        self.tiles = math.ceil(self.side / self.window)
        self.norm1 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.attn = Attention(dim, config.num_heads, self.window)
        self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.adapters = config.adapters
        if config.adapters != "none":
            self.Adapter = Adapter(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        attended = self._attend(self.norm1(x))
        x = x + (self.Adapter(attended) if self.adapters == "figure" else attended)
        normed = self.norm2(x)
        out: Tensor = x + self.mlp(normed)
        return out + self.Adapter(normed) if self.adapters == "code" else out

    def _attend(self, x: Tensor) -> Tensor:
        # Every size is a Python number and the batch is -1: a graph with a dynamic batch needs no shape arithmetic.
        side, tiles, window, dim = self.side, self.tiles, self.window, self.dim
        padded = tiles * window
        if padded > side:
            x = functional.pad(x, (0, 0, 0, padded - side, 0, padded - side))
        if tiles > 1:
            x = x.reshape(-1, tiles, window, tiles, window, dim).transpose(2, 3).reshape(-1, window, window, dim)
        x = self.attn(x)
        if tiles > 1:
            x = x.reshape(-1, tiles, tiles, window, window, dim).transpose(2, 3).reshape(-1, padded, padded, dim)
        return x[:, :side, :side] if padded > side else x


class PatchEmbedding(nn.Module):
    """One token of width C for every 16 x 16 pixels; [N, 3, S, S] to [N, E, E, C]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, image: Tensor) -> Tensor:
        """Embed the patches."""
        tokens: Tensor = self.proj(image)
        return tokens.permute(0, 2, 3, 1)


class VitEncoder(SquareEncoder[VitConfig]):
    """The image encoder.

    Args:
        config: Shape of the encoder.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__(config)
        side, dim = config.embedding_side, config.embed_dim
        self.patch_embed = PatchEmbedding(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, dim))
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.neck = build_neck(dim, config.out_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Encode images.

        Args:
            image: [N, 3, S, S], floating point, normalised as the checkpoint says.

        Returns:
            Image embeddings [N, C, E, E].

        Raises:
            ValueError: The image does not have the side that the encoder was built for.
        """
        self.expect_size(image)
        x = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return out
