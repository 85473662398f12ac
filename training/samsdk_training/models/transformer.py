"""The two-way transformer between prompt tokens and image embedding.

After Segment Anything (Kirillov et al., 2023, https://github.com/facebookresearch/segment-anything, Apache-2.0); the
state-dict keys are those of the published weights.
"""

from torch import Tensor, nn
from torch.nn import functional

from samsdk_kernels.reference import attention


class Attention(nn.Module):
    """Multi-head attention whose heads may live in a narrower space than the embedding.

    Args:
        dim: Width C of queries, keys, values and output.
        num_heads: Number of heads; must divide ``dim // downsample``.
        downsample: Factor by which the heads' common space is narrower than C.

    Raises:
        ValueError: The inner width is not a multiple of `num_heads`.
    """

    def __init__(self, dim: int, num_heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        if inner % num_heads:
            raise ValueError(f"the inner width {dim} // {downsample} = {inner} is not a multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.head_dim = inner // num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let each query gather from all keys.

        Args:
            q: Queries [P, N, C].
            k: Keys [P, M, C].
            v: Values [P, M, C].

        Returns:
            [P, N, C].
        """
        heads = attention(
            self._split(self.q_proj(q)),
            self._split(self.k_proj(k)),
            self._split(self.v_proj(v)),
            scale=self.head_dim**-0.5,
        )  # [P, heads, N, head_dim]
        out: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with a ReLU between them.

    Args:
        dim: Width C of input and output.
        hidden: Width between the layers.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to [..., C]."""
        out: Tensor = self.lin2(functional.relu(self.lin1(x)))
        return out


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, pass an MLP; then the image attends to the tokens.

    Args:
        dim: Width C of tokens and image.
        num_heads: Heads of every attention.
        mlp_dim: Hidden width of the MLP.
        downsample: Narrowing of the two cross attentions.
        first: Whether this is the first block, whose self attention sees no positions and has no residual, because the
            tokens that come in *are* the positions.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, downsample: int, first: bool) -> None:
        super().__init__()
        self.self_attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample)
        self.first = first

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Update tokens and image once.

        Args:
            tokens: [P, T, C].
            image: [P, E*E, C].
            token_pe: [P, T, C], added wherever tokens serve as queries or keys.
            image_pe: [P or 1, E*E, C], added wherever the image serves as queries or keys.

        Returns:
            The new tokens [P, T, C] and image [P, E*E, C].
        """
        tokens = self.attend_to_selves(tokens, token_pe)
        placed_image = image + image_pe
        tokens = self.digest(tokens, self.cross_attn_token_to_image(tokens + token_pe, placed_image, image))
        image = self.norm4(image + self.cross_attn_image_to_token(placed_image, tokens + token_pe, tokens))
        return tokens, image

    def attend_to_selves(self, tokens: Tensor, token_pe: Tensor) -> Tensor:
        """The tokens after self attention, [P, T, C]; arguments as in `forward`."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + token_pe
            tokens = tokens + self.self_attn(placed, placed, tokens)
        out: Tensor = self.norm1(tokens)
        return out

    def digest(self, tokens: Tensor, gathered: Tensor) -> Tensor:
        """The tokens after what they gathered from the image, and the MLP; all [P, T, C]."""
        tokens = self.norm2(tokens + gathered)
        out: Tensor = self.norm3(tokens + self.mlp(tokens))
        return out


class TwoWayTransformer(nn.Module):
    """A stack of two-way blocks and a last attention from the tokens to the image.

    Args:
        depth: Number of blocks.
        dim: Width C of tokens and image.
        num_heads: Heads of every attention.
        mlp_dim: Hidden width of the blocks' MLPs.
        downsample: Narrowing of the cross attentions.
    """

    def __init__(self, depth: int, dim: int, num_heads: int, mlp_dim: int, downsample: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, num_heads, mlp_dim, downsample, first=index == 0) for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, num_heads, downsample)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the stack.

        Args:
            image: Image embedding [P, C, E, E].
            image_pe: Its positions [P or 1, C, E, E].
            tokens: [P, T, C]; they also serve as their own positions.

        Returns:
            The tokens [P, T, C] and the image [P, E*E, C], rows first.
        """
        keys = image.flatten(2).transpose(1, 2)  # [P, E*E, C]
        key_pe = image_pe.flatten(2).transpose(1, 2)
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_pe)
        queries = queries + self.final_attn_token_to_image(queries + tokens, keys + key_pe, keys)
        return self.norm_final_attn(queries), keys
