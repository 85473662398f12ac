"""The absorbed decoder computes what the plain one does."""

import copy

import pytest
import torch

from samsdk_export.absorbed import GatherFromImage, SpreadToImage, absorb_projections
from samsdk_export.graphs import DecoderGraph
from samsdk_training.models.sam import DecoderConfig, SamConfig, build_sam
from samsdk_training.models.student import StudentEncoderConfig
from samsdk_training.models.transformer import Attention


@pytest.mark.parametrize("rewrite", [GatherFromImage, SpreadToImage])
@pytest.mark.parametrize(("prompts", "tokens", "positions"), [(1, 7, 100), (5, 1, 9), (3, 12, 64)])
def test_an_absorbed_attention_equals_the_plain_one(
    rewrite: type[GatherFromImage | SpreadToImage], prompts: int, tokens: int, positions: int
) -> None:
    torch.manual_seed(0)
    plain = Attention(32, 4, downsample=2).double()
    few, few_values = torch.randn(2, prompts, tokens, 32, dtype=torch.float64) * 3
    many, many_values = torch.randn(2, prompts, positions, 32, dtype=torch.float64) * 3
    given = (few, many, many_values) if rewrite is GatherFromImage else (many, few, few_values)
    torch.testing.assert_close(rewrite(plain)(*given), plain(*given), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("prompts", "tokens"), [(1, 1), (1, 2), (4, 6), (2, 0)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_the_absorbed_decoder_answers_all_prompts_as_the_plain_one(
    prompts: int, tokens: int, dtype: torch.dtype, bound: float
) -> None:
    torch.manual_seed(1)
    encoder = StudentEncoderConfig(64, stem_channels=8, widths=(8, 16, 16, 24), depths=(1, 1, 1, 1), out_channels=32)
    model = build_sam(SamConfig(encoder, DecoderConfig(num_heads=4, mlp_dim=64, iou_head_hidden_dim=32))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    plain = DecoderGraph(model.to(dtype))
    absorbed = copy.deepcopy(plain)
    absorb_projections(absorbed.mask_decoder)
    given = (
        torch.randn(1, 32, 8, 8, dtype=dtype),
        torch.rand(prompts, tokens, 2, dtype=dtype) * 64,
        torch.tensor([[1.0, 0, 2, 3, -1, 1]], dtype=dtype)[:, :tokens].repeat(prompts, 1),
        torch.randn(prompts, 1, 32, 32, dtype=dtype),
        (torch.arange(prompts) % 2).to(dtype),
        torch.randn(1, 8, 16, 16, dtype=dtype),
    )
    with torch.no_grad():
        for mine, theirs in zip(absorbed(*given), plain(*given), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=bound * max(1.0, theirs.abs().max().item()))
