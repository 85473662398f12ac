"""Absorbed attentions compute what the plain ones do."""

import pytest
import torch

from samsdk_export.absorbed import GatherFromImage, SpreadToImage
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
