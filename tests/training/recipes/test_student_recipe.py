"""The recipe as a user runs it: a folder of images, a run, a checkpoint, a bundle, a mask."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import samsdk
from samsdk import cli
from samsdk.io.images import read_image
from samsdk_export.bundle_writer import write_bundle
from samsdk_training.checkpoints import load_checkpoint
from samsdk_training.data import read_set
from samsdk_training.evaluation import evaluate_images, summarise
from samsdk_training.loop import LoopConfig
from samsdk_training.models import SamConfig, StudentEncoderConfig
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.recipes.student import StudentRecipe, train_student
from samsdk_training.samples import SampleSet


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pictures of bright discs on a textured ground; the last four are for validation."""
    folder = tmp_path_factory.mktemp("data") / "discs"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :120]
    for index in range(16):
        y, x, radius = rng.integers(25, 70), rng.integers(25, 95), rng.integers(12, 22)
        mask = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        image = 60 + 110 * mask + rng.normal(0, 6, mask.shape)
        cv2.imwrite(str(folder / "images" / f"{index}.png"), np.clip(image, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "masks" / f"{index}.png"), mask.astype(np.uint8))
    (folder / "train.txt").write_text("\n".join(map(str, range(12))))
    (folder / "val.txt").write_text("\n".join(map(str, range(12, 16))))
    return folder


def tiny_recipe(steps: int) -> StudentRecipe:
    encoder = StudentEncoderConfig(64, stem_channels=8, widths=(8, 16, 16, 24), depths=(1, 1, 1, 1), out_channels=32)
    model = SamConfig(encoder, DecoderConfig(num_heads=2, mlp_dim=64, iou_head_hidden_dim=32))
    loop = LoopConfig(steps=steps, learning_rate=4e-3, warmup_steps=5, validate_every=40, save_every=40)
    return StudentRecipe(loop, model, batch_size=8)


def test_a_student_learns_and_its_bundle_segments(discs: Path, tmp_path: Path) -> None:
    result = train_student(
        tiny_recipe(160), [SampleSet(discs)], [discs], tmp_path / "run", licence={"id": "CC0-1.0"}, show_progress=False
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    validations = [line["validation"]["dice"] for line in lines if "validation" in line]
    assert len(validations) == 4
    assert max(validations) > 0.7
    assert result["best_score"] == max(validations)
    sheet = read_image(tmp_path / "run" / "overlays.png")
    # The disc that was found is outlined in the sheet's red, which the grey picture has not.
    assert ((sheet[..., 0].astype(int) - sheet[..., 1]) > 100).sum() > 40
    checkpoint = load_checkpoint(tmp_path / "run" / "best")
    assert checkpoint.lineage["sets"] == ["discs"]
    assert checkpoint.prompts["trained"] == ["points", "box", "mask"]
    predictor = samsdk.load(write_bundle(checkpoint, tmp_path / "bundle", name="discs"), device="cpu")
    dice = summarise(list(evaluate_images(predictor, read_set(discs, "val.txt"), zoom=predictor.zoom())))["dice"]
    # What the bundle scores is what training said, box to box and click to click.
    assert np.mean(list(dice.values())) == pytest.approx(max(validations), abs=1e-3)


def test_the_program_trains_and_goes_on(discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = tmp_path / "shape.json"
    shape.write_text(json.dumps(tiny_recipe(160).model.to_dict()))
    command = ["train", "student", "--data", str(discs), "-o", str(tmp_path / "run"), "--batch-size", "2", "--json"]
    command += ["--model", str(shape)]
    assert cli.main([*command, "--steps", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == str(tmp_path / "run" / "best")
    checkpoint = load_checkpoint(tmp_path / "run" / "best")
    assert checkpoint.model == tiny_recipe(160).model.to_dict()
    assert cli.main([*command, "--steps", "2"]) == 0
    again = load_checkpoint(tmp_path / "run" / "best").state
    assert all(torch.equal(tensor, again[name]) for name, tensor in checkpoint.state.items())
    # Another configuration does not go on in the same folder, and a shape that is none is a wrong call.
    assert cli.main([*command, "--steps", "3"]) == 1
    assert "steps" in capsys.readouterr().err
    shape.write_text("{}")
    assert cli.main([*command, "--steps", "2"]) == 2
    assert "model: missing fields" in capsys.readouterr().err
