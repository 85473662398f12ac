"""What of the first two-way block does not depend on the prompt, computed once with the encoder; exact.

The first block's attentions see the image as the encoder left it, so its projections to keys, values and queries can be
made once an image instead of once a prompt. Only a mask prompt changes the image that they see, by a narrow matrix
(see `samsdk_export.narrow_mask`): what it adds to scores and values is added to them apart.
"""

from typing import Final

import torch
from torch import Tensor, nn

from samsdk_export.absorbed import SpreadToImage, by_head, join_heads, split_heads
from samsdk_training.models.sam import Sam
from samsdk_training.models.transformer import Attention, TwoWayBlock

# The graphs' names of [N, C/2, E, E] each, after the projections that make them.
PROJECTIONS: Final = ("image_keys", "image_values", "image_queries")
# Of the encoder's work. The default model, which would need 1.8 %, gains nothing that can be measured; LiteMedSAM,
# which needs 1.1 %, gains a tenth of a prompt's time.
_LARGEST_SHARE: Final = 0.015


def first_block(model: Sam) -> TwoWayBlock:
    """The block whose attentions see the image as the encoder left it."""
    block = model.mask_decoder.transformer.layers[0]
    if not isinstance(block, TwoWayBlock):
        raise TypeError(f"expected a two-way block, got {type(block).__name__}")
    return block


def pays(model: Sam, encoder_flops: int) -> bool:
    """Whether the projections are little beside the encoder that they would be added to.

    Args:
        model: the model.
        encoder_flops: of one image; 2 for a multiplication.
    """
    weight = first_block(model).cross_attn_token_to_image.k_proj.weight
    return 2 * len(PROJECTIONS) * weight.numel() * model.embedding_side**2 <= _LARGEST_SHARE * encoder_flops


class ImageProjections(nn.Module):
    """The image's keys, values and queries in the first block.

    Args:
        model: in evaluation mode; its weights are copied.
    """

    def __init__(self, model: Sam) -> None:
        super().__init__()
        block = first_block(model)
        gather, spread = block.cross_attn_token_to_image, block.cross_attn_image_to_token
        self.keys, self.queries = _as_convolution(gather.k_proj), _as_convolution(spread.q_proj)
        self.values = _as_convolution(gather.v_proj)
        self.positions: Tensor
        self.register_buffer("positions", model.prompt_encoder.get_dense_pe().detach())

    def forward(self, image_embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, C, E, E] to `PROJECTIONS`, [N, C/2, E, E] each."""
        placed = image_embeddings + self.positions
        return self.keys(placed), self.values(image_embeddings), self.queries(placed)


class GatherFromProjected(nn.Module):
    """Attention of the tokens to an image that was projected ahead.

    Args:
        attention: what to rewrite; in evaluation mode, its weights are copied.
        mask_rows: [F, C], what a mask prompt's narrow channels add to the image.
    """

    def __init__(self, attention: Attention, mask_rows: Tensor) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.q_proj, self.out_proj = attention.q_proj, attention.out_proj
        self.mask_keys: Tensor
        self.mask_values: Tensor
        self.register_buffer("mask_keys", by_head(attention.k_proj.weight, self.num_heads) @ mask_rows.t())
        values = by_head(attention.v_proj.weight, self.num_heads) @ mask_rows.t()
        self.register_buffer("mask_values", values.transpose(1, 2).contiguous())

    def forward(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Let each token gather from all positions.

        Args:
            q: tokens [P, T, C].
            keys: `image_keys`, [1, C/2, E, E].
            values: `image_values`, [1, C/2, E, E].
            mask: the mask prompts' narrow channels [P, F, N].

        Returns:
            [P, T, C].
        """
        prompts, tokens, positions = q.shape[0], q.shape[1], mask.shape[2]
        heads = (1, self.num_heads, self.head_dim, positions)
        asked = split_heads(self.q_proj(q), self.num_heads) * self.head_dim**-0.5
        weights = (asked @ keys.reshape(heads) + _times(asked @ self.mask_keys, mask)).softmax(dim=-1)
        flat = weights.reshape(prompts, self.num_heads * tokens, positions)
        masked = (flat @ mask.transpose(1, 2)).reshape(prompts, self.num_heads, tokens, -1)  # [P, heads, T, F]
        gathered = weights @ values.reshape(heads).transpose(2, 3) + masked @ self.mask_values
        out: Tensor = self.out_proj(join_heads(gathered))
        return out


class SpreadToProjected(SpreadToImage):
    """Attention of an image whose queries were projected ahead to the tokens; arguments as `GatherFromProjected`."""

    def __init__(self, attention: Attention, mask_rows: Tensor) -> None:
        super().__init__(attention)
        self.mask_queries: Tensor
        self.register_buffer("mask_queries", self.queries @ mask_rows.t())
        del self.queries, self.query_bias

    def forward(self, queries: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Let each position gather from all tokens.

        Args:
            queries: `image_queries`, [1, C/2, E, E].
            k: tokens [P, T, C].
            v: tokens [P, T, C].
            mask: the mask prompts' narrow channels [P, F, N].

        Returns:
            [P, N, C].
        """
        offered = self.offer(k)
        heads = queries.reshape(1, self.num_heads, self.head_dim, mask.shape[2])
        return self.spread(offered @ heads + _times(offered @ self.mask_queries, mask), v)


def _times(rows: Tensor, mask: Tensor) -> Tensor:
    """[P, heads, T, F] and [P, F, N] to [P, heads, T, N], as one product of matrices for each prompt."""
    prompts, heads, tokens, narrow = rows.shape
    return (rows.reshape(prompts, heads * tokens, narrow) @ mask).reshape(prompts, heads, tokens, -1)


def _as_convolution(linear: nn.Linear) -> nn.Conv2d:
    convolution = nn.Conv2d(linear.in_features, linear.out_features, 1, dtype=linear.weight.dtype)
    convolution.weight = nn.Parameter(linear.weight.detach()[:, :, None, None])
    convolution.bias = nn.Parameter(linear.bias.detach() + torch.zeros_like(linear.bias))
    return convolution
