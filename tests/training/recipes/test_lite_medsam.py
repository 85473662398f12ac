"""Recipe `lite_medsam`: low-rank weights that are trained with boxes, by LiteMedSAM's loss."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from samsdk_training.adapter_file import load_adapter
from samsdk_training.augment import PROBABILITIES
from samsdk_training.bases import find_base
from samsdk_training.checkpoints import CheckpointError, load_checkpoint
from samsdk_training.data import DataError, tight_box
from samsdk_training.loop import LoopConfig
from samsdk_training.lora import LoraConfig
from samsdk_training.merging import merge_adapter
from samsdk_training.recipes import lite_medsam
from samsdk_training.recipes.lite_medsam import LiteMedSamRecipe, train_lite_medsam
from samsdk_training.recipes.single_prompt import outward_box, single_prompt_loss
from samsdk_training.resize import resize_checkpoint
from samsdk_training.tuning import Base, Tuning

LICENCE = {"id": "CC0-1.0", "source": "test", "attribution": "none"}


@pytest.fixture(scope="module")
def rings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bright ellipses with wide, faint halos an image; the object is both, which the base cuts short."""
    folder = tmp_path_factory.mktemp("data") / "rings"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :128]
    for index in range(11):
        image, label = 60 + rng.normal(0, 4, rows.shape), np.zeros(rows.shape, np.uint8)
        for number, x in enumerate((32, 96), start=1):
            y, height, width = rng.integers(40, 56), rng.integers(22, 32), rng.integers(18, 28)
            distance = np.hypot((rows - y) / height, (columns - x) / width)
            image += 14 * (distance < 1) + 110 * (distance < 0.5)
            label[distance < 1] = number
        cv2.imwrite(str(folder / "images" / f"{index}.png"), np.clip(image, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "masks" / f"{index}.png"), label)
    (folder / "train.txt").write_text("\n".join(map(str, range(8))))
    (folder / "val.txt").write_text("\n".join(map(str, range(8, 11))))
    return folder


@pytest.fixture(scope="module")
def base() -> Base:
    """The default model, for a smaller input: a quarter of the work."""
    whole = find_base("student")
    return replace(whole, checkpoint=resize_checkpoint(whole.checkpoint, 128))


def short(steps: int, **changes: object) -> LiteMedSamRecipe:
    loop = LoopConfig(steps=steps, learning_rate=3e-3, validate_every=10, save_every=4)
    # The default model's encoder has no attention, so that `qv` goes to the decoder alone.
    pairs = Tuning(LoraConfig(rank=4, encoder="linear", decoder="qv"))
    recipe = LiteMedSamRecipe(loop, pairs, batch_size=2, masks_per_image=2, validation_images=2, compared_images=3)
    return replace(recipe, **changes)  # type: ignore[arg-type]


def train(recipe: LiteMedSamRecipe, base: Base, sets: Sequence[Path], run: Path) -> dict[str, object]:
    return train_lite_medsam(recipe, base, sets, run, licence=LICENCE, show_progress=False)


def test_boxes_get_better_and_adapter_and_base_are_the_best(rings: Path, base: Base, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(short(30), base, [rings], run)
    table = json.loads((run / "before_after.json").read_text())
    assert result["before_after"] == table
    before, after = (table["mean"][when]["box"] for when in ("before", "after"))
    assert after > before + 0.05
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    boxes = [line["validation"]["dice_box"] for line in lines if "validation" in line]
    assert result["best_score"] == max(boxes)
    assert (run / "before_after.png").is_file()
    assert (run / "overlays.png").is_file()
    best, (merged, report) = load_checkpoint(run / "best"), merge_adapter(load_adapter(run / "adapter"), base)
    assert all(torch.equal(tensor, best.state[key]) for key, tensor in merged.state.items())
    assert not report.replaced
    changed = {key for key, tensor in best.state.items() if not torch.equal(tensor, base.checkpoint.state[key])}
    assert changed == set(report.merged)
    assert best.licence == LICENCE


def test_a_run_that_was_stopped_ends_with_the_same_weights(
    rings: Path, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, real, asked = short(7, points=0.5), lite_medsam.single_prompt_loss, []
    train(recipe, base, [rings], tmp_path / "whole")

    def interrupted(*args: object, **options: object) -> dict[str, Tensor]:
        asked.append(1)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(lite_medsam, "single_prompt_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, base, [rings], tmp_path / "stopped")
    train(recipe, base, [rings], tmp_path / "stopped")
    whole, stopped = (load_checkpoint(tmp_path / name / "best").state for name in ("whole", "stopped"))
    assert all(torch.equal(tensor, stopped[key]) for key, tensor in whole.items())
    assert len(asked) == 6 + 3


class Recorder(torch.nn.Module):
    """Answers every prompt with fixed logits and a fixed score, and keeps what it was asked."""

    def __init__(self, logits: Tensor, score: float) -> None:
        super().__init__()
        self.logits, self.score = logits, score
        self.asked: list[tuple[str, Tensor, Tensor]] = []

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        return {"image_embeddings": images.mean((1, 2, 3))[:, None, None, None]}

    def decode(
        self,
        embeddings: dict[str, Tensor],
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        kind, prompt = ("points", points[0]) if points else ("boxes", boxes)
        assert prompt is not None
        if points:
            assert points[1].tolist() == [[1.0]] * len(prompt)
        self.asked.append((kind, prompt, embeddings["image_embeddings"].flatten()))
        return self.logits.expand(len(prompt), 1, -1, -1), torch.full((len(prompt), 1), self.score)


def test_the_loss_is_the_sum_of_its_three_terms() -> None:
    # Logits of 2 x 2 cells over an input of 4 x 4: the left column is foreground.
    logits = torch.tensor([[1.0, -2.0], [3.0, -4.0]])[None, None].requires_grad_()
    masks = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    masks[0, 0, :2, :2] = True  # all of the first cell
    masks[0, 0, 2, :2] = True  # half of the third
    model = Recorder(logits, 0.7)
    parts = single_prompt_loss(model, torch.zeros(1, 3, 4, 4), masks, torch.Generator())  # type: ignore[arg-type]
    p = 1 / (1 + np.exp(-np.array([1.0, -2.0, 3.0, -4.0])))
    t = np.array([1.0, 0.0, 0.5, 0.0])
    dice = 1 - (2 * (p * t).sum() + 1) / ((p**2).sum() + (t**2).sum() + 1)
    entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    # Half a cell is not above one half: one cell of the two that were found is wanted.
    error = (0.7 - 1 / 2) ** 2
    assert float(parts["dice_loss"]) == pytest.approx(dice, abs=1e-6)
    assert float(parts["cross_entropy"]) == pytest.approx(entropy, abs=1e-6)
    assert float(parts["iou_error"]) == pytest.approx(error, abs=1e-6)
    assert float(parts["iou"]) == pytest.approx(0.5)
    assert float(parts["loss"].detach()) == pytest.approx(dice + entropy + error, abs=1e-6)
    assert parts["loss"].requires_grad
    assert not parts["dice_loss"].requires_grad


def test_each_object_is_asked_for_in_its_own_image() -> None:
    images = torch.stack([torch.full((3, 32, 32), float(value)) for value in range(4)])
    masks = torch.zeros(4, 3, 32, 32, dtype=torch.bool)
    for image in range(4):
        for number in range(3):
            masks[image, number, 8 * image : 8 * image + 6, 10 * number : 10 * number + 7] = True
    model, seen = Recorder(torch.zeros(1, 1, 32, 32), 0.0), []
    for seed in range(6):
        model.asked.clear()
        generator = torch.Generator().manual_seed(seed)
        single_prompt_loss(model, images, masks, generator, box_shift=0, points=0.4)  # type: ignore[arg-type]
        for kind, prompts, values in model.asked:
            for prompt, value in zip(prompts, values.tolist(), strict=True):
                x, y = (prompt[0] if kind == "points" else prompt[:2]).tolist()
                image, number = int(y // 8), int(x // 10)
                assert image == round(value)
                if kind == "points":
                    assert masks[image, number, int(y), int(x)]
                else:
                    assert prompt.tolist() == [*map(float, tight_box(masks[image, number].numpy()))]
                seen.append(kind)
    assert len(seen) == 6 * 12
    # 72 draws at 0.4: 29, standard deviation 4.
    assert 15 < seen.count("points") < 43


@given(
    top=st.integers(0, 19),
    left=st.integers(0, 19),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    largest=st.integers(0, 9),
    seed=st.integers(0, 2**32),
)
def test_sides_move_outward_only_and_stay_in_the_image(
    top: int, left: int, height: int, width: int, largest: int, seed: int
) -> None:
    mask = np.zeros((24, 28), np.bool_)
    mask[top : top + height, left : left + width] = True
    x0, y0, x1, y1 = tight_box(mask)
    a, b, c, d = outward_box(mask, np.random.default_rng(seed), largest)
    assert max(0, x0 - largest) <= a <= x0
    assert max(0, y0 - largest) <= b <= y0
    assert x1 <= c <= min(28, x1 + largest)
    assert y1 <= d <= min(24, y1 + largest)


def test_every_move_from_none_to_the_largest_is_as_likely() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[15:20, 15:25] = True
    rng, (x0, y0, x1, y1) = np.random.default_rng(0), tight_box(mask)
    boxes = np.array([outward_box(mask, rng, 5) for _ in range(1200)])
    moves = np.abs(boxes - [x0, y0, x1, y1])
    for side in moves.T:
        counts = np.bincount(side.astype(int), minlength=6)
        # 1200 draws of six: 200 each, standard deviation 13.
        assert len(counts) == 6
        assert counts.min() > 150
        assert counts.max() < 250
    assert np.abs(np.corrcoef(moves.T) - np.eye(4)).max() < 0.1


def test_flips_alone_vary_the_images_by_default() -> None:
    augmentation = LiteMedSamRecipe().augmentation
    drawn = {name: getattr(augmentation, name) for name in PROBABILITIES if getattr(augmentation, name)}
    assert drawn == {"flip_horizontal": 0.5, "flip_vertical": 0.5}


def test_the_input_may_be_smaller(rings: Path, base: Base, tmp_path: Path) -> None:
    train(short(1, image_size=96, points=1.0), base, [rings], tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "best")
    assert (checkpoint.geometry["input_size"], checkpoint.model["encoder"]["image_size"]) == (96, 96)
    boxes_only = replace(base.checkpoint, prompts={**base.checkpoint.prompts, "trained": ["box"]})
    train(short(1, image_size=96), replace(base, checkpoint=boxes_only), [rings], tmp_path / "boxes")
    assert load_checkpoint(tmp_path / "boxes" / "best").prompts["trained"] == ["box"]
    with pytest.raises(CheckpointError, match="an input of 100 x 100 pixels"):
        train(short(1, image_size=100), base, [rings], tmp_path / "odd")


def test_a_recipe_is_what_its_json_says() -> None:
    recipe = short(3, points=0.25, image_size=96)
    assert LiteMedSamRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert LiteMedSamRecipe.from_dict({"recipe": "lite_medsam"}) == LiteMedSamRecipe()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"recipe": "adapt"}, "expected 'lite_medsam', got 'adapt'"),
        ({"recipe": "lite_medsam", "jitter": 1}, "unknown fields ['jitter']"),
        ({"recipe": "lite_medsam", "points": 1.5}, "points: expected a number from 0 to 1, got 1.5"),
        ({"recipe": "lite_medsam", "box_shift": -1}, "box_shift: expected a whole number of at least 0, got -1"),
        ({"recipe": "lite_medsam", "image_size": True}, "image_size: expected a whole number of at least 1, got True"),
        ({"recipe": "lite_medsam", "tuning": {}}, "lora: missing fields"),
        ({"recipe": "lite_medsam", "augmentation": 3}, "lite_medsam"),
    ],
)
def test_a_recipe_that_is_none_is_refused(content: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LiteMedSamRecipe.from_dict(content)


def test_a_set_without_lists_or_objects_is_refused(rings: Path, base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "pointer"
    folder.mkdir()
    (folder / "set.json").write_text(json.dumps({"source": str(rings)}))
    (folder / "val.txt").write_text("")
    with pytest.raises(DataError, match=r"val\.txt"):
        train(short(1), base, [folder], tmp_path / "run")
    (folder / "val.txt").write_text("8\n")
    with pytest.raises(DataError, match=r"train\.txt"):
        train(short(1), base, [tmp_path], tmp_path / "run")
    with pytest.raises(DataError, match="at least 10000 pixels"):
        train(short(1, smallest=10000), base, [folder], tmp_path / "run")
    semantic = replace(base, checkpoint=replace(base.checkpoint, task="semantic"))
    with pytest.raises(CheckpointError, match="expected a base that takes prompts, got a semantic one"):
        train(short(1), semantic, [rings], tmp_path / "run")
    assert not (tmp_path / "run").exists()
