"""Recipe sac: points are picked from the U-Net's map, the rest answers them, and a bundle needs no prompt."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

import samsdk
from samsdk.point_selection import PointSelection, select_points
from samsdk.splitting import Splitting
from samsdk.transforms import Preprocessing
from samsdk_export.bundle_writer import write_bundle
from samsdk_training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from samsdk_training.data import DataError
from samsdk_training.label_samples import LabelBatch
from samsdk_training.loop import LoopConfig
from samsdk_training.models import SamConfig, TinyViTConfig, build_sam, sam_vit_config
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.recipes.sac import GENERATOR, SacRecipe, _describe, train_sac
from samsdk_training.recipes.sac_loss import SacWeights, sac_loss
from samsdk_training.recipes.semantic_validation import foreground_validation
from samsdk_training.torch_predictor import TorchPredictor
from samsdk_training.tuning import Base, load_base, trainable_parameters

CONFIG = SamConfig(
    TinyViTConfig(
        image_size=64,
        embed_dims=(8, 16, 16, 32),
        depths=(1, 1, 2, 1),
        num_heads=(1, 2, 2, 4),
        window_sizes=(7, 7, 14, 7),
        out_channels=32,
    ),
    DecoderConfig(num_heads=2, mlp_dim=32, iou_head_hidden_dim=16),
    mask_channels=8,
)
PREPROCESSING = Preprocessing(64)
RECIPE = SacRecipe(
    LoopConfig(
        steps=200,
        learning_rate=5e-3,
        warmup_steps=5,
        rate_factors=((GENERATOR, 2.0),),
        validate_every=100,
        save_every=100,
    ),
    channels=8,
    depth=2,
    warm_start=40,
    selection=PointSelection(positives=6, negatives=4),
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two to four bright cells, one number each; the last four are for validation."""
    folder = tmp_path_factory.mktemp("data") / "cells"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for index in range(16):
        label = np.zeros((64, 64), dtype=np.uint16)
        corners = rng.permutation([(16, 16), (16, 47), (47, 16), (47, 47)])[: rng.integers(2, 5)]
        for number, (y, x) in enumerate(corners, start=1):
            y, x, radius = y + rng.integers(-3, 4), x + rng.integers(-3, 4), rng.integers(7, 11)
            label[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = number
        image = 50 + 140 * (label > 0) + rng.normal(0, 6, label.shape)
        cv2.imwrite(str(folder / "images" / f"{index:02}.png"), np.clip(image, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "masks" / f"{index:02}.png"), label)
    (folder / "train.txt").write_text("\n".join(f"{one:02}" for one in range(12)))
    (folder / "val.txt").write_text("\n".join(f"{one:02}" for one in range(12, 16)))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    torch.manual_seed(4)
    checkpoint = Checkpoint(
        model=CONFIG.to_dict(),
        geometry={"rule": "longest_pad_br", "input_size": 64, "interpolation": "area", "box_rounding": "none"},
        intensity={"rule": "uint8_or_minmax"},
        normalisation={"rule": "minmax"},
        prompts={"kinds": ["points", "box", "mask"], "trained": ["box"], "mask": "logits"},
        classes={},
        licence={"id": "CC0-1.0"},
        lineage={"recipe": "random weights"},
        state=build_sam(CONFIG).state_dict(),
    )
    folder = tmp_path_factory.mktemp("base") / "base"
    save_checkpoint(checkpoint, folder)
    return load_base(folder)


def train(recipe: SacRecipe, base: Base, data: Path, run: Path) -> dict:
    return train_sac(recipe, base, [data], run, licence={"id": "CC0-1.0"}, show_progress=False)


def blobs() -> LabelBatch:
    """Three images: two cells, one cell, none."""
    labels = torch.zeros(3, 64, 64, dtype=torch.long)
    labels[0, 8:24, 8:24] = labels[0, 40:60, 36:52] = labels[1, 20:44, 20:44] = 1
    frames = tuple(PREPROCESSING.frame((64, 64)) for _ in range(3))
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return LabelBatch(images, labels, torch.zeros(3, 1, 2), torch.full((3, 1), -1), frames)


def test_as_much_is_trained_as_the_parts_have() -> None:
    """ViT-B, rank 4: the encoder's pairs, SAM's decoder, and the U-Net of 32 channels."""
    recipe = SacRecipe()
    config = recipe.config(sam_vit_config("b"))
    assert trainable_parameters(config, recipe.tuning) == 147_456 + 4_058_340 + 7_763_041


def test_a_recipe_survives_json() -> None:
    content = json.loads(json.dumps(RECIPE.to_dict()))
    assert SacRecipe.from_dict(content) == RECIPE
    with pytest.raises(ValueError, match="unknown fields"):
        SacRecipe.from_dict({**content, "threshold": 0.5})
    with pytest.raises(ValueError, match=r"(?s)channels: expected a whole number.*warm_start: expected"):
        replace(RECIPE, channels=0, warm_start=-1)


def test_the_loss_is_of_map_and_mask_by_hand(base: Base) -> None:
    model = base.tuned(RECIPE.tuning, RECIPE.config(CONFIG)).eval()
    batch, weights = blobs(), SacWeights(2.0, 3.0, 5.0)
    # With one positive point there is nothing to draw.
    selection = PointSelection(positives=1, negatives=1)
    with torch.no_grad():
        losses = sac_loss(
            model, batch, selection, weights, PREPROCESSING, torch.Generator().manual_seed(0), from_labels=True
        )
        found = model.auto_prompt_generator(batch.images)
        of_map = functional.binary_cross_entropy_with_logits(found, batch.labels[:, None].float())
        masks, dice = [], []
        for index in (0, 1):
            label = batch.labels[index].float()
            points, kinds = select_points(label.numpy(), batch.frames[index], selection)
            given = torch.tensor(points, dtype=torch.float32)[None], torch.from_numpy(kinds)[None]
            logits, _ = model(batch.images[index : index + 1], points=given)
            p = logits.sigmoid()[0, 0]
            masks.append(functional.binary_cross_entropy_with_logits(logits[0, 0], label))
            dice.append(1 - (2 * (p * label).sum() + 1) / ((p * p).sum() + (label * label).sum() + 1))
    assert float(losses["generator"]) == pytest.approx(float(of_map), rel=1e-5)
    # The third image has no point, so that no mask of it counts.
    assert float(losses["cross_entropy"]) == pytest.approx(float(sum(masks) / 2), rel=1e-4)
    assert float(losses["dice_loss"]) == pytest.approx(float(sum(dice) / 2), rel=1e-4)
    expected = 2 * losses["cross_entropy"] + 3 * losses["dice_loss"] + 5 * losses["generator"]
    assert float(losses["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_the_u_net_learns_from_its_map_alone(base: Base) -> None:
    model = base.tuned(RECIPE.tuning, RECIPE.config(CONFIG))
    for weights in (SacWeights(1, 1, 0), SacWeights(0, 0, 1)):
        model.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(0)
        sac_loss(model, blobs(), RECIPE.selection, weights, PREPROCESSING, generator, from_labels=True)[
            "loss"
        ].backward()
        moved = {
            name.split(".")[0] for name, one in model.named_parameters() if one.grad is not None and one.grad.any()
        }
        alone = weights.generator > 0
        assert moved == ({"auto_prompt_generator"} if alone else {"image_encoder", "mask_decoder"})


def test_cells_are_found_without_a_prompt(base: Base, cells: Path, tmp_path: Path) -> None:
    result = train(RECIPE, base, cells, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [row["validation"] for row in rows if "validation" in row]
    assert {"dice", "iou", "aji", "object_f1"} <= scores[-1].keys()
    assert result["best_score"] > 0.8
    best = load_checkpoint(tmp_path / "run" / "best")
    assert best.task == "auto"
    write_bundle(best, tmp_path / "bundle", name="cells")
    image = cv2.imread(str(cells / "images" / "13.png"), cv2.IMREAD_GRAYSCALE)
    truth = cv2.imread(str(cells / "masks" / "13.png"), cv2.IMREAD_UNCHANGED)
    found = samsdk.load(tmp_path / "bundle", device="cpu").segment(image)
    both = np.count_nonzero(found.mask & (truth > 0))
    assert 2 * both / (np.count_nonzero(found.mask) + np.count_nonzero(truth)) > 0.8
    assert found.instances().max() == truth.max()


def test_what_cannot_be_trained_on_is_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.txt"):
        train(RECIPE, base, tmp_path, tmp_path / "run")
    with pytest.raises(ValueError, match="multiple of"):
        train(replace(RECIPE, image_size=72, depth=4), base, tmp_path, tmp_path / "run")


def test_validation_parts_objects_as_the_recipe_says(base: Base, tmp_path: Path, monkeypatch) -> None:
    """Two touching discs, found exactly: two objects, or one where the recipe parts nothing so shallow."""

    class Seen:
        def encode(self, image):
            return image

        def decode(self, embedding):
            return SimpleNamespace(mask=embedding > 100)

    monkeypatch.setattr(TorchPredictor, "of", lambda *_: Seen())
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    rows, columns = np.ogrid[:40, :60]
    discs = [(rows - 20) ** 2 + (columns - x) ** 2 <= 100 for x in (20, 37)]
    truth = np.where(discs[0] & (columns <= 28), 1, np.where(discs[1], 2, 0)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "images" / "0.png"), np.where(truth > 0, 200, 0).astype(np.uint8))
    cv2.imwrite(str(tmp_path / "masks" / "0.png"), truth)
    (tmp_path / "val.txt").write_text("0\n")
    found = {}
    for name, splitting in (("parted", Splitting()), ("whole", Splitting(depth=50.0)), ("silent", None)):
        recipe = replace(RECIPE, splitting=splitting)
        description = _describe(recipe, base, recipe.config(CONFIG), {})
        found[name] = foreground_validation([tmp_path], description, 4)(None)
    assert found["parted"] == found["silent"]
    assert found["parted"]["object_f1"] == 1.0
    assert found["whole"]["object_f1"] < 1.0
    assert found["whole"]["dice"] == found["parted"]["dice"] == 1.0
