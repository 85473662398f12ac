"""The exported decoder computes what the trained one does, in double precision."""

import pytest
import torch
from torch import Tensor

from samsdk_export.ahead import GatherFromProjected, ImageProjections, SpreadToProjected, pays
from samsdk_export.graphs import DecoderGraph
from samsdk_export.rows_decoder import RowsDecoder
from samsdk_training.models import SamConfig, StudentEncoderConfig, build_sam
from samsdk_training.models.sam import Sam
from samsdk_training.models.sam_config import DecoderConfig
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


def prompts_of(model: Sam, prompts: int, tokens: int) -> tuple[Tensor, ...]:
    side = model.prompt_encoder.mask_side
    return (
        torch.rand(prompts, tokens, 2, dtype=torch.float64) * 64,
        torch.tensor([[1.0, 0, 2, 3, -1, 1]], dtype=torch.float64)[:, :tokens].repeat(prompts, 1),
        torch.randn(prompts, 1, side, side, dtype=torch.float64) * 5,
        (torch.arange(prompts) % 2).double(),
    )


@pytest.mark.parametrize("encoder", [STUDENT, TINY_VIT], ids=["with skip", "without"])
@pytest.mark.parametrize(("prompts", "tokens"), [(1, 1), (1, 2), (4, 6), (2, 0)])
@pytest.mark.parametrize(("absorbed", "ahead"), [(False, False), (True, False), (True, True)])
def test_it_answers_all_prompts_as_the_plain_one(
    encoder: StudentEncoderConfig | TinyViTConfig, prompts: int, tokens: int, absorbed: bool, ahead: bool
) -> None:
    model = model_of(encoder).double()
    shape, *skips = model.image_encoder.embedding_shapes.values()
    embedding = torch.randn(1, *shape, dtype=torch.float64)
    others = [torch.randn(1, *skip, dtype=torch.float64) for skip in skips]
    given = prompts_of(model, prompts, tokens)
    with torch.no_grad():
        projections = ImageProjections(model)(embedding) if ahead else ()
        mine = RowsDecoder(model, absorbed=absorbed, ahead=ahead)(embedding, *given, *projections, *others)
        theirs = DecoderGraph(model)(embedding, *given, *others)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11 * max(1.0, other.abs().max().item()))


def test_attentions_to_a_projected_image_with_a_mask_equal_the_plain_ones() -> None:
    model = model_of(TINY_VIT).double()
    block = model.mask_decoder.transformer.layers[0]
    embedding, narrow = torch.randn(1, 32, 16, 16).double(), torch.randn(3, 5, 256).double()
    rows, tokens = torch.randn(5, 32).double(), torch.randn(3, 4, 32).double()
    positions = model.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
    image = embedding.flatten(2).transpose(1, 2) + narrow.transpose(1, 2) @ rows
    with torch.no_grad():
        keys, values, queries = ImageProjections(model)(embedding)
        plain = block.cross_attn_token_to_image
        mine = GatherFromProjected(plain, rows)(tokens, keys, values, narrow)
        torch.testing.assert_close(mine, plain(tokens, image + positions, image), rtol=0, atol=1e-11)
        plain = block.cross_attn_image_to_token
        mine = SpreadToProjected(plain, rows)(queries, tokens, tokens, narrow)
        torch.testing.assert_close(mine, plain(image + positions, tokens, tokens), rtol=0, atol=1e-11)


def test_projecting_ahead_pays_beside_a_large_encoder_alone() -> None:
    model = model_of(TINY_VIT)
    cost = 2 * 3 * 32 * 16 * 16**2
    assert pays(model, cost * 1000 // 15 + 1)
    assert not pays(model, cost * 1000 // 15 - 1)
