"""Recipes samed, samed_s and cheap_lunch: what they train, what they lose, and a folder of slices to a label map."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

import samsdk
from samsdk_export.bundle_writer import write_bundle
from samsdk_training.adapter_file import load_adapter
from samsdk_training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from samsdk_training.data import DataError, read_set
from samsdk_training.evaluation import PassPerClass, class_cases, summarise_cases
from samsdk_training.label_samples import LabelBatch
from samsdk_training.loop import LoopConfig
from samsdk_training.merging import merge_adapter
from samsdk_training.models import SamConfig, VitConfig, build_sam, sam_vit_config
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.recipes.semantic import SemanticRecipe, cheap_lunch, samed, samed_s, train_semantic
from samsdk_training.recipes.semantic_loss import class_point_loss, semantic_loss
from samsdk_training.synthesis import PRESETS
from samsdk_training.torch_predictor import TorchPredictor
from samsdk_training.tuning import Base, load_base, trainable_parameters

LOOP = LoopConfig(steps=60, learning_rate=5e-3, warmup_steps=5, validate_every=30, save_every=30, clip_norm=None)
CONFIG = SamConfig(
    VitConfig(image_size=64, embed_dim=16, depth=2, num_heads=2, global_blocks=(1,), window_size=3, out_channels=32),
    DecoderConfig(num_heads=2, mlp_dim=32, iou_head_hidden_dim=16),
    mask_channels=8,
)


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a dark disc and a bright square on a grey ground, two classes; the last four are for validation."""
    folder = tmp_path_factory.mktemp("data") / "slices"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for index in range(16):
        (y, x), (top, left) = rng.integers(14, 24, 2), rng.integers(34, 44, 2)
        label = ((rows - y) ** 2 + (columns - x) ** 2 < 10**2).astype(np.uint8)
        label[top : top + 16, left : left + 16] = 2
        image = np.array([120, 30, 220])[label] + rng.normal(0, 6, label.shape)
        cv2.imwrite(str(folder / "images" / f"{index:02}.png"), np.clip(image, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "masks" / f"{index:02}.png"), label)
    (folder / "labels.json").write_text(json.dumps({"1": "disc", "2": "square"}))
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
        prompts={"kinds": ["points", "box", "mask"], "trained": ["points", "box"], "mask": "logits"},
        classes={},
        licence={"id": "CC0-1.0"},
        lineage={"recipe": "random weights"},
        state=build_sam(CONFIG).state_dict(),
    )
    folder = tmp_path_factory.mktemp("base") / "base"
    save_checkpoint(checkpoint, folder)
    return load_base(folder)


def tiny(recipe: SemanticRecipe, **changes) -> SemanticRecipe:
    return replace(recipe, **{"loop": LOOP, "batch_size": 4, **changes})


def train(recipe: SemanticRecipe, base: Base, data: Path, run: Path) -> dict:
    return train_semantic(recipe, base, [data], run, licence={"id": "CC0-1.0"}, show_progress=False)


@pytest.mark.parametrize(
    ("recipe", "count"),
    [(samed(), 4_913_621), (samed_s(), 1_645_909), (cheap_lunch(), 1_645_909 + 8 * 256)],
)
def test_as_much_is_trained_as_published(recipe: SemanticRecipe, count: int) -> None:
    """SAMed's counts at ViT-B, rank 4, 8 classes; the embeddings of classes that points name come on top."""
    config = recipe.config(sam_vit_config("b", 512), 8)
    assert trainable_parameters(config, recipe.tuning) == count


@pytest.mark.parametrize("recipe", [samed(), samed_s(), cheap_lunch()])
def test_recipes_survive_json(recipe: SemanticRecipe) -> None:
    content = json.loads(json.dumps(recipe.to_dict()))
    assert SemanticRecipe.from_dict(content) == recipe
    with pytest.raises(ValueError, match="unknown fields"):
        SemanticRecipe.from_dict({**content, "epochs": 3})
    with pytest.raises(ValueError, match=r"(?s)decoder: expected whole or lora.*rank: expected a whole number"):
        replace(recipe, decoder="none", rank=0)


def test_the_loss_is_samed_s_by_hand(base: Base) -> None:
    model = base.tuned(samed().tuning, samed().config(CONFIG, 2)).eval()
    images, labels = torch.rand(3, 3, 64, 64), torch.randint(3, (3, 16, 16))
    batch = LabelBatch(images, labels, torch.zeros(3, 2, 2), torch.full((3, 2), -1), ())
    with torch.no_grad():
        losses = semantic_loss(model, batch, 0.2, 0.8, prompted=False)
        logits = model.decode_all(model.encode(images))[0].double().numpy()
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    p, y = exponents / exponents.sum(1, keepdims=True), labels.numpy()
    cross_entropy = -np.log(np.take_along_axis(p, y[:, None], 1)).mean()
    dice = []
    for one in range(3):
        g = y == one
        dice.append(1 - (2 * p[:, one][g].sum() + 1e-5) / ((p[:, one] ** 2).sum() + g.sum() + 1e-5))
    assert float(losses["cross_entropy"]) == pytest.approx(cross_entropy, rel=1e-5)
    assert float(losses["dice_loss"]) == pytest.approx(np.mean(dice), rel=1e-5)
    assert float(losses["loss"]) == pytest.approx(0.2 * cross_entropy + 0.8 * np.mean(dice), rel=1e-5)


def test_class_points_change_what_the_model_says_and_absent_ones_do_not(base: Base) -> None:
    model = base.tuned(cheap_lunch().tuning, cheap_lunch().config(CONFIG, 2)).eval()
    embeddings = model.encode(torch.rand(2, 3, 64, 64))
    points, classes = torch.rand(2, 2, 2) * 63, torch.tensor([[1, 2], [1, -1]])
    with torch.no_grad():
        model.prompt_encoder.class_embeddings.weight.normal_()
        said = model.decode_all(embeddings, class_points=(points, classes))[0]
        swapped = model.decode_all(embeddings, class_points=(points, torch.tensor([[2, 1], [2, -1]])))[0]
        moved = points.clone()
        moved[1, 1] = 5.0
        same = model.decode_all(embeddings, class_points=(moved, classes))[0]
    assert not torch.allclose(said, swapped, atol=1e-4)
    torch.testing.assert_close(said, same)


def test_a_pass_for_each_class_takes_its_points_and_its_pixels(base: Base) -> None:
    recipe = tiny(cheap_lunch(), class_points="per_class")
    model = base.tuned(recipe.tuning, recipe.config(CONFIG, 2)).eval()
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(3, (2, 16, 16))
    points, classes = torch.rand(2, 4, 2) * 63, torch.tensor([[1, 1, 2, 2], [-1, -1, 2, 2]])
    batch = LabelBatch(images, labels, points, classes, ())
    with torch.no_grad():
        losses = class_point_loss(model, batch, 1.0, 0.8)
        expected = []
        for image, one, rows in ((0, 1, slice(0, 2)), (0, 2, slice(2, 4)), (1, 2, slice(2, 4))):
            given = points[image, rows][None], torch.ones(1, 2)
            logits, _ = model(images[image : image + 1], points=given)
            target = (labels[image] == one).float()[None, None]
            expected.append(float(functional.binary_cross_entropy_with_logits(logits, target)))
    assert float(losses["cross_entropy"]) == pytest.approx(np.mean(expected), rel=1e-4)
    nothing = LabelBatch(images, labels, points, torch.full((2, 4), -1), ())
    empty = class_point_loss(model.train(), nothing, 1.0, 0.8)["loss"]
    empty.backward()
    assert float(empty.detach()) == 0


def test_a_folder_of_slices_becomes_a_bundle_that_names_classes(base: Base, slices: Path, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=180, learning_rate=1e-2, validate_every=90, save_every=90, weight_decay=0.0)
    result = train(tiny(samed(), loop=loop), base, slices, tmp_path / "run")
    scores = validations(tmp_path / "run")
    assert scores[-1].keys() == {"dice", "dice_disc", "dice_square"}
    assert result["best_score"] > 0.6
    best = load_checkpoint(tmp_path / "run" / "best")
    assert (best.task, best.classes) == ("semantic", {"0": "background", "1": "disc", "2": "square"})
    assert best.lineage["recipe"] == "samed"
    assert best.lineage["base"]["sha256"] == base.sha256
    # What was learned, merged into the base again, is the checkpoint.
    merged, _ = merge_adapter(load_adapter(tmp_path / "run" / "adapter"), base)
    assert all(torch.equal(best.state[key], tensor) for key, tensor in merged.state.items())
    write_bundle(best, tmp_path / "bundle", name="slices")
    image = cv2.imread(str(slices / "images" / "13.png"), cv2.IMREAD_GRAYSCALE)
    truth = cv2.imread(str(slices / "masks" / "13.png"), cv2.IMREAD_GRAYSCALE)
    found = samsdk.load(tmp_path / "bundle", device="cpu").segment(image)
    assert float((found.label_map == truth).mean()) > 0.85


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(base: Base, slices: Path, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=4, warmup_steps=0, validate_every=4, save_every=2)
    recipe = tiny(cheap_lunch(), loop=loop, exemplars=2, synthesis=PRESETS["parts"])
    train(recipe, base, slices, tmp_path / "whole")
    states = []
    for name in ("whole", "twice"):
        if name == "twice":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("samsdk_training.recipes.semantic.semantic_loss", _stops_at(3))
                with pytest.raises(KeyboardInterrupt):
                    train(recipe, base, slices, tmp_path / name)
            train(recipe, base, slices, tmp_path / name)
        states.append((tmp_path / name / "state" / "state.safetensors").read_bytes())
    assert states[0] == states[1]
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert len(config["recipe"]["sets"]["exemplars"]) == 2


def of_classes(predictor, slices: Path, prompt: str) -> dict[str, float]:
    """Dice of each class after a prompt, and its mean, as a validation calls them."""
    classes = {"0": "background", "1": "disc", "2": "square"}
    scores = list(class_cases(predictor, read_set(slices, "val.txt"), classes, prompts=(prompt,)))
    dice = summarise_cases(scores)["dice"]
    return {"dice": dice["mean over classes"], "dice_disc": dice["disc"], "dice_square": dice["square"]}


def validations(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["validation"] for row in rows if "validation" in row]


def test_points_that_name_classes_are_validated_with_and_without(base: Base, slices: Path, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=4, warmup_steps=0, validate_every=4)
    train(tiny(cheap_lunch(), loop=loop, exemplars=4, synthesis=None, points=2), base, slices, tmp_path / "run")
    best = load_checkpoint(tmp_path / "run" / "best")
    asked = TorchPredictor.of(best, best.build())
    assert asked.takes_class_points
    alone, guided = (of_classes(asked, slices, prompt) for prompt in ("none", "point2"))
    # The weights are picked by what the bundle will do: it answers without points.
    expected = {**alone, "dice_with_points": guided["dice"]}
    assert validations(tmp_path / "run")[-1] == pytest.approx(expected, abs=1e-5)
    assert guided["dice"] != alone["dice"]


def _stops_at(call: int):
    calls = []

    def loss(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return semantic_loss(*args, **kwargs)

    return loss


def test_one_point_a_class_trains_a_promptable_model(base: Base, slices: Path, tmp_path: Path) -> None:
    recipe = tiny(
        cheap_lunch(),
        class_points="per_class",
        synthesis=None,
        exemplars=4,
        loop=replace(LOOP, steps=4, warmup_steps=0),
    )
    train(recipe, base, slices, tmp_path / "run")
    best = load_checkpoint(tmp_path / "run" / "best")
    assert (best.task, best.prompts["kinds"], best.classes) == ("promptable", ["points"], {})
    # Validated by the label map that all classes make together.
    asked = PassPerClass(TorchPredictor.of(best, best.build()), {"0": "background", "1": "disc", "2": "square"})
    expected = of_classes(asked, slices, "point1")
    assert validations(tmp_path / "run")[-1] == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_trained_on_is_refused_before_training(base: Base, slices: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.txt"):
        train(tiny(samed()), base, tmp_path, tmp_path / "run")
    other = tmp_path / "other"
    for part in ("images", "masks"):
        (other / part).mkdir(parents=True)
        cv2.imwrite(str(other / part / "0.png"), np.zeros((20, 20), np.uint8))
    for name in ("train.txt", "val.txt"):
        (other / name).write_text("0")
    with pytest.raises(DataError, match=r"no pixel of .* is labelled"):
        train(tiny(samed()), base, other, tmp_path / "run")
    cv2.imwrite(str(other / "masks" / "0.png"), np.full((20, 20), 7, np.uint8))
    with pytest.raises(DataError, match="the sets name different classes"):
        train_semantic(tiny(samed()), base, [slices, other], tmp_path / "run", licence={}, show_progress=False)
    assert not (tmp_path / "run").exists()
