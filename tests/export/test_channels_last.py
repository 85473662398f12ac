"""The channels-last upsampling computes what the transposed convolutions do."""

import copy

import pytest
import torch
from torch import nn

from samsdk_export.absorbed import absorb_projections
from samsdk_export.channels_last import ChannelsLastMasks, _as_linear
from samsdk_export.graphs import DecoderGraph
from samsdk_training.models import SamConfig, StudentEncoderConfig, build_sam
from samsdk_training.models.sam import DecoderConfig, Sam
from samsdk_training.models.tiny_vit import TinyViTConfig

STUDENT = StudentEncoderConfig(64, stem_channels=8, widths=(8, 16, 16, 24), depths=(1, 1, 1, 1), out_channels=32)
TINY_VIT = TinyViTConfig(
    image_size=64,
    embed_dims=(8, 16),
    depths=(1, 1),
    num_heads=(1, 2),
    window_sizes=(7, 7),
    strides=(4,),
    out_channels=32,
)


def model_of(encoder: StudentEncoderConfig | TinyViTConfig) -> Sam:
    torch.manual_seed(1)
    model = build_sam(SamConfig(encoder, DecoderConfig(num_heads=4, mlp_dim=64, iou_head_hidden_dim=32))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model


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


@pytest.mark.parametrize("encoder", [STUDENT, TINY_VIT], ids=["with skip", "without"])
@pytest.mark.parametrize(("prompts", "tokens"), [(1, 2), (4, 6), (2, 0)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_the_rewritten_decoder_answers_as_the_plain_one(
    encoder: StudentEncoderConfig | TinyViTConfig, prompts: int, tokens: int, dtype: torch.dtype, bound: float
) -> None:
    plain = DecoderGraph(model_of(encoder).to(dtype))
    shape, *skips = model_of(encoder).image_encoder.embedding_shapes.values()
    rewritten = copy.deepcopy(plain)
    absorb_projections(rewritten.mask_decoder)
    rewritten.mask_decoder = ChannelsLastMasks(rewritten.mask_decoder, shape[-1])
    given = (
        torch.randn(1, *shape, dtype=dtype),
        torch.rand(prompts, tokens, 2, dtype=dtype) * 64,
        torch.tensor([[1.0, 0, 2, 3, -1, 1]], dtype=dtype)[:, :tokens].repeat(prompts, 1),
        torch.randn(prompts, 1, 4 * shape[-1], 4 * shape[-1], dtype=dtype),
        (torch.arange(prompts) % 2).to(dtype),
        *(torch.randn(1, *skip, dtype=dtype) for skip in skips),
    )
    with torch.no_grad():
        for mine, theirs in zip(rewritten(*given), plain(*given), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=bound * max(1.0, theirs.abs().max().item()))
