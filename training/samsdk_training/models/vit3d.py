"""SAM's 2-D ViT turned to volumes: the image encoder of AutoProSAM.

After AutoProSAM (Lee et al., 2023, https://github.com/ChengyinLee/AutoProSAM_2024, MIT), written from its description;
what comes from the 2-D encoder has the keys of Segment Anything's weights. The grid's axes are H, W and D in here: each
slice of a volume is an image, and the depth comes last.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from samsdk_training.models.auto_pro_sam_config import STAGES, AutoProSamConfig
from samsdk_training.models.layer_norm import LayerNorm2d
from samsdk_training.models.vit import PATCH, Mlp, PatchEmbedding
from samsdk_training.models.windows3d import assemble, coordinates, partition, shift_of, wrapped

_NORM_EPS = 1e-6
# What a query's score of a key that it must not see is lowered by: nothing is left of it after the softmax, and half
# precision holds it.
_HIDDEN = -100.0


class LayerNorm3d(LayerNorm2d):
    """`LayerNorm2d` over the channels of a volume; [N, C, H, W, D] to the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every voxel over its channels."""
        return super().forward(x.flatten(3)).reshape(x.shape)


class SpatialAdapter(nn.Module):
    """What a block learns of how slices belong together: a depth-wise 3 x 3 x 3 convolution at half the width.

    Args:
        dim: Width C of the tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = dim // 2
        self.linear1 = nn.Linear(dim, hidden)
        self.conv = nn.Conv3d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.linear2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt tokens, [N, H, W, D, C] to the same shape."""
        mixed = self.conv(self.linear1(x).relu().permute(0, 4, 1, 2, 3)).relu().permute(0, 2, 3, 4, 1)
        out: Tensor = x + self.linear2(mixed).relu()
        return out


class WindowAttention3d(nn.Module):
    """Attention within cubes of w * w * w tokens, with relative position along three axes.

    The tables of two axes are those of the 2-D encoder, of whatever length, resized to the window; the third is new.
    The position's share of a score and what hides a key from a query are inner products too, so they are further
    components of queries and keys: `[s q, q . rel, hide]` with `[k, one-hot of the place, one-hot of the side]`. No
    bias or mask of tokens by tokens is made.

    Args:
        dim: Width C of the tokens.
        num_heads: Number of heads; divides C.
        table_side: Side n of what the 2-D block attended over, whose tables have 2n - 1 rows.
        grid: (H, W, D) of the tokens.
        window: w.
        shift: How far the grid was rolled towards its start along each axis.
    """

    distances: Tensor
    resizing: Tensor
    places: Tensor
    sides: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int,
        table_side: int,
        grid: tuple[int, int, int],
        window: int,
        shift: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.window = num_heads, dim // num_heads, window
        self.shifted = any(shift)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        rows = 2 * table_side - 1
        self.rel_pos_h = nn.Parameter(torch.zeros(rows, self.head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(rows, self.head_dim))
        self.rel_pos_d = nn.Parameter(torch.zeros(rows, self.head_dim))
        axis = torch.arange(window)
        self.register_buffer("distances", axis[:, None] - axis + window - 1, persistent=False)
        self.register_buffer("resizing", _resizing(rows, 2 * window - 1), persistent=False)
        places = functional.one_hot(coordinates(window), window).flatten(1).float()
        self.register_buffer("places", places, persistent=False)  # [w * w * w, 3w]
        sides = wrapped(grid, window, shift).float()[:, None]  # [windows, 1, w * w * w, 3]
        self.register_buffer("sides", sides, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each window, [N, windows, w * w * w, C] to the same shape."""
        windows, tokens = x.shape[1:3]
        q, k, v = (
            part.reshape(-1, windows, tokens, self.num_heads, self.head_dim).transpose(2, 3)
            for part in self.qkv(x).split(self.num_heads * self.head_dim, dim=-1)
        )  # [N, windows, heads, w * w * w, d] each
        queries, keys = [q * self.head_dim**-0.5, *self._positions(q)], [k, self.places]
        if self.shifted:
            queries += [_HIDDEN * self.sides, _HIDDEN * (1 - self.sides)]
            keys += [1 - self.sides, self.sides]
        # The exporter takes four axes.
        query, key, value = (one.flatten(0, 1) for one in (_joined(queries, q), _joined(keys, k), v))
        out = functional.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2)
        attended: Tensor = self.proj(out.reshape(-1, windows, tokens, self.num_heads * self.head_dim))
        return attended

    def _positions(self, q: Tensor) -> list[Tensor]:
        """The products of queries with the distances to each place along H, W and D, [..., w * w * w, w] each."""
        w = self.window
        tables = (self.rel_pos_h, self.rel_pos_w, self.rel_pos_d)
        # Under autocast the queries are in half precision, and the tables are not.
        h_key, w_key, d_key = ((self.resizing @ table)[self.distances].to(q.dtype).mT for table in tables)
        # Products of matrices, one for each place, and no einsum: not every engine takes one.
        along_h = q.reshape(-1, w, w * w, self.head_dim) @ h_key
        along_w = q.reshape(-1, w, w, self.head_dim) @ w_key
        along_d = (q.reshape(-1, w * w, w, self.head_dim).transpose(1, 2) @ d_key).transpose(1, 2)
        return [one.reshape(*q.shape[:-1], w) for one in (along_h, along_w, along_d)]


class Block3d(nn.Module):
    """A spatial adapter, then the 2-D encoder's block within cubes; [N, H, W, D, C] to the same shape.

    Args:
        config: Shape of the model.
        index: Number of the block; even ones shift their windows.
    """

    def __init__(self, config: AutoProSamConfig, index: int) -> None:
        super().__init__()
        vit = config.vit
        self.grid, self.window = config.grid, config.window
        self.shift = shift_of(config.grid, config.window, index % 2 == 0)
        self.adapter = SpatialAdapter(vit.embed_dim)
        self.norm1 = nn.LayerNorm(vit.embed_dim, eps=_NORM_EPS)
        self.attn = WindowAttention3d(
            vit.embed_dim, vit.num_heads, vit.attention_side(index), config.grid, config.window, self.shift
        )
        self.norm2 = nn.LayerNorm(vit.embed_dim, eps=_NORM_EPS)
        self.mlp = Mlp(vit.embed_dim, int(vit.embed_dim * vit.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        x = self.adapter(x)
        x = x + self._attend(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def _attend(self, x: Tensor) -> Tensor:
        moved = [(axis, by) for axis, by in enumerate(self.shift, start=1) if by]
        axes = [axis for axis, _ in moved]
        if moved:
            x = torch.roll(x, [-by for _, by in moved], axes)
        x = assemble(self.attn(partition(x, self.window)), self.grid, self.window)
        return torch.roll(x, [by for _, by in moved], axes) if moved else x


class VolumeEncoder(nn.Module):
    """The image encoder: a crop to four maps, one after each quarter of the blocks.

    Published, the whole crop is enlarged first, which takes gigabytes. As enlarging and embedding are linear and go
    axis by axis, slices are enlarged one by one here, and the depth is enlarged and embedded in one product: the same
    numbers.

    Args:
        config: Shape of the model.
    """

    enlarging: Tensor
    pool_h: Tensor
    pool_w: Tensor

    def __init__(self, config: AutoProSamConfig) -> None:
        super().__init__()
        vit, (height, width, depth) = config.vit, config.grid
        dim, side, slices = vit.embed_dim, vit.embedding_side, config.crop[0]
        self.config = config
        self.patch_embed = PatchEmbedding(dim)
        self.slice_embed = nn.Conv3d(dim, dim, kernel_size=(1, 1, PATCH), stride=(1, 1, PATCH), groups=dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, dim))
        self.depth_embed = nn.Parameter(torch.ones(1, depth, dim))
        self.blocks = nn.ModuleList(Block3d(config, index) for index in range(vit.depth))
        self.neck_3d = nn.ModuleList(_neck(dim, vit.out_channels) for _ in range(STAGES))
        enlarging = _resizing(slices, slices * config.upsampling).reshape(depth, PATCH, slices)
        self.register_buffer("enlarging", enlarging.transpose(0, 1).flatten(1), persistent=False)  # [16, D' * D]
        self.register_buffer("pool_h", _resizing(side, height, average=height <= side), persistent=False)
        self.register_buffer("pool_w", _resizing(side, width, average=width <= side), persistent=False)

    def forward(self, crop: Tensor) -> list[Tensor]:
        """Encode crops.

        Args:
            crop: [N, 1, D, H, W], floating point.

        Returns:
            Four maps [N, C, H', W', D'], the shallowest first.
        """
        x = self._embed(crop) + self._positions()
        maps = []
        stage = len(self.blocks) // STAGES
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number % stage == 0:
                maps.append(self.neck_3d[number // stage - 1](x.permute(0, 4, 1, 2, 3)))
        return maps

    def _embed(self, crop: Tensor) -> Tensor:
        """One token for every cube of 16 / upsampling voxels, [N, H', W', D', C]."""
        (rows, columns, layers), (depth, height, width) = self.config.grid, self.config.crop
        proj, size = self.patch_embed.proj, (height * self.config.upsampling, width * self.config.upsampling)
        slices = functional.interpolate(crop.reshape(-1, 1, height, width), size, mode="bilinear")
        # The ViT's three channels are equal here, so that their kernels add up to one.
        patches = functional.conv2d(slices, proj.weight.sum(1, keepdim=True), proj.bias, stride=PATCH)
        dim = self.config.vit.embed_dim
        patches = patches.reshape(-1, depth, dim, rows * columns).permute(0, 2, 3, 1)  # [N, C, H' W', D]
        kernel = (self.slice_embed.weight.reshape(dim, PATCH) @ self.enlarging).reshape(dim, layers, depth)
        bias = self.slice_embed.get_parameter("bias")
        tokens = (patches @ kernel.mT).permute(0, 2, 3, 1) + bias  # [N, H' W', D', C]
        return tokens.reshape(-1, rows, columns, layers, dim)

    def _positions(self) -> Tensor:
        """What the tokens' places add to them, [H', W', D', C]."""
        columns = (self.pool_w @ self.pos_embed[0]).transpose(0, 1)  # [W', n, C]
        plane = (self.pool_h @ columns).transpose(0, 1)  # [H', W', C]
        places: Tensor = plane[:, :, None] + self.depth_embed[0]
        return places


def _resizing(source: int, target: int, *, average: bool = False) -> Tensor:
    """The matrix [target, source] that resizes one axis: linearly, or by the average of what falls on each place."""
    identity = torch.eye(source)[None]
    return functional.interpolate(identity, target, mode="area" if average else "linear")[0].T.contiguous()


def _neck(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(dim, out, kernel_size=1, bias=False),
        LayerNorm3d(out),
        nn.Conv3d(out, out, kernel_size=3, padding=1, bias=False),
        LayerNorm3d(out),
    )


def _joined(parts: list[Tensor], like: Tensor) -> Tensor:
    """Further components beside each head's own; [..., d + all others]."""
    shape = like.shape[:-1]
    return torch.cat([part.to(like.dtype).expand(*shape, -1) for part in parts], dim=-1)
