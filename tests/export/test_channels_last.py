"""The channels-last upsampling computes what the transposed convolutions do."""

import pytest
import torch
from torch import nn

from samsdk_export.channels_last import ChannelsLastUpscaling, _as_linear
from samsdk_training.models.layer_norm import LayerNorm2d


def test_a_transposed_convolution_is_a_linear_layer_to_four_children() -> None:
    torch.manual_seed(0)
    plain = nn.ConvTranspose2d(6, 5, 2, stride=2).double()
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    children = _as_linear(plain)(x.permute(0, 2, 3, 1))  # [2, 3, 4, 4 * 5]
    wanted = plain(x)  # [2, 5, 6, 8]
    for dy in range(2):
        for dx in range(2):
            first = 5 * (2 * dy + dx)
            mine = children[..., first : first + 5].permute(0, 3, 1, 2)
            torch.testing.assert_close(mine, wanted[:, :, dy::2, dx::2], rtol=0, atol=1e-13)


def test_any_other_layer_is_refused() -> None:
    for layer in (nn.ConvTranspose2d(4, 4, 3, stride=2), nn.ConvTranspose2d(4, 4, 2), nn.Conv2d(4, 4, 2, stride=2)):
        with pytest.raises(TypeError, match="expected a transposed convolution of kernel and stride 2"):
            _as_linear(layer)


@pytest.mark.parametrize("skip", [True, False], ids=["with skip", "without"])
def test_masks_equal_those_of_the_plain_upscaling(skip: bool) -> None:
    torch.manual_seed(2)
    side, prompts, masks = 3, 2, 4
    first, second = nn.ConvTranspose2d(32, 8, 2, stride=2), nn.ConvTranspose2d(8, 4, 2, stride=2)
    plain = nn.Sequential(first, LayerNorm2d(8), nn.GELU(), second, nn.GELU()).double()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    rows, filters = (torch.randn(prompts, count, width, dtype=torch.float64) for count, width in ((9, 32), (masks, 4)))
    features = torch.randn(1, 8, 2 * side, 2 * side, dtype=torch.float64) if skip else None
    _, *rest = plain
    image = first(rows.transpose(1, 2).reshape(prompts, 32, side, side))
    image = image if features is None else image + features
    for layer in rest:
        image = layer(image)
    wanted = torch.einsum("pmc,pcyx->pmyx", filters, image)
    mine = ChannelsLastUpscaling(plain, side)(filters, rows, features)
    torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-12)
