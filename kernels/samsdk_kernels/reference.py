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


def relative_position_terms(q: Tensor, rel_h: Tensor, rel_w: Tensor) -> tuple[Tensor, Tensor]:
    """Project queries on the distances of a map of H x W positions.

    Args:
        q: Queries [..., R * W, d], row by row, of R rows of the map.
        rel_h: Embedding of the distance from these rows y to row y', [R, H, d], same dtype.
        rel_w: Embedding of the distance from column x to column x', [W, W, d], same dtype.

    Returns:
        ``q . rel_h[y, y']``, [..., R, W, H], and ``q . rel_w[x, x']``, [..., R, W, W], by query (y, x) and key's row y'
        or column x'.
    """
    # Products of matrices, one a row or column, and no einsum: not every engine takes one.
    grid = q.reshape(*q.shape[:-2], rel_h.shape[0], rel_w.shape[0], q.shape[-1])  # [..., R, W, d]
    by_row = grid @ rel_h.transpose(1, 2)
    by_column = (grid.transpose(-3, -2) @ rel_w.transpose(1, 2)).transpose(-3, -2)
    return by_row, by_column


def relative_position_bias(q: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Write out SAM's decomposed relative position as a bias on the scores.

    From query (y, x) to key (y', x') it is ``q . rel_h[y, y'] + q . rel_w[x, x']``, with the query as it is, not scaled
    (Li et al., MViTv2, 2022; `add_decomposed_rel_pos` of segment-anything).

    Args:
        q: Queries [..., R * W, d], row by row, of all rows of the map or of R of them.
        rel_h: Embedding of the distance from these rows y to row y', [R, H, d], same dtype.
        rel_w: Embedding of the distance from column x to column x', [W, W, d], same dtype.

    Returns:
        Bias [..., R * W, H * W].
    """
    by_row, by_column = relative_position_terms(q, rel_h, rel_w)
    return (by_row[..., :, None] + by_column[..., None, :]).flatten(-2).flatten(-3, -2)


def relative_position_attention(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, scale: float
) -> Tensor:
    """Compute attention over a map of H x W positions with SAM's decomposed relative position.

    Args:
        q: Queries [..., R * W, d], row by row, of all rows of the map or of R of them; floating point.
        k: Keys [..., H * W, d], same dtype.
        v: Values, same shape and dtype as the keys.
        rel_h: Embedding of the distance from the queries' rows y to row y', [R, H, d], same dtype.
        rel_w: Embedding of the distance from column x to column x', [W, W, d], same dtype.
        scale: Factor on ``q k^T`` alone, usually ``d ** -0.5``.

    Returns:
        Attended values [..., R * W, d], dtype of the inputs.
    """
    return attention(q, k, v, scale=scale, bias=relative_position_bias(q, rel_h, rel_w))
