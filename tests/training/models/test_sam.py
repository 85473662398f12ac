import json

import pytest
import torch

from samsdk_training.models import (
    SamConfig,
    build_sam,
    lite_medsam_config,
    mobile_sam_config,
    sam_med2d_config,
    sam_vit_config,
)


@pytest.fixture(scope="module")
def lite_medsam():
    with torch.device("meta"):
        return build_sam(lite_medsam_config())


@pytest.mark.parametrize(
    ("part", "count"), [("image_encoder", 5_726_740), ("prompt_encoder", 6_220), ("mask_decoder", 4_058_340)]
)
def test_lite_medsam_has_the_published_number_of_parameters(lite_medsam, part, count) -> None:
    assert sum(p.numel() for p in getattr(lite_medsam, part).parameters()) == count


def test_lite_medsam_has_the_published_tensors(lite_medsam) -> None:
    assert sum(p.numel() for p in lite_medsam.parameters()) == 9_791_300
    assert len(lite_medsam.state_dict()) == 435
    assert (lite_medsam.image_size, lite_medsam.embedding_side) == (256, 64)


def test_prompt_encoder_and_decoder_take_their_sizes_from_the_encoder(small_config) -> None:
    sam = build_sam(small_config)
    assert (sam.image_size, sam.embedding_side) == (64, 16)
    assert (sam.prompt_encoder.input_size, sam.prompt_encoder.embedding_side, sam.prompt_encoder.mask_side) == (
        64,
        16,
        64,
    )


def test_mobile_sam_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = build_sam(mobile_sam_config())
    # The published file has 10,130,092: with the norm and the thousand classes of ImageNet, which SAM does not use.
    unused = 2 * 320 + 320 * 1000 + 1000
    assert sum(p.numel() for p in model.parameters()) == 9_808_452 == 10_130_092 - unused
    assert (model.image_size, model.embedding_side, model.prompt_encoder.mask_side) == (1024, 64, 256)
    assert model.image_encoder.config.sides == (256, 128, 64, 64)


def test_descriptions_of_before_the_strided_stem_mean_lite_medsam_s(small_config) -> None:
    described = small_config.to_dict()
    del described["encoder"]["stem_stride"]
    assert SamConfig.from_dict(described) == small_config


VIT_ERRORS = [
    ({"global_blocks": 2}, "encoder: global_blocks: expected a list of numbers from 0 on, got 2"),
    ({"global_blocks": [-1]}, r"global_blocks: expected a list of numbers from 0 on, got \[-1\]"),
    ({"adapters": None}, "encoder: adapters: expected a word, got None"),
    ({"adapters": "side"}, "adapters must be one of none, code, figure, got 'side'"),
    ({"depth": 1.5, "window_size": 0}, "encoder: depth: expected .* got 1.5; encoder: window_size: expected .* got 0"),
]


@pytest.mark.parametrize(("change", "text"), VIT_ERRORS)
def test_errors_in_a_vit_s_configuration_are_refused(change, text) -> None:
    described = sam_vit_config("b").to_dict()
    assert SamConfig.from_dict(described).encoder.global_blocks == (2, 5, 8, 11)
    described["encoder"].update(change)
    with pytest.raises(ValueError, match=text):
        SamConfig.from_dict(described)


@pytest.mark.parametrize("images", [1, 3])
def test_forward_is_its_three_parts_in_a_row(small_config, segment_anything, randomise, relative_error, images) -> None:
    sam = build_sam(small_config).eval()
    randomise(sam, 2)
    decoder = small_config.decoder
    oracle_prompts = segment_anything.PromptEncoder(32, (16, 16), (64, 64), small_config.mask_channels)
    oracle_decoder = segment_anything.MaskDecoder(
        transformer_dim=32,
        transformer=segment_anything.TwoWayTransformer(decoder.depth, 32, decoder.num_heads, decoder.mlp_dim),
        iou_head_hidden_dim=decoder.iou_head_hidden_dim,
    )
    oracle_prompts.load_state_dict(sam.prompt_encoder.state_dict())
    oracle_decoder.load_state_dict(sam.mask_decoder.state_dict())
    generator = torch.Generator().manual_seed(4)
    image = torch.rand(images, 3, 64, 64, generator=generator)
    points = (64 * torch.rand(3, 2, 2, generator=generator), torch.tensor([[1, 0], [1, 1], [1, -1]]))
    masks = torch.randn(3, 1, 64, 64, generator=generator)
    with torch.inference_mode():
        got = sam(image, points=points, masks=masks, multimask_output=True)
        embeddings = sam.image_encoder(image).expand(3, -1, -1, -1)
        sparse, dense = oracle_prompts(points, None, masks)
        for i in range(3):
            one = slice(i, i + 1)
            expected = oracle_decoder(embeddings[one], oracle_prompts.get_dense_pe(), sparse[one], dense[one], True)
            assert relative_error(got[0][one], expected[0]) <= 1e-5
            assert relative_error(got[1][one], expected[1]) <= 1e-5


def test_configuration_survives_json(small_config) -> None:
    for config in (
        small_config,
        lite_medsam_config(),
        mobile_sam_config(),
        sam_vit_config("l", 512),
        sam_med2d_config(),
    ):
        described = config.to_dict()
        assert json.loads(json.dumps(described)) == described
        assert SamConfig.from_dict(json.loads(json.dumps(described))) == config


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.update(architecture="sam3"), "model: expected the architecture 'sam', got 'sam3'"),
        (
            lambda c: c["encoder"].update(architecture="resnet"),
            "encoder: expected an architecture out of tiny_vit, student, vit, got 'resnet'",
        ),
        (lambda c: c["encoder"].pop("depths"), r"encoder: missing fields \['depths'\]"),
        (lambda c: c["decoder"].update(dropout=0.1), r"unknown fields \['dropout'\]"),
        (lambda c: c["decoder"].update(num_heads="8"), "decoder: num_heads: expected a positive number, got '8'"),
        (lambda c: c["encoder"].update(num_heads=4), "encoder: num_heads: expected a list of positive numbers, got 4"),
        (lambda c: c["encoder"].update(depths=[1, -1, 2, 1]), "depths: expected a list of positive numbers"),
        (lambda c: c["encoder"].update(image_size=True), "image_size: expected a positive number, got True"),
        (lambda c: c.update(mask_channels=[16]), "mask_channels: expected a whole number of at least 1"),
        (lambda c: c.update(decoder=None), "decoder: expected an object, got NoneType"),
        (lambda c: c.update(encoder=[]), "encoder: expected an architecture out of .*, got None"),
        (lambda c: c["encoder"].update(stem_stride=2), "stem_stride must be 1 or 4, got 2"),
        (lambda c: c["encoder"].update(mlp_ratio=0.0), "encoder: mlp_ratio: expected a positive number, got 0.0"),
    ],
)
def test_configurations_with_errors_are_refused(small_config, change, text) -> None:
    described = small_config.to_dict()
    change(described)
    with pytest.raises(ValueError, match=text):
        SamConfig.from_dict(described)
