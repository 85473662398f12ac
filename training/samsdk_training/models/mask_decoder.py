"""The mask decoder: image embedding and prompt embeddings to mask logits and predicted quality.

After Segment Anything (Kirillov et al., 2023, https://github.com/facebookresearch/segment-anything, Apache-2.0); the
state-dict keys are those of the published weights.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from samsdk_training.models.layer_norm import LayerNorm2d
from samsdk_training.models.transformer import TwoWayTransformer


class Mlp(nn.Module):
    """Linear layers with ReLUs between them.

    Args:
        dim_in: Width of the input.
        hidden: Width between the layers.
        dim_out: Width of the output.
        depth: Number of linear layers.
    """

    def __init__(self, dim_in: int, hidden: int, dim_out: int, depth: int) -> None:
        super().__init__()
        widths = [dim_in, *[hidden] * (depth - 1), dim_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., dim_in] to [..., dim_out]."""
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


class MaskDecoder(nn.Module):
    """Predict one mask for a clear prompt, or several for an ambiguous one.

    Args:
        transformer: The two-way transformer, of width `transformer_dim`.
        transformer_dim: Width C of all embeddings.
        num_multimask_outputs: Masks offered for an ambiguous prompt; one more token serves the clear ones.
        iou_head_depth: Linear layers of the quality head.
        iou_head_hidden_dim: Hidden width of the quality head.
    """

    def __init__(
        self,
        *,
        transformer: TwoWayTransformer,
        transformer_dim: int,
        num_multimask_outputs: int = 3,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.num_mask_tokens = num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(transformer_dim, transformer_dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(transformer_dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(transformer_dim // 4, transformer_dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Mlp(transformer_dim, transformer_dim, transformer_dim // 8, 3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = Mlp(transformer_dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        high_res_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks for P prompts.

        Args:
            image_embeddings: [1, C, E, E], shared by all prompts, or [P, C, E, E], one image each.
            image_pe: Positions of the image embedding, [1, C, E, E].
            sparse_prompt_embeddings: [P, T, C].
            dense_prompt_embeddings: [P, C, E, E].
            multimask_output: True for the masks of an ambiguous prompt, False for the single one of a clear prompt.
            high_res_features: [1, C/4, 2E, 2E] or [P, C/4, 2E, 2E], added where the mask is upsampled (SAM 2's skip);
                None for encoders that have none.

        Returns:
            Logits [P, M, 4E, 4E] (foreground above 0) and predicted IoU [P, M], unbounded but trained towards [0, 1]; M
            is `num_multimask_outputs` or 1.
        """
        tokens, flat = self.attend(image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings)
        wanted = range(1, self.num_mask_tokens) if multimask_output else range(1)
        return self._masks(tokens, _as_map(flat, image_embeddings), wanted, high_res_features)

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        high_res_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks of all tokens, the single one first; arguments and results otherwise as in `forward`."""
        tokens, flat = self.attend(image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings)
        wanted = range(self.num_mask_tokens)
        return self._masks(tokens, _as_map(flat, image_embeddings), wanted, high_res_features)

    def attend(self, image: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Let tokens and image attend to each other; arguments as those of `forward`.

        Returns:
            The tokens, [P, 1 + masks + T, C], and the image, [P, E * E, C], rows first.
        """
        placed = image.expand(sparse.shape[0], -1, -1, -1) + dense  # [P, C, E, E]
        attended: tuple[Tensor, Tensor] = self.transformer(placed, image_pe, self.tokens(sparse))
        return attended

    def tokens(self, sparse: Tensor) -> Tensor:
        """The learned tokens before those of the prompt, [P, 1 + masks + T, C]; `sparse` as in `forward`."""
        learned = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # [1 + masks, C]
        return torch.cat([learned.expand(sparse.shape[0], -1, -1), sparse], dim=1)

    def filters(self, tokens: Tensor, wanted: range) -> Tensor:
        """What the wanted masks look for in the upsampled image, [P, M, C/8]; `tokens` as `attend` gives them."""
        # Token 0 predicts the quality of the masks; the mask tokens follow it.
        return torch.stack([self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in wanted], dim=1)

    def _masks(self, tokens: Tensor, image: Tensor, wanted: range, skip: Tensor | None) -> tuple[Tensor, Tensor]:
        first, *rest = self.output_upscaling
        upscaled = first(image)  # [P, C/4, 2E, 2E]
        if skip is not None:
            upscaled = upscaled + skip
        for layer in rest:
            upscaled = layer(upscaled)  # [P, C/8, 4E, 4E]
        logits = (self.filters(tokens, wanted) @ upscaled.flatten(2)).reshape(-1, len(wanted), *upscaled.shape[2:])
        quality = self.iou_prediction_head(tokens[:, 0])
        return logits, quality[:, wanted.start : wanted.stop]


def _as_map(flat: Tensor, like: Tensor) -> Tensor:
    """[P, E * E, C] as [P, C, E, E]."""
    return flat.transpose(1, 2).reshape(-1, *like.shape[1:])
