import pytest
import torch

from samsdk_training.models import MaskDecoder, TwoWayTransformer

FULL = {"dim": 256, "heads": 8, "mlp": 2048, "hidden": 256, "masks": 3}
SMALL = {"dim": 32, "heads": 4, "mlp": 48, "hidden": 24, "masks": 2}


@pytest.fixture(scope="module")
def pairs(segment_anything, randomise):
    """Published decoders with random weights, and ours with the same ones."""
    return {name: make_pair(segment_anything, randomise, **shape) for name, shape in (("full", FULL), ("small", SMALL))}


def make_pair(published, randomise, *, dim: int, heads: int, mlp: int, hidden: int, masks: int):
    torch.manual_seed(0)
    oracle = published.MaskDecoder(
        transformer_dim=dim,
        transformer=published.TwoWayTransformer(depth=2, embedding_dim=dim, num_heads=heads, mlp_dim=mlp),
        num_multimask_outputs=masks,
        iou_head_hidden_dim=hidden,
    )
    randomise(oracle, 1)
    ours = MaskDecoder(
        transformer=TwoWayTransformer(2, dim, heads, mlp),
        transformer_dim=dim,
        num_multimask_outputs=masks,
        iou_head_hidden_dim=hidden,
    )
    ours.load_state_dict(oracle.state_dict(), strict=True)
    oracle.load_state_dict(ours.state_dict(), strict=True)
    return oracle, ours


def inputs(ours: MaskDecoder, side: int, prompts: int, tokens: int, dtype: torch.dtype = torch.float32):
    dim = ours.mask_tokens.weight.shape[1]
    generator = torch.Generator().manual_seed(side + 10 * prompts + tokens)
    shapes = [(1, dim, side, side), (1, dim, side, side), (prompts, tokens, dim), (prompts, dim, side, side)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize(
    ("name", "side", "prompts", "tokens"),
    [("full", 64, 1, 2), ("full", 64, 4, 3), ("full", 16, 4, 6), ("small", 16, 1, 0), ("small", 16, 4, 5)],
)
def test_agrees_with_segment_anything(pairs, name, side, prompts, tokens, multimask, relative_error) -> None:
    oracle, ours = pairs[name]
    given = inputs(ours, side, prompts, tokens)
    with torch.inference_mode():
        masks, quality = ours(*given, multimask_output=multimask)
        expected_masks, expected_quality = oracle(*given, multimask_output=multimask)
    assert relative_error(masks, expected_masks) <= 1e-5
    assert relative_error(quality, expected_quality) <= 1e-5


@pytest.mark.parametrize("name", ["full", "small"])
@pytest.mark.parametrize("prompts", [1, 4])
def test_agrees_with_segment_anything_in_double_precision(
    segment_anything, randomise, name, prompts, relative_error
) -> None:
    pair = make_pair(segment_anything, randomise, **(FULL if name == "full" else SMALL))
    oracle, ours = (module.double() for module in pair)
    given = inputs(ours, 16, prompts, 4, torch.float64)
    with torch.inference_mode():
        masks, quality = ours.predict_masks(*given)
        expected_masks, expected_quality = oracle.predict_masks(*given)
    assert relative_error(masks, expected_masks) <= 1e-12
    assert relative_error(quality, expected_quality) <= 1e-12


@pytest.mark.parametrize("prompts", [1, 4])
def test_transformer_agrees_with_segment_anything(pairs, prompts, relative_error) -> None:
    oracle, ours = pairs["full"]
    image, positions, tokens, _ = inputs(ours, 16, prompts, 5)
    images = image.repeat(prompts, 1, 1, 1)
    with torch.inference_mode():
        got = ours.transformer(images, positions, tokens)
        expected = oracle.transformer(images, positions.repeat(prompts, 1, 1, 1), tokens)
    for one, other in zip(got, expected, strict=True):
        assert relative_error(one, other) <= 1e-5


def test_one_image_per_prompt_gives_what_each_gives_alone(pairs, relative_error) -> None:
    oracle, ours = pairs["small"]
    _, positions, sparse, dense = inputs(ours, 16, 4, 3)
    images = torch.randn(4, *positions.shape[1:], generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        masks, quality = ours(images, positions, sparse, dense, multimask_output=True)
        for i in range(4):
            one = slice(i, i + 1)
            alone = oracle(images[one], positions, sparse[one], dense[one], multimask_output=True)
            assert relative_error(masks[one], alone[0]) <= 1e-5
            assert relative_error(quality[one], alone[1]) <= 1e-5


def test_the_single_and_the_several_masks_are_parts_of_all(pairs, relative_error) -> None:
    _, ours = pairs["small"]
    given = inputs(ours, 16, 2, 3)
    with torch.inference_mode():
        masks, quality = ours.predict_masks(*given)
        single, several = ours(*given, multimask_output=False), ours(*given, multimask_output=True)
    assert relative_error(torch.cat([single[0], several[0]], dim=1), masks) <= 1e-6
    assert torch.equal(torch.cat([single[1], several[1]], dim=1), quality)


def test_images_that_match_neither_one_nor_the_prompts_are_refused(pairs) -> None:
    _, ours = pairs["small"]
    image, positions, sparse, dense = inputs(ours, 16, 4, 3)
    with pytest.raises(RuntimeError, match="expand"):
        ours(image.repeat(2, 1, 1, 1), positions, sparse, dense, multimask_output=False)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="not a multiple of 7 heads"):
        TwoWayTransformer(2, 32, 7, 64)
