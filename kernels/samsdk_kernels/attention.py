"""Fused attention on the GPU: SAM's with decomposed relative position, and TinyViT's with a constant bias.

Neither the scores nor the bias of SAM's attention, [N, N] numbers for each head, are ever in memory. Each function has
`implementation`, which is the off switch: "fused" is the Triton kernel or an error, "plain" the slow torch reference on
any device. Nothing falls from one to the other by itself.

Gradients are those of the reference, computed again from the inputs in the backward pass: exact, in the memory and time
of the reference. The forward pass keeps nothing but its inputs.

The kernels need triton, which torch's CUDA builds for Linux bring along. With TRITON_INTERPRET=1 in the environment
before triton is imported they run slowly on the CPU, for tests.
"""

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from samsdk.errors import MissingExtraError
from samsdk_kernels import reference

Implementation = Literal["fused", "plain"]
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MAX_HEAD_DIM = 128


def relative_position_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    *,
    scale: float,
    implementation: Implementation = "fused",
) -> Tensor:
    """Compute attention over maps of H x W positions with SAM's decomposed relative position.

    Args:
        q: Queries [B, heads, H * W, d], row by row, d <= 128; fp16, bf16 or fp32. The last axis must be dense, the
            others may have any strides, such as those of one third of a fused projection.
        k: Keys, same shape, dtype and device.
        v: Values, likewise.
        rel_h: Embedding of the distance from row y to row y', [H, H, d], same dtype and device.
        rel_w: Embedding of the distance from column x to column x', [W, W, d], likewise.
        scale: Factor on ``q k^T`` alone, usually ``d ** -0.5``.
        implementation: "fused" for the kernel, accumulating in fp32; "plain" for the reference.

    Returns:
        Attended values [B, heads, H * W, d], dtype of the inputs.

    Raises:
        ValueError: An argument is not as described, or "fused" is asked for tensors that are not on a GPU.
        MissingExtraError: "fused" is asked for and triton is not installed.
    """
    _check_queries(q, k, v)
    for name, table in (("rel_h", rel_h), ("rel_w", rel_w)):
        _check_like(q, name, table, (*table.shape[:1], *table.shape[:1], q.shape[-1]))
    height, width = rel_h.shape[0], rel_w.shape[0]
    if height * width != q.shape[2]:
        raise ValueError(f"rel_h and rel_w are for {height} x {width} positions, q has {q.shape[2]}")
    plain = reference.relative_position_attention
    if not _fused(implementation, q):
        return plain(q, k, v, rel_h, rel_w, scale=scale)
    return _apply(_kernels().relative_position, plain, scale, q, k, v, rel_h.contiguous(), rel_w.contiguous())


def constant_bias_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, scale: float, implementation: Implementation = "fused"
) -> Tensor:
    """Compute attention with one bias for each head that the whole batch shares, as in TinyViT's windows.

    Args:
        q: Queries [B, heads, N, d], d <= 128; fp16, bf16 or fp32. The last axis must be dense.
        k: Keys, same shape, dtype and device.
        v: Values, likewise.
        bias: Added to the scaled scores, [heads, N, N], same dtype and device; ``-inf`` hides a key from a query.
        scale: Factor on ``q k^T``, usually ``d ** -0.5``.
        implementation: "fused" for the kernel, accumulating in fp32; "plain" for the reference.

    Returns:
        Attended values [B, heads, N, d], dtype of the inputs.

    Raises:
        ValueError: An argument is not as described, or "fused" is asked for tensors that are not on a GPU.
        MissingExtraError: "fused" is asked for and triton is not installed.
    """
    _check_queries(q, k, v)
    _check_like(q, "bias", bias, (q.shape[1], q.shape[2], q.shape[2]))
    if not _fused(implementation, q):
        return _biased(q, k, v, bias, scale=scale)
    return _apply(_kernels().constant_bias, _biased, scale, q, k, v, bias.contiguous())


def _biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, scale: float) -> Tensor:
    return reference.attention(q, k, v, scale=scale, bias=bias)


def _check_queries(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.ndim != 4 or 0 in q.shape or q.shape[-1] > MAX_HEAD_DIM:
        raise ValueError(f"expected q of [B, heads, N, d], none 0, d <= {MAX_HEAD_DIM}, got {tuple(q.shape)}")
    if q.dtype not in DTYPES:
        raise ValueError(f"expected q in one of {', '.join(map(str, DTYPES))}, got {q.dtype}")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _check_like(q, name, tensor, q.shape)
        if tensor.stride(-1) != 1:
            raise ValueError(
                f"expected {name} with a dense last axis, got strides {tensor.stride()}: use .contiguous()"
            )


def _check_like(q: Tensor, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    got, expected = (tuple(tensor.shape), tensor.dtype, tensor.device), (tuple(shape), q.dtype, q.device)
    if got != expected:
        wanted, came = (f"{s} {dtype} on {device}" for s, dtype, device in (expected, got))
        raise ValueError(f"expected {name} of {wanted}, to go with q of {tuple(q.shape)}, got {came}")


def _fused(implementation: str, q: Tensor) -> bool:
    if implementation not in ("fused", "plain"):
        raise ValueError(f"implementation must be 'fused' or 'plain', got {implementation!r}")
    if implementation == "fused" and q.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"fused attention needs tensors on a CUDA device, got {q.device}; 'plain' runs anywhere")
    return implementation == "fused"


def _kernels() -> ModuleType:
    try:
        from samsdk_kernels import flash_launch
    except ImportError as error:
        raise MissingExtraError(f"fused attention needs triton ({error}): pip install triton") from error
    return flash_launch


class _Recomputed(torch.autograd.Function):
    """A kernel whose gradients are those of its reference."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Callable[..., Tensor], plain: Callable[..., Tensor], scale: float, *inputs: Tensor
    ) -> Tensor:
        ctx.plain, ctx.scale = plain, scale
        ctx.save_for_backward(*inputs)
        return kernel(*inputs, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[3:]
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad():
            out = ctx.plain(*inputs, scale=ctx.scale)
        found = iter(torch.autograd.grad(out, [tensor for tensor in inputs if tensor.requires_grad], gradient))
        return None, None, None, *(next(found) if need else None for need in needed)


def _apply(kernel: Callable[..., Tensor], plain: Callable[..., Tensor], scale: float, *inputs: Tensor) -> Tensor:
    out: Tensor = _Recomputed.apply(kernel, plain, scale, *inputs)  # type: ignore[no-untyped-call]
    return out
