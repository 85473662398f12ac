"""The slow, exact attention that every fused kernel is held against.

It is written as matmul, softmax, matmul on purpose: this is also the form that the exporter traces, and a fused
operator would hide from it the very products that the export rewrites absorb.
"""

from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float, bias: Tensor | None = None) -> Tensor:
    """Compute ``softmax(scale * q k^T + bias) v`` over the last two axes.

    Args:
        q: Queries [..., N, d], floating point.
        k: Keys [..., M, d], same dtype; leading axes broadcast against those of `q`.
        v: Values [..., M, e], same dtype; `e` may differ from `d`.
        scale: Factor on the scores, usually ``d ** -0.5``.
        bias: Added to the scaled scores, broadcastable to [..., N, M]; ``-inf`` hides a key from a query. A query
            all of whose keys are hidden comes out as NaN.

    Returns:
        Attended values [..., N, e], dtype of the inputs.
    """
    # The scale goes on q: it is smaller than the scores, and half precision cannot overflow in the product.
    scores = (q * scale) @ k.transpose(-2, -1)  # [..., N, M]
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1) @ v
