import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from samsdk_training.models import SamConfig, VitConfig, build_sam
from samsdk_training.models.auto_pro_sam import AutoProSam, load_vit
from samsdk_training.models.auto_pro_sam_config import AutoProSamConfig
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.models.vit3d import VolumeEncoder, WindowAttention3d
from samsdk_training.models.volume import build_volume_model, volume_config_from_dict
from samsdk_training.models.volume_prompts import AggregatingDecoder, PromptUNet
from samsdk_training.models.windows3d import assemble, partition, shift_of, wrapped

GOLDENS = Path(__file__).parents[1] / "goldens"
# A box of a crop, whose three sides have grids of 4, 8 and 12 tokens.
SMALL = AutoProSamConfig(
    crop=(16, 32, 48),
    classes=3,
    upsampling=4,
    vit=VitConfig(image_size=96, embed_dim=24, depth=4, num_heads=3, global_blocks=(1,), window_size=3, out_channels=8),
    window=4,
    generator_widths=(4, 6, 8),
    decoder_width=6,
)


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("auto_pro_sam_recipe", GOLDENS / "auto_pro_sam_recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def golden(recipe):
    with np.load(GOLDENS / "auto_pro_sam.npz") as file:
        arrays = {name: file[name] for name in file.files}
    assert recipe.digest() == str(arrays["inputs_sha256"]), (
        "the drawn weights differ from the golden's: a random generator has changed"
    )
    return arrays


def tensors(drawn: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(one) for key, one in drawn.items()}


def count(module: nn.Module, *, trained: bool = False) -> int:
    return sum(one.numel() for one in module.parameters() if one.requires_grad or not trained)


@pytest.mark.parametrize(("classes", "decoder"), [(16, 7_136_640), (14, 7_129_728)])
def test_what_is_trained_of_vit_b_is_the_published_number(classes: int, decoder: int) -> None:
    with torch.device("meta"):
        model = AutoProSam(AutoProSamConfig(classes=classes))
    # The published encoder has a frozen 1 in each block, which multiplies the positions.
    assert count(model.image_encoder) == 104_056_588 - 12
    model.freeze()
    parts = [count(part, trained=True) for part in model.children()]
    assert parts == [15_209_984, 4_255_232, decoder]


def test_agrees_with_the_published_code(recipe, golden, relative_error) -> None:
    config, drawn = recipe.CONFIG, recipe.weights()
    encoder = VolumeEncoder(config)
    decoder = AggregatingDecoder(config.vit.out_channels, config.decoder_width, config.classes)
    generator = PromptUNet(config.vit.out_channels, recipe.GENERATOR_WIDTHS)
    for part, name in ((encoder, "encoder"), (decoder, "decoder"), (generator, "generator")):
        part.load_state_dict(tensors(drawn[name]), strict=True)
    crop = torch.from_numpy(recipe.crop())
    with torch.inference_mode():
        maps = encoder(crop)
        logits = decoder(maps, crop.permute(0, 1, 3, 4, 2)).permute(0, 1, 4, 2, 3)
        prompt = generator(torch.from_numpy(recipe.feature()))
    got = {**{f"map_{number}": one for number, one in enumerate(maps, start=1)}, "logits": logits, "prompt": prompt}
    assert set(got) | {"inputs_sha256"} == set(golden)
    for name, one in got.items():
        expected = torch.from_numpy(golden[name])
        assert expected.std() > 0.05, name
        assert relative_error(torch.from_numpy(recipe.sample(name, one.numpy())), expected) <= 2e-5, name


@pytest.mark.parametrize("stage", [4, 1])
def test_the_generator_stands_on_the_map_that_is_configured(randomise, stage: int) -> None:
    model = AutoProSam(replace(SMALL, apg_stage=stage)).eval()
    randomise(model, 1)
    crop = torch.randn(2, 1, *SMALL.crop, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = model.image_encoder(crop)
        maps[stage - 1] = model.prompt_generator(maps[stage - 1])
        expected = model.mask_decoder(maps, crop.permute(0, 1, 3, 4, 2)).permute(0, 1, 4, 2, 3)
        got = model(crop)
        assert torch.equal(got, expected)
        assert got.shape == (2, 3, *SMALL.crop)
        # Every crop of a batch on its own.
        torch.testing.assert_close(model(crop[1:]), got[1:], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"expected crops \(N, 1, \(16, 32, 48\)\), got \(1, 1, 32, 16, 48\)"):
        model(torch.zeros(1, 1, 32, 16, 48))


@pytest.mark.parametrize("shifted", [True, False])
def test_windows_are_shifted_and_do_not_reach_around_the_end(randomise, relative_error, shifted: bool) -> None:
    """Against each token on its own, with a table of positions as segment-anything reads it."""
    grid, window, heads, dim = (4, 8, 12), 4, 2, 8
    shift = shift_of(grid, window, shifted)
    assert shift == ((0, 2, 2) if shifted else (0, 0, 0))
    attention = WindowAttention3d(dim, heads, 3, grid, window, shift).double()
    randomise(attention, 5)
    with torch.no_grad():
        for table in (attention.rel_pos_h, attention.rel_pos_w, attention.rel_pos_d):
            table.normal_(generator=torch.Generator().manual_seed(table.numel()))
    x = torch.randn(1, *grid, dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.inference_mode():
        rolled = torch.roll(x, [-by for by in shift], (1, 2, 3))
        got = torch.roll(assemble(attention(partition(rolled, window)), grid, window), list(shift), (1, 2, 3))
        expected = token_by_token(attention, x, grid, window, shift)
    assert relative_error(got, expected) <= 1e-6


def token_by_token(attention, x, grid, window, shift):
    q, k, v = attention.qkv(x).split(x.shape[-1], dim=-1)
    size = 2 * window - 1
    tables = [
        functional.interpolate(table.T[None], size, mode="linear")[0].T
        for table in (attention.rel_pos_h, attention.rel_pos_w, attention.rel_pos_d)
    ]
    places = list(np.ndindex(*grid))
    # The windows begin at the shift; what is before it makes smaller ones.
    cells = {place: tuple((i - by) // window for i, by in zip(place, shift, strict=True)) for place in places}
    out = torch.zeros_like(x)
    for place in places:
        # Which of a window's keys a shifted grid has at the other end, none may see: they are in cells of their own.
        near = [other for other in places if cells[other] == cells[place]]
        index = tuple(torch.tensor(axis) for axis in zip(*near, strict=True))
        for head in range(attention.num_heads):
            part = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            query = q[0][place][part]
            scores = k[0][index][:, part] @ query * attention.head_dim**-0.5
            for axis, table in enumerate(tables):
                apart = torch.tensor([place[axis] - other[axis] for other in near])
                scores = scores + table[apart + window - 1] @ query
            out[0][place][part] = scores.softmax(0) @ v[0][index][:, part]
    return attention.proj(out)


def test_partition_has_the_tokens_of_a_cube_and_assemble_undoes_it() -> None:
    grid, window = (4, 6, 2), 2
    x = torch.arange(2 * 4 * 6 * 2 * 3).reshape(2, *grid, 3)
    cubes = partition(x, window)
    assert cubes.shape == (2, 6, 8, 3)
    # The fifth window: rows 2 and 3, columns 2 and 3, both layers.
    assert torch.equal(cubes[1, 4], x[1, 2:4, 2:4].reshape(8, 3))
    assert torch.equal(assemble(cubes, grid, window), x)
    marks = wrapped(grid, window, (1, 1, 0))
    assert marks[5].tolist() == [[bool(h), bool(w), False] for h in range(2) for w in range(2) for _ in range(2)]
    assert not marks[0].any()


def test_the_crop_is_embedded_as_if_it_had_been_enlarged_whole(randomise, relative_error) -> None:
    encoder = VolumeEncoder(SMALL).double()
    randomise(encoder, 3)
    crop = torch.randn(2, 1, *SMALL.crop, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.inference_mode():
        for one, got in zip(crop, encoder._embed(crop), strict=True):
            large = functional.interpolate(one[None], scale_factor=4, mode="trilinear")[0, 0]
            slices = encoder.patch_embed(large[:, None].expand(-1, 3, -1, -1))  # [D * 4, H', W', C]
            expected = encoder.slice_embed(slices.permute(3, 1, 2, 0)[None])[0].permute(1, 2, 3, 0)
            assert relative_error(got, expected) <= 1e-6


def test_positions_are_pooled_or_enlarged_to_the_grid(randomise, relative_error) -> None:
    encoder = VolumeEncoder(SMALL).double()  # 6 x 6 positions for 8 x 12 tokens
    randomise(encoder, 4)
    plane = encoder.pos_embed.permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = functional.interpolate(plane, (8, 12), mode="bilinear")[0].permute(1, 2, 0)
        got = encoder._positions()
        assert relative_error(got, expected[:, :, None] + encoder.depth_embed[0]) <= 1e-6
        smaller = VolumeEncoder(replace(SMALL, vit=replace(SMALL.vit, image_size=384))).double()
        smaller.pos_embed.normal_(generator=torch.Generator().manual_seed(6))
        pooled = functional.avg_pool2d(smaller.pos_embed.permute(0, 3, 1, 2), (3, 2))[0].permute(1, 2, 0)
        assert relative_error(smaller._positions(), pooled[:, :, None] + smaller.depth_embed[0]) <= 1e-6


def test_it_starts_from_a_two_dimensional_vit(randomise) -> None:
    shape = SamConfig(encoder=replace(SMALL.vit, adapters="code"), decoder=DecoderConfig(num_heads=2, mlp_dim=16))
    sam = build_sam(shape)
    randomise(sam, 7)
    model = AutoProSam(SMALL)
    new = {key: one.clone() for key, one in model.state_dict().items()}
    load_vit(model, sam.state_dict())
    state, source = model.state_dict(), sam.state_dict()
    shared = [key for key in state if key in source]
    assert len(shared) == 3 + 4 * 14
    assert all(torch.equal(state[key], source[key]) for key in shared)
    for index in range(4):
        name = f"image_encoder.blocks.{index}.attn.rel_pos_"
        torch.testing.assert_close(state[f"{name}d"], (source[f"{name}h"] + source[f"{name}w"]) / 2)
    others = [key for key in state if key not in shared and not key.endswith("rel_pos_d")]
    assert all(torch.equal(state[key], new[key]) for key in others)
    assert torch.equal(state["image_encoder.depth_embed"], torch.ones(1, 4, 24))
    with pytest.raises(ValueError, match=r"of another shape: .*blocks\.0\.attn\.rel_pos_h"):
        load_vit(AutoProSam(replace(SMALL, vit=replace(SMALL.vit, window_size=5))), source)


def test_half_precision_stays_near(randomise, relative_error) -> None:
    model = AutoProSam(SMALL).eval()
    randomise(model, 8)
    crop = torch.randn(1, 1, *SMALL.crop, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected = model(crop)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = model(crop)
    assert got.dtype == torch.bfloat16
    assert relative_error(got.float(), expected) <= 0.1


def test_frozen_is_what_came_from_the_images_but_for_its_norms() -> None:
    model = AutoProSam(SMALL)
    model.freeze()
    before = {key: one.clone() for key, one in model.state_dict().items()}
    optimiser = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=1.0)
    logits = model(torch.randn(1, 1, *SMALL.crop, generator=torch.Generator().manual_seed(0)))
    (logits * torch.arange(logits.numel()).reshape(logits.shape).cos()).sum().backward()
    optimiser.step()
    still = {key for key, one in model.state_dict().items() if torch.equal(one, before[key])}
    blocks = ("attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias", "attn.rel_pos_h",
              "attn.rel_pos_w", "mlp.lin1.weight", "mlp.lin1.bias", "mlp.lin2.weight", "mlp.lin2.bias")  # fmt: skip
    frozen = {f"image_encoder.blocks.{index}.{name}" for index in range(4) for name in blocks}
    patches = {f"image_encoder.patch_embed.proj.{name}" for name in ("weight", "bias")}
    assert still == frozen | patches | {"image_encoder.pos_embed"}


def test_a_configuration_survives_json() -> None:
    config = volume_config_from_dict(json.loads(json.dumps(SMALL.to_dict())))
    assert config == SMALL
    assert SMALL.to_dict()["architecture"] == "auto_pro_sam"
    with pytest.raises(ValueError, match="vit: depth: expected a positive number, got 'four'"):
        volume_config_from_dict({**SMALL.to_dict(), "vit": {**SMALL.to_dict()["vit"], "depth": "four"}})
    with pytest.raises(ValueError, match=r"missing fields \['window'\]"):
        volume_config_from_dict({key: value for key, value in SMALL.to_dict().items() if key != "window"})
    with pytest.raises(ValueError, match="expected an architecture out of auto_pro_sam, swin_unetr, got 'sam'"):
        volume_config_from_dict({"architecture": "sam"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": (16, 32, 40)}, r"crop: .* times 4, are multiples of 64, .* got \[16, 32, 40\]"),
        ({"crop": (16, 32)}, "crop: expected three sides"),
        ({"generator_widths": (4, 6, 8, 10)}, "4 levels are too many"),
        ({"window": 3, "crop": (12, 24, 24)}, "window: expected an even side"),
        ({"apg_stage": 2}, "apg_stage: expected 4 or 1, got 2"),
        ({"classes": 1}, "classes: expected at least 2"),
        ({"vit": replace(SMALL.vit, depth=6)}, "vit: expected a depth in 4 equal stages, got 6"),
        ({"vit": replace(SMALL.vit, adapters="code")}, "vit: expected no 2-D adapters, got 'code'"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_onnx_runtime_computes_the_same(randomise, relative_error, tmp_path: Path) -> None:
    model = build_volume_model(replace(SMALL, crop=(16, 16, 32), generator_widths=(4, 8))).eval()
    randomise(model, 9)
    crop = torch.randn(2, 1, 16, 16, 32, generator=torch.Generator().manual_seed(3))
    path = tmp_path / "crop.onnx"
    torch.onnx.export(model, (crop,), path, dynamo=True, opset_version=18, input_names=["crop"], verbose=False)
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    ranks = [len(value.type.tensor_type.shape.dim) for value in (*graph.value_info, *graph.output)]
    assert ranks
    assert max(ranks) <= 5
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = torch.from_numpy(session.run(None, {"crop": crop.numpy()})[0])
    with torch.inference_mode():
        assert relative_error(got, model(crop)) <= 1e-5
