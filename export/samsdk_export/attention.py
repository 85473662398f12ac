"""SAM's attention with relative position, for few queries at a time or without its bias; both exact.

Over a whole image of 64 x 64 tokens the scores of twelve heads are 805 MB, and so is their bias. A softmax is over the
keys, so that queries may be taken in pieces: the scores of some rows of the image are a few megabytes for each head,
which the next rows reuse.

The bias of query (y, x) on key (y', x') is `q . rel_h[y, y'] + q . rel_w[x, x']`, which is an inner product itself:

    q' = [s q, q . rel_h[y, :], q . rel_w[x, :]]      k' = [k, onehot(y'), onehot(x')]      softmax(q' k'^T) v

Without it engines see plain attention, for which some have a kernel that keeps no scores. The results differ by
rounding only.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from samsdk_kernels import reference
from samsdk_training.models.vit import Attention, VitEncoder

# Scores of one piece, in numbers for each head and window. Smaller pieces cost time, larger ones memory.
_LARGEST_PIECE = 2**21


def one_hot_positions(height: int, width: int) -> Tensor:
    """Row and column of each of H x W positions, row by row, as ones among zeros, float32 [H * W, H + W]."""
    places = torch.arange(height * width)
    rows, columns = functional.one_hot(places // width, height), functional.one_hot(places % width, width)
    return torch.cat([rows, columns], dim=1).float()


def extend_queries(q: Tensor, rel_h: Tensor, rel_w: Tensor, *, scale: float) -> Tensor:
    """q' of the module's text.

    Args:
        q: queries, not scaled, [N, heads, H * W, d], row by row.
        rel_h: embedding of the distance from row y to row y', [H, H, d].
        rel_w: embedding of the distance from column x to column x', [W, W, d].
        scale: factor on `q k^T` alone.

    Returns:
        [N, heads, H * W, d + H + W].
    """
    height, width, (heads, _, dim) = rel_h.shape[0], rel_w.shape[0], q.shape[1:]
    by_row, by_column = reference.relative_position_terms(q, rel_h, rel_w)
    grid = (q * scale).reshape(-1, heads, height, width, dim)
    extended = torch.cat([grid, by_row, by_column], dim=-1)
    return extended.reshape(-1, heads, height * width, dim + height + width)


def extend_keys(k: Tensor, positions: Tensor) -> Tensor:
    """k' of the module's text.

    Args:
        k: keys, [N, heads, H * W, d].
        positions: see `one_hot_positions`.

    Returns:
        [N, heads, H * W, d + H + W].
    """
    # A sum and not a concatenation: that would need the positions once for each of N, which the graph does not know.
    return functional.pad(k, (0, positions.shape[1])) + functional.pad(positions, (k.shape[-1], 0))


class PiecewiseAttention(nn.Module):
    """What `Attention` computes, rows of queries by rows of queries.

    Args:
        attention: what to rewrite; its projections are shared.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention, self.head_dim, self.side = attention, attention.head_dim, attention.side
        self.rel_h: Tensor
        self.rel_w: Tensor
        self.register_buffer("rel_h", attention.rel_pos_h.detach()[attention.distances])
        self.register_buffer("rel_w", attention.rel_pos_w.detach()[attention.distances])

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each square.

        Args:
            x: [N, n, n, C].

        Returns:
            [N, n, n, C].
        """
        return self.attention.merge(torch.cat(self.attend(*self.attention.project(x)), dim=2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        """Attend with all heads, [N, heads, n * n, d] each; the parts along the third axis, in their order."""
        scale, side = self.head_dim**-0.5, self.side
        return [
            reference.relative_position_attention(
                q[:, :, start * side : end * side], k, v, self.rel_h[start:end], self.rel_w, scale=scale
            )
            for start, end in pieces_of(side)
        ]


class BiasFreeAttention(PiecewiseAttention):
    """What `Attention` computes, without its bias.

    Args:
        attention: what to rewrite; its projections are shared.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__(attention)
        self.positions: Tensor
        self.register_buffer("positions", one_hot_positions(self.side, self.side).to(self.rel_h.dtype))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        """As `PiecewiseAttention.attend`."""
        asked = extend_queries(q, self.rel_h, self.rel_w, scale=self.head_dim**-0.5)
        offered = extend_keys(k, self.positions)
        side = self.side
        return [
            reference.attention(asked[:, :, start * side : end * side], offered, v, scale=1.0)
            for start, end in pieces_of(side)
        ]


# By the names of the rewrites.
ATTENTIONS = {"pieces": PiecewiseAttention, "bias_free": BiasFreeAttention}


def pieces_of(side: int) -> list[tuple[int, int]]:
    """First row, and row after the last, of the queries of a square of n x n tokens that are taken at a time."""
    rows = max(1, _LARGEST_PIECE // side**3)
    return [(start, min(start + rows, side)) for start in range(0, side, rows)]


def rewrite_attention(encoder: VitEncoder, name: str) -> VitEncoder:
    """A copy of an encoder with rewritten attentions, which shares all other weights.

    Args:
        encoder: in evaluation mode; it is left as it is.
        name: of `ATTENTIONS`.
    """
    shared = {id(tensor): tensor for tensor in (*encoder.parameters(), *encoder.buffers())}
    rewritten = copy.deepcopy(encoder, shared)
    for block in rewritten.blocks:
        block.attn = ATTENTIONS[name](block.attn)  # type: ignore[arg-type]
    return rewritten
