"""The mask decoder's upsampling with channels last, exactly: no image-sized transpose, no transposed convolution.

The transformer leaves the image as [P, positions, C]. A transposed convolution of kernel 2 and stride 2 gives each
position four children of their own, so that it is one matrix product of C to 4 C' on what lies there already; the
children stay beside their parent, the normalisation runs over the last axis, and only the finished masks (M numbers a
pixel instead of C/8) are brought into the order of an image.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from samsdk_training.models.layer_norm import LayerNorm2d


class ChannelsLastUpscaling(nn.Module):
    """A mask decoder's `output_upscaling` on rows.

    Args:
        upscaling: in evaluation mode; its weights are copied.
        side: E, of the image embedding.
    """

    def __init__(self, upscaling: nn.Sequential, side: int) -> None:
        super().__init__()
        self.side = side
        first, norm, _, second, _ = upscaling
        if not isinstance(norm, LayerNorm2d):
            raise TypeError(f"expected a normalisation over channels, got {norm}")
        self.norm = nn.LayerNorm(norm.weight.shape[0], norm.eps)
        self.norm.weight, self.norm.bias = norm.weight, norm.bias
        self.first, self.second = _as_linear(first), _as_linear(second)

    def forward(self, filters: Tensor, image: Tensor, high_res_features: Tensor | None) -> Tensor:
        """Masks' logits.

        Args:
            filters: what each mask looks for, [P, M, C/8].
            image: rows of the transformer, [P, E * E, C].
            high_res_features: [1, C/4, 2E, 2E] or None.

        Returns:
            [P, M, 4E, 4E].
        """
        (prompts, positions, width), channels = image.shape, self.norm.weight.shape[0]
        # Two axes, because engines have a product with a bias for matrices alone.
        children = self.first(image.reshape(prompts * positions, width)).reshape(-1, channels)
        if high_res_features is not None:
            skip = self._beside_parents(high_res_features)
            children = (children.reshape(prompts, 4 * positions, channels) + skip).reshape(-1, channels)
        children = functional.gelu(self.norm(children))
        pixels = functional.gelu(self.second(children)).reshape(prompts, 16 * positions, -1)
        return self._as_image(filters @ pixels.transpose(1, 2))

    def _beside_parents(self, features: Tensor) -> Tensor:
        """[1, C/4, 2E, 2E] in the order of the children, [1, 4 E * E, C/4]."""
        count, channels = features.shape[:2]
        split = features.reshape(count, channels, self.side, 2, self.side, 2)
        return split.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, channels)

    def _as_image(self, logits: Tensor) -> Tensor:
        """[P, M, E * E * 2 * 2 * 2 * 2] in the order of the grandchildren as [P, M, 4E, 4E]."""
        prompts, masks, _ = logits.shape
        # Seven axes, because engines allow eight at most: prompts and masks share one.
        split = logits.reshape(-1, self.side, self.side, 2, 2, 2, 2)  # [P * M, y, x, dy, dx, dy', dx']
        return split.permute(0, 1, 3, 5, 2, 4, 6).reshape(prompts, masks, 4 * self.side, 4 * self.side)


def _as_linear(convolution: nn.Module) -> nn.Linear:
    """A transposed convolution of kernel 2 and stride 2 as a linear layer to four children, row by row."""
    if not isinstance(convolution, nn.ConvTranspose2d) or (convolution.kernel_size, convolution.stride) != (
        (2, 2),
        (2, 2),
    ):
        raise TypeError(f"expected a transposed convolution of kernel and stride 2, got {convolution}")
    weight, bias = convolution.weight.detach(), convolution.bias
    inputs, outputs = weight.shape[:2]
    linear = nn.Linear(inputs, 4 * outputs, device=weight.device, dtype=weight.dtype)
    linear.weight = nn.Parameter(weight.permute(2, 3, 1, 0).reshape(4 * outputs, inputs).contiguous())
    linear.bias = nn.Parameter((torch.zeros(outputs) if bias is None else bias.detach()).repeat(4))
    return linear
