# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-call"
"""How the Triton kernels of the fused attention are launched.

This module imports triton; `samsdk_kernels.attention` loads it where it is needed, after having checked the arguments.
"""

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from samsdk_kernels import flash

LOG2_E = math.log2(math.e)
# From so many positions on the programs may be large, if a row of the map fits their tiles of keys.
LARGE_TOKENS = 1024
LARGE_WIDTH = 64


@dataclass(frozen=True)
class _Blocks:
    """How a problem is cut: queries a program, keys a tile, channels; warps a program, tiles in flight."""

    queries: int
    keys: int
    channels: int
    warps: int
    stages: int


def _blocks(q: Tensor, large: bool) -> _Blocks:
    tokens, head_dim = q.shape[-2:]
    channels = max(16, triton.next_power_of_2(head_dim))
    # The largest cuts whose programs, as compiled for compute capabilities 8.0 to 12.0, spill no register and fit the
    # 99 KiB of shared memory of consumer cards (9.0 takes more, and has more).
    if q.dtype == torch.float32:
        queries, keys, warps, stages = 32, 32, 4, 1
    elif large:
        queries, keys, warps, stages = 128, 64, 8, 3 if channels <= 64 else 2
    else:  # for windows: of 14 x 14 positions, 32 keys are two rows padded to 16
        queries, keys, warps, stages = 64, 32, 4, 2
    # No operand of a matrix product may be smaller than 16.
    return _Blocks(min(queries, max(16, triton.next_power_of_2(tokens))), keys, channels, warps, stages)


def _empty_like_heads(q: Tensor) -> Tensor:
    # Laid out as [batch, tokens, heads, d]: joining the heads, which comes next in every model, is then no copy.
    batch, heads, tokens, head_dim = q.shape
    return q.new_empty(batch, tokens, heads, head_dim).transpose(1, 2)


def _strides(tensor: Tensor) -> tuple[int, ...]:
    return tensor.stride()[:3]


def relative_position(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """Launch the attention with decomposed relative position; the arguments have been checked.

    Args:
        q: Queries [B, heads, H * W, d], last axis dense.
        k: Keys, same shape.
        v: Values, same shape.
        rel_h: Embedding of rows [H, H, d], contiguous.
        rel_w: Embedding of columns [W, W, d], contiguous.
        scale: Factor on ``q k^T``.

    Returns:
        Attended values [B, heads, H * W, d].
    """
    (batch, heads, tokens, head_dim), height, width = q.shape, rel_h.shape[0], rel_w.shape[0]
    large = tokens >= LARGE_TOKENS and width <= LARGE_WIDTH
    out, blocks = _empty_like_heads(q), _blocks(q, large)
    terms = q.new_empty(batch * heads, tokens, height + width, dtype=torch.float32)
    block_w = min(triton.next_power_of_2(width), blocks.keys)
    rows = max(min(blocks.keys // block_w, triton.next_power_of_2(height)), 16 // block_w)
    with torch.cuda.device_of(q):
        flash.position_terms[((height + width) * batch * heads,)](
            *(q, rel_h, rel_w, terms, LOG2_E, heads, height, width, _strides(q)),
            HEAD_DIM=head_dim,
            BLOCK_D=blocks.channels,
            BLOCK=min(max(16, triton.next_power_of_2(max(height, width))), blocks.keys),
        )
        flash.relative_position[(triton.cdiv(tokens, blocks.queries) * batch * heads,)](
            *(q, k, v, terms, out, scale * LOG2_E, heads, height, width, *map(_strides, (q, k, v, out))),
            HEAD_DIM=head_dim,
            BLOCK_D=blocks.channels,
            BLOCK_M=blocks.queries,
            BLOCK_W=block_w,
            ROWS=rows,
            ONE_TILE_WIDE=width <= block_w,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
    return out


def constant_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Launch the attention with one bias for all of the batch; the arguments have been checked.

    Args:
        q: Queries [B, heads, N, d], last axis dense.
        k: Keys, same shape.
        v: Values, same shape.
        bias: Added to the scaled scores, [heads, N, N], contiguous.
        scale: Factor on ``q k^T``.

    Returns:
        Attended values [B, heads, N, d].
    """
    batch, heads, tokens, head_dim = q.shape
    out, blocks = _empty_like_heads(q), _blocks(q, large=False)
    with torch.cuda.device_of(q):
        flash.constant_bias[(triton.cdiv(tokens, blocks.queries) * batch * heads,)](
            *(q, k, v, bias, out, scale * LOG2_E, LOG2_E, heads, tokens, *map(_strides, (q, k, v, out))),
            HEAD_DIM=head_dim,
            BLOCK_D=blocks.channels,
            BLOCK_M=blocks.queries,
            BLOCK_N=min(blocks.keys, max(16, triton.next_power_of_2(tokens))),
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
    return out
