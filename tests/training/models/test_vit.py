from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from samsdk_training.models import SamConfig, VitConfig, VitEncoder, build_sam, sam_med2d_config, sam_vit_config
from samsdk_training.models.sam_config import DecoderConfig

SMALL = VitConfig(image_size=64, embed_dim=24, depth=3, num_heads=3, global_blocks=(1,), out_channels=16)


def published_encoder(segment_anything, config: VitConfig) -> nn.Module:
    return segment_anything.ImageEncoderViT(
        img_size=config.image_size,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        out_chans=config.out_channels,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window_size,
        global_attn_indexes=config.global_blocks,
    )


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ("b", (89_670_912, 6_220, 4_058_340, 93_735_472)),
        ("l", (308_278_272, 6_220, 4_058_340, 312_342_832)),
        ("h", (637_026_048, 6_220, 4_058_340, 641_090_608)),
    ],
)
def test_sam_has_the_published_number_of_parameters(size, counts) -> None:
    with torch.device("meta"):
        sam = build_sam(sam_vit_config(size))
    parts = [sum(p.numel() for p in part.parameters()) for part in sam.children()]
    assert (*parts, sum(parts)) == counts


@pytest.mark.parametrize("size", ["b", "l", "h"])
def test_sam_has_the_published_tensors(segment_anything, size) -> None:
    config = sam_vit_config(size)
    with torch.device("meta"):
        ours = build_sam(config).image_encoder.state_dict()
        published = published_encoder(segment_anything, config.encoder).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {k: t.shape for k, t in published.items()}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, id="one window, padded"),
        pytest.param({"image_size": 512, "depth": 2}, id="32 tokens: nine windows, padded"),
        pytest.param({"image_size": 224}, id="14 tokens: one window, whole"),
        pytest.param({"image_size": 448, "depth": 2}, id="28 tokens: four windows, whole"),
        pytest.param({"image_size": 272, "window_size": 5}, id="17 tokens, windows of 5"),
        pytest.param({"image_size": 112, "window_size": 3, "num_heads": 1}, id="7 tokens, windows of 3, one head"),
        pytest.param({"image_size": 16}, id="one token"),
        pytest.param({"global_blocks": ()}, id="no global block"),
        pytest.param({"global_blocks": (0, 1, 2), "image_size": 240}, id="global blocks alone"),
        pytest.param({"mlp_ratio": 2.5}, id="another MLP"),
    ],
)
def test_agrees_with_segment_anything(segment_anything, randomise, relative_error, change) -> None:
    config = replace(SMALL, **change)
    oracle = published_encoder(segment_anything, config).eval()
    randomise(oracle, 1)
    ours = VitEncoder(config).eval()
    ours.load_state_dict(oracle.state_dict(), strict=True)
    count = 1 if config.image_size > 300 else 2
    images = torch.randn(count, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert relative_error(ours(images), oracle(images)) <= 1e-5
        assert relative_error(ours.double()(images.double()), oracle.double()(images.double())) <= 1e-12


def test_the_whole_of_sam_b_agrees_with_segment_anything(segment_anything, randomise, relative_error) -> None:
    config = sam_vit_config("b", 256)
    ours = build_sam(config).eval()
    randomise(ours, 3)
    with torch.device("meta"):  # its own random weights would only cost time
        decoder = segment_anything.MaskDecoder(
            transformer_dim=256, transformer=segment_anything.TwoWayTransformer(2, 256, 8, 2048)
        )
        prompts = segment_anything.PromptEncoder(256, (16, 16), (256, 256), 16)
        oracle = segment_anything.Sam(published_encoder(segment_anything, config.encoder), prompts, decoder).eval()
    oracle.load_state_dict(ours.state_dict(), strict=True, assign=True)
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(1, 3, 256, 256, generator=generator)
    given = {
        "point_coords": 256 * torch.rand(3, 2, 2, generator=generator),
        "point_labels": torch.tensor([[1, 0], [1, 1], [0, 1]]),
        "boxes": torch.tensor([[10.0, 20.0, 90.0, 100.0], [0.0, 0.0, 255.0, 255.0], [50.0, 60.0, 70.0, 80.0]]),
        "mask_inputs": torch.randn(3, 1, 64, 64, generator=generator),
    }
    points = (given["point_coords"], given["point_labels"])
    with torch.inference_mode():
        embedding = oracle.image_encoder(image)
        assert relative_error(ours.image_encoder(image), embedding) <= 1e-5
        sparse, dense = oracle.prompt_encoder(points, given["boxes"], given["mask_inputs"])
        expected = oracle.mask_decoder(embedding, oracle.prompt_encoder.get_dense_pe(), sparse, dense, True)
        got = ours(image, points=points, boxes=given["boxes"], masks=given["mask_inputs"], multimask_output=True)
        assert relative_error(got[0], expected[0]) <= 1e-5
        assert relative_error(got[1], expected[1]) <= 1e-5


def test_gradients_reach_every_parameter_and_are_those_of_segment_anything(
    segment_anything, randomise, relative_error
) -> None:
    config = replace(SMALL, image_size=80, window_size=3)
    oracle = published_encoder(segment_anything, config).double()
    randomise(oracle, 4)
    ours = VitEncoder(config).double()
    ours.load_state_dict(oracle.state_dict())
    image = torch.randn(2, 3, 80, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for encoder in (ours, oracle):
        encoder(image).square().sum().backward()
    expected = dict(oracle.named_parameters())
    for name, parameter in ours.named_parameters():
        assert relative_error(parameter.grad, expected[name].grad) <= 1e-10, name


def published_block(block, adapter, x, adapters: str):
    """The block stated again from the description: attention and residual, then MLP and adapter."""
    attended = block._attend(block.norm1(x))
    x = x + (adapter(attended) if adapters == "figure" else attended)
    normed = block.norm2(x)
    return x + block.mlp(normed) + (adapter(normed) if adapters == "code" else 0)


def published_adapter(weights, x):
    """SAM-Med2D's adapter, stated again with functions: gate, stride-2 detour, residual, layer norm."""
    z = x.permute(0, 3, 1, 2)
    pooled = torch.nn.functional.adaptive_avg_pool2d(z, 1).flatten(1)
    hidden = torch.relu(pooled @ weights["channel.0.weight"].T)
    gated = torch.sigmoid(hidden @ weights["channel.2.weight"].T)[:, :, None, None] * z
    down = torch.relu(torch.nn.functional.conv2d(gated, weights["spatial.0.weight"], stride=2, padding=1))
    up = torch.relu(torch.nn.functional.conv_transpose2d(down, weights["spatial.2.weight"], stride=2, padding=1))
    summed = (z + up).permute(0, 2, 3, 1)
    norm = torch.nn.functional.layer_norm(summed, x.shape[-1:], eps=1e-5)
    return norm * weights["norm.weight"] + weights["norm.bias"]


@pytest.mark.parametrize("adapters", ["code", "figure"])
def test_adapters_stand_where_the_configuration_says(randomise, relative_error, adapters) -> None:
    config = replace(SMALL, adapters=adapters, image_size=96)
    encoder = VitEncoder(config).double().eval()
    randomise(encoder, 6)
    x = torch.randn(2, 6, 6, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for block in encoder.blocks:
        weights = block.Adapter.state_dict()
        assert set(weights) == {
            "norm.weight",
            "norm.bias",
            "channel.0.weight",
            "channel.2.weight",
            "spatial.0.weight",
            "spatial.2.weight",
        }
        with torch.inference_mode():
            expected = published_block(block, partial(published_adapter, weights), x, adapters)
            assert relative_error(block(x), expected) <= 1e-12
            x = expected


def test_sam_med2d_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = build_sam(sam_med2d_config())
    adapters = [block.Adapter for block in model.image_encoder.blocks]
    assert {sum(p.numel() for p in adapter.parameters()) for adapter in adapters} == {15_042_048}
    assert sum(p.numel() for p in model.parameters()) == 271_241_776
    assert sum(p.numel() for p in model.parameters()) - 12 * 15_042_048 == 90_737_200
    assert "image_encoder.blocks.11.Adapter.spatial.2.weight" in model.state_dict()


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="expected images of 64 x 64"):
        VitEncoder(SMALL)(torch.zeros(1, 3, 128, 128))


def test_a_configuration_survives_json_and_gives_the_shapes() -> None:
    config = SamConfig(replace(SMALL, adapters="figure"), DecoderConfig(num_heads=2, mlp_dim=32))
    assert SamConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["encoder"]["architecture"] == "vit"
    model = build_sam(config)
    assert (model.image_size, model.embedding_side, model.prompt_encoder.mask_side) == (64, 4, 16)
    assert model.image_encoder.embedding_shapes == {"image_embeddings": (16, 4, 4)}
    assert model.image_encoder(torch.zeros(2, 3, 64, 64)).shape == (2, 16, 4, 4)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"image_size": 1000}, "image_size must be a multiple of 16, got 1000"),
        ({"num_heads": 5}, "num_heads 5 must divide embed_dim 24"),
        ({"global_blocks": (1, 3)}, r"global_blocks must be numbers below the depth 3, got \(1, 3\)"),
        ({"adapters": "lora"}, "adapters must be one of none, code, figure, got 'lora'"),
        ({"adapters": "code", "image_size": 48}, "with adapters image_size must be a multiple of 32, got 48"),
    ],
)
def test_configurations_that_cannot_be_built_are_refused(change, text) -> None:
    with pytest.raises(ValueError, match=text):
        replace(SMALL, **change)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a ViT out of b, l, h, got 'g'"):
        sam_vit_config("g")
