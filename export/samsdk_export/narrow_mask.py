"""The mask prompt kept as narrow as it is, exactly.

SAM blows a mask prompt up to the embedding's C channels by its last, linear, 1 x 1 convolution, and chooses between
that and a constant where there is no mask. What is added to the image is therefore a matrix [N, F] of few columns (the
hidden channels, whether there is a mask, whether there is none) times a constant [F, C].

The few channels lie before the positions, [P, F, N], so that each operation runs along thousands of positions, and the
normalisations' means are folded into the convolutions before them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from samsdk_training.models.layer_norm import LayerNorm2d
from samsdk_training.models.prompt_encoder import PromptEncoder

# Children of a position of the embedding, in each of the two convolutions of kernel and stride 2.
_CHILDREN = 4


class NarrowMask(nn.Module):
    """Mask prompts as F narrow channels; `rows` [F, C] is what each of these adds to the image.

    Args:
        encoder: in evaluation mode; its weights are copied.
    """

    def __init__(self, encoder: PromptEncoder) -> None:
        super().__init__()
        first, first_norm, _, second, second_norm, _, last = encoder.mask_downscaling
        self.side = encoder.embedding_side
        weight, bias = _parameters(first)
        self.first = CentredNorm(weight.reshape(-1, _CHILDREN), bias, first_norm, copies=_CHILDREN)
        weight, bias = _parameters(second)
        self.second = CentredNorm(weight.permute(0, 2, 3, 1).flatten(1), bias, second_norm, copies=1)
        weight, bias = _parameters(last)
        self.rows: Tensor
        rows = torch.cat([weight.flatten(1).t(), bias[None], encoder.no_mask_embed.weight.detach()])
        self.register_buffer("rows", rows)

    def forward(self, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
        """Narrow channels.

        Args:
            mask_input: [P, 1, 4E, 4E].
            has_mask_input: [P], 1 or 0.

        Returns:
            [P, F, E * E].
        """
        side = self.side
        split = mask_input.reshape(-1, side, 2, 2, side, 2, 2)  # [P, y, dy, dy', x, dx, dx']
        pixels = split.permute(0, 2, 5, 3, 6, 1, 4).reshape(-1, _CHILDREN**2, side**2)
        hidden = functional.gelu(self.second(functional.gelu(self.first(pixels))))
        has = has_mask_input.reshape(-1, 1, 1)
        ones = torch.ones_like(hidden[:1, :1])
        return torch.cat([hidden * has, ones * has, ones * (1 - has)], dim=1)


class CentredNorm(nn.Module):
    """A product with a matrix and a normalisation over its rows, for several copies side by side.

    Args:
        weight: [out, in] of one copy.
        bias: [out].
        norm: over the `out` channels of each copy.
        copies: rows are [copies, out], columns [copies, in].
    """

    def __init__(self, weight: Tensor, bias: Tensor, norm: nn.Module, copies: int) -> None:
        super().__init__()
        if not isinstance(norm, LayerNorm2d):
            raise TypeError(f"expected a normalisation over channels, got {norm}")
        channels = len(weight)
        centre = torch.eye(channels, dtype=weight.dtype) - 1 / channels
        self.copies, self.channels, self.eps = copies, channels, norm.eps
        self.weight: Tensor
        self.bias: Tensor
        self.gain: Tensor
        self.shift: Tensor
        self.register_buffer("weight", torch.block_diag(*[centre @ weight] * copies))  # type: ignore[no-untyped-call]
        self.register_buffer("bias", _column(centre @ bias.detach(), copies))
        self.register_buffer("gain", _column(norm.weight.detach(), copies))
        self.register_buffer("shift", _column(norm.bias.detach(), copies))

    def forward(self, x: Tensor) -> Tensor:
        """[P, copies * in, N] to [P, copies * out, N]."""
        positions = x.shape[2]
        centred = (self.weight @ x + self.bias).reshape(-1, self.copies, self.channels, positions)
        variance = (centred * centred).mean(dim=2, keepdim=True)
        normalised = (centred / torch.sqrt(variance + self.eps)).reshape(-1, self.copies * self.channels, positions)
        return normalised * self.gain + self.shift


def _parameters(convolution: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias."""
    if not isinstance(convolution, nn.Conv2d) or convolution.bias is None:
        raise TypeError(f"expected a convolution with a bias, got {convolution}")
    return convolution.weight.detach(), convolution.bias.detach()


def _column(values: Tensor, copies: int) -> Tensor:
    return values.repeat(copies)[:, None].contiguous()
