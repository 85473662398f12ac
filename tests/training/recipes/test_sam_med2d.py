"""The recipe on tiny bases of both architectures: what moves when, what comes of a run, and how it is gone on with."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from samsdk_training.adapter_file import load_adapter
from samsdk_training.augment import Augmentation
from samsdk_training.checkpoints import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.data import DataError
from samsdk_training.loop import LoopConfig
from samsdk_training.merging import merge_adapter
from samsdk_training.models import SamConfig, VitConfig, build_sam
from samsdk_training.models.sam_config import DecoderConfig, lite_medsam_config, sam_med2d_config, sam_vit_config
from samsdk_training.nine_step_config import NineStepConfig
from samsdk_training.nine_steps import NineSteps
from samsdk_training.recipes.sam_med2d import TUNING, SamMed2dRecipe, train_sam_med2d
from samsdk_training.run_folder import RunFolder
from samsdk_training.tuning import Base, load_base, outline, trainable_parameters

LICENCE = {"id": "CC0-1.0", "source": "generated", "attribution": "none"}
ADAPTERS = 180_504_576


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawing takes longer than these runs do.
    monkeypatch.setattr(RunFolder, "draw", lambda self: None)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of two bright discs each on a textured ground; the last four are for validation."""
    folder = tmp_path_factory.mktemp("data") / "discs"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :72]
    for index in range(12):
        label = np.zeros((64, 72), np.uint16)
        for number, x in enumerate((18, 54), start=1):
            y, radius = rng.integers(20, 44), rng.integers(8, 14)
            label[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = number
        image = 60 + 110 * (label > 0) + rng.normal(0, 6, label.shape)
        cv2.imwrite(str(folder / "images" / f"{index}.png"), np.clip(image, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "masks" / f"{index}.png"), label)
    (folder / "train.txt").write_text("\n".join(map(str, range(8))))
    (folder / "val.txt").write_text("\n".join(map(str, range(8, 12))))
    return folder


@pytest.fixture(scope="module")
def vit_checkpoint(tiny_checkpoint: Checkpoint) -> Checkpoint:
    encoder = VitConfig(
        image_size=64, embed_dim=16, depth=2, num_heads=2, global_blocks=(1,), window_size=3, out_channels=32
    )
    config = SamConfig(encoder, DecoderConfig(num_heads=2, mlp_dim=32, iou_head_hidden_dim=16), mask_channels=8)
    torch.manual_seed(1)
    return replace(tiny_checkpoint, model=config.to_dict(), state=build_sam(config).state_dict())


@pytest.fixture(scope="module")
def bases(
    tiny_checkpoint: Checkpoint, vit_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Base]:
    folder = tmp_path_factory.mktemp("bases")
    for name, checkpoint in (("tiny_vit", tiny_checkpoint), ("vit", vit_checkpoint)):
        save_checkpoint(checkpoint, folder / name)
    return {name: load_base(folder / name) for name in ("tiny_vit", "vit")}


def loop(steps: int, every: int | None = None, **changes: object) -> LoopConfig:
    every = every or steps
    values = {"learning_rate": 2e-3, "weight_decay": 0.0, "validate_every": every, "save_every": every}
    return LoopConfig(steps=steps, **{**values, **changes})  # type: ignore[arg-type]


def tiny(steps: int, every: int | None = None, **changes: object) -> SamMed2dRecipe:
    values = {"batch_size": 2, "masks_per_image": 2, "validation_images": 1}
    return SamMed2dRecipe(loop=loop(steps, every), **{**values, **changes})  # type: ignore[arg-type]


def train(recipe: SamMed2dRecipe, base: Base, discs: Path, run: Path) -> dict[str, object]:
    return train_sam_med2d(recipe, base, [discs], run, licence=LICENCE, show_progress=False)


def test_the_counts_are_the_publication_s() -> None:
    recipe = SamMed2dRecipe(image_size=256)
    config = recipe.model(sam_vit_config("b"))
    assert config == sam_med2d_config()
    assert trainable_parameters(config, TUNING) == ADAPTERS + 6_220 + 4_058_340 == 184_569_136
    assert sum(one.numel() for one in outline(config).parameters()) == 271_241_776
    lite = recipe.model(lite_medsam_config())
    total = sum(one.numel() for one in outline(lite).parameters())
    # Eight blocks at 128 and 160 channels and two at 320: 2 C C/4 + 9 C C + 16 C C + 2 C each.
    adapters = sum(blocks * (25 * c * c + c * c // 2 + 2 * c) for c, blocks in ((128, 2), (160, 6), (320, 2)))
    assert total == 9_791_300 + adapters
    assert trainable_parameters(lite, TUNING) == adapters + 6_220 + 4_058_340


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Tensor]]]:
    """The model's tensors before each step."""
    seen: list[dict[str, Tensor]] = []
    original = NineSteps.loss

    def loss(self, model, batch, generator):
        seen.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
        return original(self, model, batch, generator)

    monkeypatch.setattr(NineSteps, "loss", loss)
    return seen  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["tiny_vit", "vit"])
def test_after_a_batch_s_first_step_the_mask_decoder_alone_moves(kind, bases, discs, tmp_path, watched) -> None:
    train(tiny(27), bases[kind], discs, tmp_path / "run")
    assert len(watched) == 27
    moved = [
        {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
        for before, after in pairwise(watched)
    ]
    for number, keys in enumerate(moved):
        parts = {key.partition(".")[0] for key in keys}
        if number % 9:
            # By now Adam has moments of the adapters too; they must not move by them.
            assert parts == {"mask_decoder"}, number
        else:
            assert parts == {"image_encoder", "prompt_encoder", "mask_decoder"}
            assert all(".Adapter." in key for key in keys if key.startswith("image_encoder."))
    # From the second batch on all of an adapter moves; in the first its end alone, being the identity.
    inner = {key for key in watched[0] if ".Adapter." in key and ".norm." not in key}
    assert not inner & moved[0]
    assert inner <= moved[9]


def test_adapters_begin_as_the_identity_or_as_published(bases, discs, tmp_path, watched) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for kind, base in bases.items():
        expected = base.checkpoint.build().encode(image)["image_embeddings"]
        for start in ("identity", "published"):
            recipe = tiny(9, adapter_start=start)
            train(recipe, base, discs, tmp_path / kind / start)
            model = build_sam(recipe.model(SamConfig.from_dict(base.checkpoint.model))).eval()
            model.load_state_dict(watched[-9])
            same = torch.allclose(model.encode(image)["image_embeddings"], expected, rtol=1e-5, atol=1e-6)
            assert same == (start == "identity"), (kind, start)


def test_adapters_that_a_base_has_are_trained_on(bases, discs, tmp_path, watched, randomise) -> None:
    plain = bases["vit"].checkpoint
    config = SamMed2dRecipe().model(SamConfig.from_dict(plain.model))
    model = build_sam(config)
    randomise(model, 4)
    save_checkpoint(replace(plain, model=config.to_dict(), state=model.state_dict()), tmp_path / "base")
    # Of the place of new adapters the recipe says another thing: there are none.
    recipe = tiny(9, adapters="figure", adapter_start="published")
    train(recipe, load_base(tmp_path / "base"), discs, tmp_path / "run")
    assert all(torch.equal(watched[0][key], tensor) for key, tensor in model.state_dict().items())
    assert load_checkpoint(tmp_path / "run" / "best").model == config.to_dict()


def test_a_run_that_was_stopped_goes_on_to_the_same_result(bases, discs, tmp_path, monkeypatch) -> None:
    recipe = tiny(27, 9, augmentation=Augmentation())
    original = NineSteps.loss

    def killed(self, model, batch, generator):
        if batch.number == 22:
            raise KeyboardInterrupt
        return original(self, model, batch, generator)

    train(recipe, bases["tiny_vit"], discs, tmp_path / "through")
    monkeypatch.setattr(NineSteps, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, bases["tiny_vit"], discs, tmp_path / "killed")
    assert json.loads((tmp_path / "killed" / "state" / "state.json").read_text())["step"] == 18
    monkeypatch.setattr(NineSteps, "loss", original)
    train(recipe, bases["tiny_vit"], discs, tmp_path / "killed")
    for name in ("state/state.safetensors", "best/model.safetensors", "adapter/adapter.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "through" / name).read_bytes()
    # The embedding is kept between steps, so that a step of another batch shows in the losses.
    lines = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]
        for path in (tmp_path / "killed" / "metrics.jsonl", tmp_path / "through" / "metrics.jsonl")
    ]
    assert lines[0] == lines[1]


@pytest.fixture
def fresh(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Base:
    """A base as it begins, with statistics in its batch norms: it knows nothing, and nothing keeps it from learning."""
    torch.manual_seed(7)
    model = build_sam(SamConfig.from_dict(tiny_checkpoint.model))
    for _ in range(20):
        model.train().encode(torch.rand(8, 3, 64, 64))
    save_checkpoint(replace(tiny_checkpoint, state=model.state_dict()), tmp_path / "fresh")
    return load_base(tmp_path / "fresh")


def test_a_run_learns_discs_and_leaves_a_checkpoint_and_an_adapter(fresh, discs, tmp_path) -> None:
    base, recipe = fresh, tiny(180, 90, batch_size=4, validation_images=4)
    recipe = replace(recipe, loop=replace(recipe.loop, learning_rate=4e-3, warmup_steps=9))
    result = train(recipe, base, discs, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    ious = [record["losses"]["iou"] for record in records if "losses" in record]
    assert np.mean(ious[:18]) < 0.1
    assert np.mean(ious[-18:]) > 0.4
    assert result["best_score"] > 0.6
    assert (tmp_path / "run" / "overlays.png").is_file()
    checkpoint = load_checkpoint(tmp_path / "run" / "best")
    assert (checkpoint.task, checkpoint.single_mask, checkpoint.preprocessing.mask_prompt) == (
        "promptable",
        "best",
        "sigmoid",
    )
    assert checkpoint.licence == LICENCE
    assert checkpoint.lineage["recipe"] == "sam_med2d"
    assert checkpoint.lineage["sets"]["discs"]["objects"] == 16
    assert SamMed2dRecipe.from_dict({name: checkpoint.lineage[name] for name in recipe.to_dict()}) == recipe
    merged, report = merge_adapter(load_adapter(tmp_path / "run" / "adapter"), base)
    assert merged.state.keys() == checkpoint.state.keys()
    assert all(torch.equal(merged.state[key], tensor) for key, tensor in checkpoint.state.items())
    assert (report.merged, report.retained) == ((), ("image_encoder.layers.1.blocks.0.Adapter",))
    frozen = [key for key in base.checkpoint.state if key.startswith("image_encoder.")]
    assert all(torch.equal(checkpoint.state[key], base.checkpoint.state[key]) for key in frozen)
    checkpoint.build()


def test_recipes_survive_json_and_other_things_are_refused() -> None:
    for recipe in (
        SamMed2dRecipe(),
        tiny(18, 9, augmentation=Augmentation(blur=0.3), adapters="figure", adapter_start="published"),
    ):
        assert SamMed2dRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert SamMed2dRecipe.from_dict({"recipe": "sam_med2d"}) == SamMed2dRecipe()
    for content, text in (
        ({"recipe": "samed"}, "expected 'sam_med2d', got 'samed'"),
        ({}, r"missing fields \['recipe'\]"),
        ({"recipe": "sam_med2d", "rank": 4}, r"unknown fields \['rank'\]"),
        ({"recipe": "sam_med2d", "loop": 3}, "sam_med2d: "),
        ({"recipe": "sam_med2d", "augmentation": {"spin": 1}}, "sam_med2d: .*spin"),
        ({"recipe": "sam_med2d", "batch_size": "2"}, "batch_size: expected a whole number of at least 1, got '2'"),
    ):
        with pytest.raises(ValueError, match=text):
            SamMed2dRecipe.from_dict(content)


def test_recipes_that_could_not_be_gone_on_with_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"loop.steps: .*9 steps of a batch, got 20\n.*loop.save_every: .*got 10"
    ) as caught:
        SamMed2dRecipe(LoopConfig(steps=20, learning_rate=1e-4, validate_every=18, save_every=10, accumulate=2))
    assert "loop.accumulate: expected 1" in str(caught.value)
    assert "validate_every" not in str(caught.value)
    SamMed2dRecipe(loop(20, 10), NineStepConfig(later_steps=4))
    with pytest.raises(ValueError, match="in the place 'figure' can only begin as 'published'"):
        SamMed2dRecipe(adapters="figure")
    with pytest.raises(ValueError, match="adapters: expected 'code' or 'figure', got 'none'"):
        SamMed2dRecipe(adapters="none")  # type: ignore[arg-type]


def test_bases_and_sets_that_do_not_do_are_refused_before_training(
    student_checkpoint, semantic_checkpoint, bases, discs, tmp_path
) -> None:
    for checkpoint, text in ((student_checkpoint, "got a student"), (semantic_checkpoint, "got a semantic one")):
        with pytest.raises(CheckpointError, match=text):
            train(tiny(9), Base(checkpoint, "0" * 64), discs, tmp_path / "run")
    with pytest.raises(CheckpointError, match="image_size must be a multiple of 32, got 48"):
        train(tiny(9, image_size=48), bases["vit"], discs, tmp_path / "run")
    with pytest.raises(DataError, match="names no image with an object"):
        train(tiny(9, smallest=5000), bases["vit"], discs, tmp_path / "run")
    alone = tmp_path / "alone"
    alone.mkdir()
    for part in ("images", "masks", "train.txt"):
        (alone / part).symlink_to(discs / part)
    with pytest.raises(DataError, match=r"val\.txt"):
        train(tiny(9), bases["vit"], alone, tmp_path / "run")
    blank = tmp_path / "blank"
    (blank / "masks").mkdir(parents=True)
    for part in ("images", "train.txt"):
        (blank / part).symlink_to(discs / part)
    for index in range(8):
        (blank / "masks" / f"{index}.png").symlink_to(discs / "masks" / f"{index}.png")
    cv2.imwrite(str(blank / "masks" / "8.png"), np.zeros((64, 72), np.uint16))
    (blank / "val.txt").write_text("8\n")
    with pytest.raises(DataError, match="nothing to validate on"):
        train(tiny(9), bases["vit"], blank, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_input_may_be_of_another_size_than_the_base_s(bases, discs, tmp_path) -> None:
    train(tiny(9, image_size=32), bases["vit"], discs, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "best")
    assert (checkpoint.preprocessing.input_size, checkpoint.build().image_size) == (32, 32)
    merged, _ = merge_adapter(load_adapter(tmp_path / "run" / "adapter"), bases["vit"])
    assert all(torch.equal(merged.state[key], tensor) for key, tensor in checkpoint.state.items())
