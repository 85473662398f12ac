import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from samsdk_training.checkpoints import Checkpoint, CheckpointError
from samsdk_training.models import SamConfig, VitConfig, build_sam, sam_vit_config
from samsdk_training.models.auto_prompt import AutoPromptConfig
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.resize import fit_checkpoint, redraw_masks, resize_checkpoint, resize_positions

CONFIG = SamConfig(
    # Blocks 2 and 12: a test of digits in the key would take both, and the 1 of neither.
    VitConfig(image_size=128, embed_dim=8, depth=13, num_heads=2, global_blocks=(2,), window_size=3, out_channels=16),
    DecoderConfig(num_heads=2, mlp_dim=32, iou_head_hidden_dim=16),
    mask_channels=8,
)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    generator = torch.Generator().manual_seed(3)
    state = {key: torch.randn(t.shape, generator=generator) for key, t in build_sam(CONFIG).state_dict().items()}
    return Checkpoint(
        model=CONFIG.to_dict(),
        geometry={"rule": "resize_square", "input_size": 128, "interpolation": "cubic", "box_rounding": "none"},
        intensity={"rule": "uint8_or_minmax"},
        normalisation={"rule": "unit"},
        prompts={"mask": "logits"},
        classes={},
        licence={},
        lineage={"recipe": "random"},
        state=state,
    )


@pytest.mark.parametrize("image_size", [64, 80, 256])
def test_positions_are_resized_as_the_published_code_does(checkpoint, image_size) -> None:
    """SAMed's load_from, stated again, with the global blocks given by hand."""
    side = image_size // 16
    state, keys = resize_positions(checkpoint.state, replace(CONFIG.encoder, image_size=image_size))
    tables = [f"image_encoder.blocks.2.attn.rel_pos_{axis}" for axis in "hw"]
    assert keys == [*tables, "image_encoder.pos_embed"]
    grid = checkpoint.state["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    expected = functional.interpolate(grid, (side, side), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    torch.testing.assert_close(state["image_encoder.pos_embed"], expected, rtol=0, atol=0)
    for key in tables:
        table = checkpoint.state[key][None, None]
        expected = functional.interpolate(table, (2 * side - 1, 4), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(state[key], expected, rtol=1e-6, atol=1e-6)
    assert all(state[key] is tensor for key, tensor in checkpoint.state.items() if key not in keys)


def test_a_resized_checkpoint_builds_and_says_what_was_done(checkpoint) -> None:
    resized = resize_checkpoint(checkpoint, 96)
    model = resized.build()
    assert (model.image_size, model.embedding_side, resized.preprocessing.input_size) == (96, 6, 96)
    assert resized.lineage["recipe"] == "random"
    assert (resized.lineage["resized"]["from"], resized.lineage["resized"]["to"]) == (128, 96)
    assert len(resized.lineage["resized"]["interpolated"]) == 3
    assert resized.lineage["resized"]["drawn"] == []
    assert resize_checkpoint(checkpoint, 128) is checkpoint
    # The decoder is that of before, number for number.
    decoder = [key for key in checkpoint.state if key.startswith("mask_decoder.")]
    assert all(torch.equal(model.state_dict()[key], checkpoint.state[key]) for key in decoder)


def test_masks_are_drawn_anew_only_if_their_number_changes(checkpoint) -> None:
    more = resize_checkpoint(checkpoint, 128, num_multimask_outputs=8)
    assert more.build().mask_decoder.num_mask_tokens == 9
    drawn = set(more.lineage["resized"]["drawn"])
    per_mask = ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head")
    assert drawn == {key for key in more.state if any(part in key for part in per_mask)}
    assert all(torch.equal(more.state[key], tensor) for key, tensor in checkpoint.state.items() if key not in drawn)
    again = resize_checkpoint(checkpoint, 128, num_multimask_outputs=8)
    assert all(torch.equal(more.state[key], again.state[key]) for key in drawn)
    other = resize_checkpoint(checkpoint, 128, num_multimask_outputs=8, seed=1)
    assert not torch.equal(
        more.state["mask_decoder.mask_tokens.weight"], other.state["mask_decoder.mask_tokens.weight"]
    )
    assert redraw_masks(checkpoint.state, CONFIG, 0) == (checkpoint.state, [])


def test_drawing_masks_leaves_the_random_numbers_of_others_alone(checkpoint) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    resize_checkpoint(checkpoint, 128, num_multimask_outputs=2)
    assert torch.equal(torch.rand(3), expected)


def test_a_size_that_the_encoder_cannot_have_is_refused(checkpoint) -> None:
    with pytest.raises(
        CheckpointError, match="cannot have an input of 100 x 100 pixels: image_size must be a multiple"
    ):
        resize_checkpoint(checkpoint, 100)


def test_parts_that_a_shape_adds_are_drawn_and_the_rest_stays(checkpoint) -> None:
    wanted = replace(
        CONFIG,
        encoder=replace(CONFIG.encoder, adapters="code"),
        auto_prompt=AutoPromptConfig(CONFIG.encoder.image_size, 4, 2),
        point_classes=3,
    )
    fitted = fit_checkpoint(checkpoint, wanted)
    assert SamConfig.from_dict(json.loads(json.dumps(fitted.model))) == wanted
    drawn = set(fitted.lineage["resized"]["drawn"])
    assert {key.split(".")[0] for key in drawn} == {"image_encoder", "prompt_encoder", "auto_prompt_generator"}
    assert all(torch.equal(fitted.state[key], tensor) for key, tensor in checkpoint.state.items())
    assert drawn == fitted.state.keys() - checkpoint.state.keys()
    # A point of any class begins as the base's point on the foreground.
    classes = fitted.state["prompt_encoder.class_embeddings.weight"]
    assert torch.equal(classes, checkpoint.state["prompt_encoder.point_embeddings.1.weight"].expand(3, -1))
    model = fitted.build()
    coords = torch.rand(2, 4, 2) * 100
    named = model.prompt_encoder.embed_class_points(coords, torch.tensor([[1, 2, 3, -1]] * 2))
    clicked = model.prompt_encoder.embed_points(coords, torch.tensor([[1, 1, 1, -1]] * 2))
    assert torch.equal(named, clicked)
    with pytest.raises(CheckpointError, match="expected a shape that differs in its input size"):
        fit_checkpoint(fitted, CONFIG)
    with pytest.raises(CheckpointError, match="expected a shape that differs in its input size"):
        fit_checkpoint(checkpoint, replace(CONFIG, mask_channels=32))


@pytest.mark.parametrize(("size", "blocks"), [("b", (2, 5, 8, 11)), ("l", (5, 11, 17, 23)), ("h", (7, 15, 23, 31))])
def test_sam_s_global_tables_fit_at_the_sizes_of_samed_and_sam_med2d(size, blocks) -> None:
    with torch.device("meta"):
        published = build_sam(sam_vit_config(size)).state_dict()
        for image_size in (512, 256):
            config = sam_vit_config(size, image_size)
            state, keys = resize_positions(published, config.encoder)
            expected = {key: tensor.shape for key, tensor in build_sam(config).state_dict().items()}
            assert {key: tensor.shape for key, tensor in state.items()} == expected
            assert len(keys) == 1 + 2 * len(blocks)
            assert {int(key.split(".")[2]) for key in keys if "rel_pos" in key} == set(blocks)
