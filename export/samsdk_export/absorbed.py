"""The absorbed decoder: image-side projections of the two-way transformer moved to the token side, exactly.

A prompt has about seven tokens and the image thousands of positions, so what a decoder spends its time on is
projecting the image to keys, queries and values. A product of matrices may be bracketed the other way:

    tokens to image   (q_h)·(W_k x + b_k) = (W_k' q_h)·x + const     the constant cancels in the softmax over x
                      sum_x a (W_v x + b_v) = W_v (sum_x a x) + b_v  because the weights a sum to 1
    image to tokens   (W_q x + b_q)·k_h   = x·(W_q' k_h) + b_q·k_h
                      W_o (sum_t a v_h)   = sum_t a (W_o v_h)

With T tokens and h heads the image then meets matrices of h T columns instead of C x C/2 projections. The results
differ by rounding only.
"""

from torch import Tensor, nn

from samsdk_training.models.transformer import Attention


class GatherFromImage(nn.Module):
    """Attention of few queries to many keys: only the queries' side is projected.

    Args:
        attention: what to rewrite; in evaluation mode, its weights are copied.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.q_proj, self.out_proj = attention.q_proj, attention.out_proj
        self.keys: Tensor
        self.values: Tensor
        self.value_bias: Tensor
        self.register_buffer("keys", by_head(attention.k_proj.weight, self.num_heads))
        self.register_buffer("values", by_head(attention.v_proj.weight, self.num_heads).transpose(1, 2).contiguous())
        self.register_buffer("value_bias", attention.v_proj.bias.detach())

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let each token gather from all positions.

        Args:
            q: tokens [P, T, C].
            k: image [P, N, C].
            v: image [P, N, C].

        Returns:
            [P, T, C].
        """
        prompts, tokens, width = q.shape
        asked = split_heads(self.q_proj(q), self.num_heads) * self.head_dim**-0.5  # [P, heads, T, head_dim]
        rows = (asked @ self.keys).reshape(prompts, self.num_heads * tokens, width)
        weights = (rows @ k.transpose(1, 2)).softmax(dim=-1)  # [P, heads * T, N]
        gathered = (weights @ v).reshape(prompts, self.num_heads, tokens, width)
        out: Tensor = self.out_proj(join_heads(gathered @ self.values) + self.value_bias)
        return out


class SpreadToImage(nn.Module):
    """Attention of many queries to few keys: only the keys' and values' side is projected.

    Args:
        attention: what to rewrite; in evaluation mode, its weights are copied.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.k_proj, self.v_proj = attention.k_proj, attention.v_proj
        self.queries: Tensor
        self.query_bias: Tensor
        self.outputs: Tensor
        self.output_bias: Tensor
        self.register_buffer("queries", by_head(attention.q_proj.weight, self.num_heads))
        self.register_buffer("query_bias", attention.q_proj.bias.detach().reshape(self.num_heads, self.head_dim, 1))
        self.register_buffer("outputs", by_head(attention.out_proj.weight.t(), self.num_heads))
        self.register_buffer("output_bias", attention.out_proj.bias.detach() / self.num_heads)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let each position gather from all tokens.

        Args:
            q: image [P, N, C].
            k: tokens [P, T, C].
            v: tokens [P, T, C].

        Returns:
            [P, N, C].
        """
        (prompts, tokens, width), positions = k.shape, q.shape[1]
        offered = self.offer(k)
        rows = (offered @ self.queries).reshape(prompts, self.num_heads * tokens, width)
        scores = (rows @ q.transpose(1, 2)).reshape(prompts, self.num_heads, tokens, positions)
        return self.spread(scores + offered @ self.query_bias, v)

    def offer(self, k: Tensor) -> Tensor:
        """The tokens' keys, scaled, [P, heads, T, head_dim]."""
        keys: Tensor = split_heads(self.k_proj(k), self.num_heads) * self.head_dim**-0.5
        return keys

    def spread(self, scores: Tensor, v: Tensor) -> Tensor:
        """What each position takes of the tokens' values.

        Args:
            scores: [P, heads, T, N].
            v: tokens [P, T, C].

        Returns:
            [P, N, C].
        """
        prompts, heads, tokens, positions = scores.shape
        # A softmax over the third axis, spelled out: ONNX Runtime transposes the whole tensor for its own, twice.
        powers = (scores - scores.amax(dim=2, keepdim=True)).exp()
        weights = (powers / powers.sum(dim=2, keepdim=True)).reshape(prompts, heads * tokens, positions)
        # The weights of a head sum to 1, so that each head's values may carry its share of the bias.
        spoken = split_heads(self.v_proj(v), heads) @ self.outputs + self.output_bias
        out: Tensor = weights.transpose(1, 2) @ spoken.reshape(prompts, heads * tokens, -1)
        return out


def by_head(weight: Tensor, heads: int) -> Tensor:
    """A projection's weight [heads * head_dim, C] as [heads, head_dim, C]."""
    return weight.detach().reshape(heads, -1, weight.shape[-1]).contiguous()


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[P, T, heads * head_dim] as [P, heads, T, head_dim]."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[P, heads, T, head_dim] as [P, T, heads * head_dim]."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)
