"""Layer normalisation over the channels of an image.

After `LayerNorm2d` of Segment Anything (Kirillov et al., 2023, https://github.com/facebookresearch/segment-anything,
Apache-2.0): same parameters, same result up to rounding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class LayerNorm2d(nn.Module):
    """Normalise every pixel over its channels, then scale and shift each channel.

    It runs as a layer norm on the channels-last view, which exports to one LayerNormalization node that backends keep
    in fp32; the published mean, square, root chain exports to a dozen nodes, and its square overflows in fp16.

    Args:
        channels: Number of channels C.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`.

        Args:
            x: [N, C, H, W], floating point.

        Returns:
            [N, C, H, W], dtype of `x`.
        """
        x = functional.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)
