"""Recipe `adapt`: the default model learns from a few images what it did not know, and stays near its base."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from samsdk.io.images import read_image
from samsdk_training.adapter_file import load_adapter
from samsdk_training.augment import Augmentation
from samsdk_training.bases import find_base
from samsdk_training.checkpoints import load_checkpoint
from samsdk_training.data import DataError, LabelledImage
from samsdk_training.loop import LoopConfig
from samsdk_training.lora import LoraConfig
from samsdk_training.merging import merge_adapter
from samsdk_training.recipes import adapt, few_images
from samsdk_training.recipes.adapt import AdaptRecipe, train_adapt
from samsdk_training.recipes.blended import BlendedRun
from samsdk_training.recipes.few_images import choose_images, held_back_images
from samsdk_training.resize import resize_checkpoint
from samsdk_training.tuning import Base, Tuning

LICENCE = {"id": "CC0-1.0", "source": "test", "attribution": "none"}


def write_set(folder: Path, train: int, val: int, side: int = 96) -> Path:
    """Bright cores in wide, faint halos: the object is both, of which the default model takes the core alone."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    for index in range(train + val):
        y, x = rng.integers(36, side - 36, size=2)
        distance = np.hypot(rows - y, columns - x)
        radius = rng.integers(24, 32)
        image = 60 + 14 * (distance < radius) + 110 * (distance < radius / 2) + rng.normal(0, 4, distance.shape)
        cv2.imwrite(str(folder / "images" / f"{index}.png"), np.clip(image, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "masks" / f"{index}.png"), (distance < radius).astype(np.uint8))
    (folder / "train.txt").write_text("\n".join(map(str, range(train))))
    (folder / "val.txt").write_text("\n".join(map(str, range(train, train + val))))
    return folder


@pytest.fixture(scope="module")
def halos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("data") / "halos", train=8, val=3)


@pytest.fixture(scope="module")
def base() -> Base:
    """The default model, for a smaller input: a quarter of the work."""
    whole = find_base("student")
    return replace(whole, checkpoint=resize_checkpoint(whole.checkpoint, 128))


def short(steps: int, **changes: object) -> AdaptRecipe:
    loop = LoopConfig(steps=steps, learning_rate=1e-3, validate_every=10, save_every=4)
    decoder = Tuning(LoraConfig(rank=4, encoder="linear", decoder="linear"), ("image_encoder.fuse.*",))
    mild = Augmentation().with_probabilities(0.0)
    recipe = AdaptRecipe(
        loop, decoder, augmentation=mild, batch_size=2, encoder_share=1.0, validation_images=2, compared_images=3
    )
    return replace(recipe, **changes)  # type: ignore[arg-type]


def train(recipe: AdaptRecipe, base: Base, sets: Sequence[Path], run: Path) -> dict[str, object]:
    return train_adapt(recipe, base, sets, run, licence=LICENCE, show_progress=False)


def records(run: Path, kind: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[kind] for line in lines if kind in line]


@pytest.fixture(scope="module")
def finished(halos: Path, base: Base, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    run = tmp_path_factory.mktemp("runs") / "finished"
    return run, train(short(20), base, [halos], run)


def test_a_click_finds_what_the_base_did_not_know(finished: tuple[Path, dict[str, object]], base: Base) -> None:
    run, result = finished
    table = json.loads((run / "before_after.json").read_text())
    assert result["before_after"] == table
    row = table["sets"]["halos"]
    assert row["images"] == 3
    assert table["mean"] == {"before": row["before"], "after": row["after"]}
    assert row["before"]["point1"] < 0.75
    assert row["after"]["point1"] > row["before"]["point1"] + 0.15
    checkpoint = load_checkpoint(run / "best")
    assert checkpoint.licence == LICENCE
    assert checkpoint.prompts == base.checkpoint.prompts
    assert (checkpoint.lineage["recipe"], checkpoint.lineage["merged"]) == ("adapt", True)


def test_the_sheet_shows_what_was_labelled_before_and_after(finished: tuple[Path, dict[str, object]]) -> None:
    run, _ = finished
    sheet = read_image(run / "before_after.png").astype(int)
    # Three images of three cells each, six cells a row, 160 pixels and a gap of 2 each.
    assert sheet.shape == (2 * 162 + 2, 6 * 162 + 2, 3)
    outlines = (sheet[..., 0] - sheet[..., 1]) > 100
    labelled, before, after = (int(outlines[2:162, 2 + 162 * cell : 162 + 162 * cell].sum()) for cell in range(3))
    # The halo's outline is twice as long as the core's.
    assert abs(after - labelled) < abs(before - labelled)


def test_adapter_and_base_are_the_best_checkpoint(finished: tuple[Path, dict[str, object]], base: Base) -> None:
    run, _ = finished
    best = load_checkpoint(run / "best")
    adapter = load_adapter(run / "adapter")
    merged, report = merge_adapter(adapter, base)
    assert set(report.replaced) == {"image_encoder.fuse.0.weight", "image_encoder.fuse.0.bias"}
    assert merged.state.keys() == best.state.keys()
    assert all(torch.equal(tensor, best.state[key]) for key, tensor in merged.state.items())
    changed = {key for key, tensor in best.state.items() if not torch.equal(tensor, base.checkpoint.state[key])}
    # Masks for ambiguous prompts that no batch had chosen stay as they were.
    assert set(report.replaced) < changed <= {*report.merged, *report.replaced}
    assert len(changed) > len(report.merged) / 2


def test_a_run_that_was_stopped_ends_with_the_same_weights(
    halos: Path, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, real, asked = short(7, share=0.5), adapt.interactive_loss, []
    train(recipe, base, [halos], tmp_path / "whole")

    def interrupted(*args: object, **options: object) -> dict[str, torch.Tensor]:
        asked.append(1)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(adapt, "interactive_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, base, [halos], tmp_path / "stopped")
    train(recipe, base, [halos], tmp_path / "stopped")
    whole, stopped = (load_checkpoint(tmp_path / name / "best").state for name in ("whole", "stopped"))
    assert all(torch.equal(tensor, stopped[key]) for key, tensor in whole.items())
    # The losses from step 5 on were computed again.
    losses = [[row["loss"] for row in records(tmp_path / name, "losses")] for name in ("whole", "stopped")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 7


def test_a_run_ends_when_nothing_gets_better(halos: Path, base: Base, tmp_path: Path) -> None:
    loop = LoopConfig(steps=40, learning_rate=1e-12, validate_every=1, save_every=1, patience=2)
    result = train(short(1, loop=loop), base, [halos], tmp_path / "run")
    # At this rate no mask changes: the first validation is the best, and two more end the run.
    assert (result["step"], result["best_step"]) == (3, 1)
    row = result["before_after"]["mean"]  # type: ignore[index]
    assert row["after"] == pytest.approx(row["before"], abs=1e-6)


def test_a_run_that_learns_nothing_better_ends_with_the_base(halos: Path, base: Base, tmp_path: Path) -> None:
    # At this rate no mask changes, and as good is not better.
    loop = LoopConfig(steps=2, learning_rate=1e-12, validate_every=1, save_every=1, validate_start=True)
    result = train(short(1, loop=loop), base, [halos], tmp_path / "run")
    assert result["best_step"] == 0
    best = load_checkpoint(tmp_path / "run" / "best").state
    assert all(torch.equal(tensor, best[key]) for key, tensor in base.checkpoint.state.items())
    row = result["before_after"]["mean"]  # type: ignore[index]
    assert row["after"] == row["before"]


@pytest.mark.parametrize(("share", "encoder_share"), [(0.25, 0.0), (1.0, 0.5)])
def test_a_blend_lies_between_base_and_what_was_learned(
    base: Base, share: float, encoder_share: float, tmp_path: Path
) -> None:
    recipe, description = short(1), replace(base.checkpoint, state={})
    run = BlendedRun(base, recipe.tuning, description, recipe.loop, recipe.to_dict(), share, encoder_share)
    model = run.start()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    run.save(model, tmp_path / "best")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    blend = load_checkpoint(tmp_path / "best").state
    layers = {"mask_decoder.iou_prediction_head.layers.0": share, "image_encoder.out": encoder_share}
    learned = {f"{key}.weight": (model.get_submodule(key).weight.detach(), part) for key, part in layers.items()}
    learned["image_encoder.fuse.0.bias"] = before["image_encoder.fuse.0.bias"], encoder_share
    for name, (own, part) in learned.items():
        old = base.checkpoint.state[name]
        assert (own - old).abs().max() > 0.01
        torch.testing.assert_close(blend[name], old + part * (own - old), rtol=0, atol=1e-6)


def test_images_are_the_first_of_the_list(halos: Path, base: Base, tmp_path: Path) -> None:
    train(short(1, images=3), base, [halos], tmp_path / "run")
    content = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert content["sets"]["halos"] == {"images": 3, "objects": 3, "share": 1.0}
    assert content["images"] == 3
    assert [one.name for one in choose_images(halos, "train.txt", 3)] == ["0", "1", "2"]


def slices_of(name: str, count: int) -> list[LabelledImage]:
    label = np.zeros((8, 8), np.uint8)
    label[:6, :6] = 1
    return [LabelledImage(f"{name}_{place:03}", label, label, False, volume=name) for place in range(count)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (2, {"a": 1, "b": 1}),
        (7, {"a": 2, "b": 2, "c": 3}),
        (100, {"a": 30, "b": 12, "c": 40}),
        (None, {"a": 30, "b": 12, "c": 40}),
    ],
)
def test_slices_are_spread_over_volumes_and_heights(
    count: int | None, expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = {"a": slices_of("a", 30), "b": slices_of("b", 12), "c": slices_of("c", 40)}
    empty = LabelledImage("a_999", np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), False, volume="a")
    volumes["a"].append(empty)
    monkeypatch.setattr(few_images, "read_ids", lambda folder, name: list(volumes))
    monkeypatch.setattr(
        few_images, "read_set", lambda folder, name, part: [one for v in list(volumes)[part] for one in volumes[v]]
    )
    chosen = choose_images(Path("set"), "train.txt", count)
    names = [one.name for one in chosen]
    assert len(set(names)) == len(names)
    assert empty.name not in names
    assert {v: sum(one.volume == v for one in chosen) for v in expected} == expected
    if count == 7:
        places = [int(one.name[2:]) for one in chosen if one.volume == "c"]
        # Equal steps of a third of the volume.
        assert np.diff(places) == pytest.approx(40 / 3, abs=1)


def test_images_for_early_stopping_come_first(halos: Path) -> None:
    assert [one.name for one in held_back_images(halos, 2, 3)] == ["8", "9", "10"]
    assert [one.name for one in held_back_images(halos, 3, 1)] == ["8", "9", "10"]


def test_a_recipe_is_what_its_json_says() -> None:
    recipe = short(3, share=0.5, images=20)
    assert AdaptRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert AdaptRecipe.from_dict({"recipe": "adapt"}) == AdaptRecipe()
    assert AdaptRecipe().to_dict()["recipe"] == "adapt"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"recipe": "student"}, "expected 'adapt', got 'student'"),
        ({"recipe": "adapt", "shares": 1}, "unknown fields ['shares']"),
        ({"recipe": "adapt", "share": 0}, "share: expected a number above 0, at most 1, got 0"),
        ({"recipe": "adapt", "share": True}, "share: expected"),
        ({"recipe": "adapt", "encoder_share": 1.5}, "encoder_share: expected a number from 0 to 1, got 1.5"),
        ({"recipe": "adapt", "images": 1, "batch_size": 0}, "images: expected a whole number of at least 2, got 1"),
        ({"recipe": "adapt", "batch_size": None}, "batch_size: expected a whole number of at least 1, got None"),
        ({"recipe": "adapt", "augmentation": {"spin": 1}}, "spin"),
        ({"recipe": "adapt", "interaction": {"turns": 1}}, "unknown fields ['turns']"),
        ({"recipe": "adapt", "loop": 5}, "adapt"),
        ([], "expected an object"),
    ],
)
def test_a_recipe_that_is_none_is_refused(content: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        AdaptRecipe.from_dict(content)


def test_too_little_data_is_said_before_training(halos: Path, base: Base, tmp_path: Path) -> None:
    def fails(name: str, message: str, **lists: list[int]) -> None:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "set.json").write_text(json.dumps({"source": str(halos)}))
        for part, ids in lists.items():
            (folder / f"{part}.txt").write_text("\n".join(map(str, ids)))
        with pytest.raises(DataError, match=message):
            train(short(1), base, [folder], tmp_path / "run")
        assert not (tmp_path / "run").exists()

    fails("nothing_held_back", "val.txt of .* names no image", train=[0, 1], val=[])
    fails("one_image", "one_image: expected at least 2 images with objects to train on, got 1", train=[0], val=[8])
    empty = write_set(tmp_path / "empty", train=2, val=2)
    for name in ("train.txt", "val.txt"):
        (empty / name).rename(empty / "hidden")
        with pytest.raises(DataError, match=re.escape(name)):
            train(short(1), base, [empty], tmp_path / "run")
        (empty / "hidden").rename(empty / name)
    for path in (empty / "masks").iterdir():
        cv2.imwrite(str(path), np.zeros((96, 96), np.uint8))
    with pytest.raises(DataError, match="no image with an object"):
        train(short(1), base, [empty], tmp_path / "run")


def test_a_model_without_prompts_is_no_base(halos: Path, base: Base, tmp_path: Path) -> None:
    semantic = replace(base, checkpoint=replace(base.checkpoint, task="semantic"))
    with pytest.raises(ValueError, match="expected a base that takes prompts, got a semantic one"):
        train(short(1), semantic, [halos], tmp_path / "run")
