"""Recipes autoprosam and swin_unetr: learning by themselves, on a ViT, and from a teacher."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from torch import nn
from torch.nn import functional

from samsdk import cli
from samsdk.volumes.intensity import VoxelIntensity
from samsdk_training import train_cli
from samsdk_training.checkpoints import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.loop import LoopConfig
from samsdk_training.models import SamConfig, TinyViTConfig, VitConfig, build_sam
from samsdk_training.models.auto_pro_sam_config import AutoProSamConfig
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.models.swin_unetr import SwinUnetrConfig
from samsdk_training.models.volume import build_volume_model
from samsdk_training.recipes.autoprosam import train_volume
from samsdk_training.recipes.volume_loss import VolumeLoss, distillation_loss
from samsdk_training.recipes.volume_recipe import Distillation, VolumeRecipe, autoprosam, swin_unetr
from samsdk_training.recipes.volume_validation import predict, volume_validation
from samsdk_training.volume_samples import NetworkVolume, VolumeAugmentation, VolumeBatch

VIT = VitConfig(image_size=64, embed_dim=24, depth=4, num_heads=2, global_blocks=(), window_size=4, out_channels=16)
MODEL = AutoProSamConfig((16, 16, 16), 2, 8, VIT, 4, (8, 16), 4, 8)
RECIPE = VolumeRecipe(
    model=MODEL,
    loop=LoopConfig(50, 1e-2, warmup_steps=5, final_lr_share=0.5, validate_every=25, save_every=25),
    augmentation=VolumeAugmentation(flip=0.5),
    intensity=VoxelIntensity("zscore_nonzero"),
    spacing=None,
    validation_cases=2,
)
STUDENT = replace(
    RECIPE,
    name="swin_unetr",
    model=SwinUnetrConfig((32, 32, 64), 3, 12),
    loop=replace(RECIPE.loop, steps=1, warmup_steps=0),
)
LICENCE = {"id": "CC0-1.0"}


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes with a bright ball and a brighter cube; the last two are for validation."""
    folder = tmp_path_factory.mktemp("data") / "balls"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    grid = np.stack(np.mgrid[:20, :18, :16])
    for index in range(8):
        centre, corner = rng.integers([6, 5, 5], [9, 7, 11]), rng.integers([12, 10, 2], [14, 12, 9])
        label = (np.square(grid - centre[:, None, None, None]).sum(0) < 16).astype(np.uint8)
        label[tuple(slice(at, at + 5) for at in corner)] = 2
        image = 100 + 150 * (label == 1) + 400 * (label == 2) + rng.normal(0, 10, label.shape)
        for part, array in (("images", image.astype(np.float32)), ("masks", label)):
            nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), folder / part / f"{index}.nii.gz")
    (folder / "train.txt").write_text("\n".join(map(str, range(6))))
    (folder / "val.txt").write_text("6\n7\n")
    (folder / "labels.json").write_text('{"1": "ball", "2": "cube"}')
    return folder


@pytest.fixture(scope="module")
def trained(balls: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "autoprosam"
    train_volume(RECIPE, None, [balls], run, licence=LICENCE, show_progress=False)
    return run


def scores(run: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["validation"] for record in records if "validation" in record]


def test_it_learns_and_ends_in_a_checkpoint(balls: Path, trained: Path) -> None:
    first, last = scores(trained)
    assert set(last) == {"dice", "dice_ball", "dice_cube"}
    assert last["dice"] > max(first["dice"], 0.3)
    assert last["dice"] == pytest.approx((last["dice_ball"] + last["dice_cube"]) / 2)
    checkpoint = load_checkpoint(trained / "best")
    assert checkpoint.task == "volume"
    assert checkpoint.classes == {"0": "background", "1": "ball", "2": "cube"}
    assert checkpoint.model["classes"] == 3
    assert checkpoint.volume == RECIPE.preprocessing
    assert checkpoint.lineage["sets"] == {"balls": 6}
    validate = volume_validation([balls], checkpoint.volume, checkpoint.classes, 2)
    assert validate(checkpoint.build_network())["dice"] == pytest.approx(max(first["dice"], last["dice"]), abs=1e-6)


def test_the_checkpoint_is_evaluated_as_bundles_are(
    balls: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(trained / "best"), "--data", str(balls), "--nsd", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    # The network's grid is the volumes' own here, so that training's validation measured the same.
    best = max(scores(trained), key=lambda one: one["dice"])
    assert report["task"] == "volume"
    assert report["mean_dice"]["ball"] == pytest.approx(best["dice_ball"], abs=1e-6)
    assert report["mean_dice"]["cube"] == pytest.approx(best["dice_cube"], abs=1e-6)
    assert 0.3 < report["mean_nsd"]["cube"] < 1
    assert cli.main(["evaluate", str(trained / "best"), "--data", str(balls), "--prompts", "box"]) == 2
    assert "is volume and takes no prompt" in capsys.readouterr().err


def test_an_interrupted_run_ends_with_the_same_weights(balls: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, loop=replace(RECIPE.loop, steps=4, warmup_steps=1, validate_every=2, save_every=2))
    train_volume(recipe, None, [balls], tmp_path / "whole", licence=LICENCE, show_progress=False)

    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        from samsdk_training.volume_samples import VolumeSource

        batch = VolumeSource.batch
        patch.setattr(VolumeSource, "batch", lambda self, n, size: stop() if n == 3 else batch(self, n, size))
        with pytest.raises(Stopped):
            train_volume(recipe, None, [balls], tmp_path / "parts", licence=LICENCE, show_progress=False)
    train_volume(recipe, None, [balls], tmp_path / "parts", licence=LICENCE, show_progress=False)
    one, other = (load_checkpoint(tmp_path / name / "best").state for name in ("whole", "parts"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def vit_checkpoint(encoder: VitConfig | TinyViTConfig) -> Checkpoint:
    config = SamConfig(encoder, DecoderConfig(num_heads=2, mlp_dim=16, iou_head_hidden_dim=8), mask_channels=4)
    torch.manual_seed(1)
    return Checkpoint(
        model=config.to_dict(),
        geometry={"rule": "longest_pad_br", "input_size": 64, "interpolation": "area", "box_rounding": "none"},
        intensity={"rule": "uint8_or_minmax"},
        normalisation={"rule": "minmax"},
        prompts={"kinds": ["points", "box"], "trained": ["box"], "mask": "logits"},
        classes={},
        licence=LICENCE,
        lineage={"merged": True},
        state=build_sam(config).state_dict(),
    )


def test_on_a_vit_what_it_knows_of_images_stays(balls: Path, tmp_path: Path) -> None:
    base = vit_checkpoint(replace(VIT, image_size=96, global_blocks=(1, 3)))
    save_checkpoint(base, tmp_path / "base")
    recipe = replace(RECIPE, loop=replace(RECIPE.loop, steps=2, warmup_steps=1))
    train_volume(recipe, tmp_path / "base", [balls], tmp_path / "run", licence=LICENCE, show_progress=False)
    checkpoint = load_checkpoint(tmp_path / "run" / "best")
    assert checkpoint.model["vit"]["image_size"] == 96
    assert checkpoint.model["vit"]["global_blocks"] == [1, 3]
    sha = json.loads((tmp_path / "base" / "model.json").read_text())["tensors"]["sha256"]
    assert checkpoint.lineage["base"] == sha
    shared = [key for key in checkpoint.state if key in base.state]
    moved = {key for key in shared if not torch.equal(checkpoint.state[key], base.state[key])}
    assert len(shared) == 3 + 4 * 14
    assert moved == {key for key in shared if ".norm" in key}
    save_checkpoint(
        vit_checkpoint(
            TinyViTConfig(
                image_size=64,
                embed_dims=(8, 16, 16, 32),
                depths=(1, 1, 1, 1),
                num_heads=(1, 2, 2, 4),
                window_sizes=(7, 7, 14, 7),
                out_channels=16,
            )
        ),
        tmp_path / "tiny",
    )
    with pytest.raises(CheckpointError, match="expected a base whose encoder is a 2-D ViT"):
        train_volume(recipe, tmp_path / "tiny", [balls], tmp_path / "no", licence=LICENCE)
    with pytest.raises(CheckpointError, match="swin_unetr starts from random weights"):
        train_volume(STUDENT, tmp_path / "base", [balls], tmp_path / "no", licence=LICENCE)


def test_the_loss_is_monais_dice_and_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 6, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 5, 6), generator=generator)
    for background in (True, False):
        options = {"to_onehot_y": True, "softmax": True, "include_background": background}
        expected = DiceCELoss(lambda_dice=0.3, lambda_ce=0.7, **options)(logits, labels[:, None])
        got = VolumeLoss(0.3, 0.7, background=background)(logits, labels)
        torch.testing.assert_close(got["loss"], expected)
        torch.testing.assert_close(got["loss"], 0.3 * got["dice_loss"] + 0.7 * got["cross_entropy"])


@pytest.mark.parametrize("space", ["probabilities", "logits"])
def test_a_student_learns_from_truth_and_teacher(space: str) -> None:
    torch.manual_seed(0)
    student, teacher = nn.Conv3d(1, 3, 1), nn.Conv3d(1, 3, 1)
    batch = VolumeBatch(torch.randn(2, 1, 4, 4, 4), torch.randint(0, 3, (2, 4, 4, 4)))
    supervised = VolumeLoss(0.5, 0.5)
    losses = distillation_loss(student, teacher, batch, supervised, 0.25, space)
    mine, theirs = student(batch.crops), teacher(batch.crops)
    if space == "probabilities":
        mine, theirs = mine.softmax(1), theirs.softmax(1)
    error = (mine - theirs).square().mean()
    torch.testing.assert_close(losses["distillation"], error.detach())
    torch.testing.assert_close(losses["supervised"], supervised(student(batch.crops), batch.labels)["loss"].detach())
    torch.testing.assert_close(losses["loss"], 0.75 * losses["supervised"] + 0.25 * error, check_layout=False)
    losses["loss"].backward()
    assert student.weight.grad is not None
    assert teacher.weight.grad is None


def test_a_student_of_another_architecture_is_distilled(balls: Path, tmp_path: Path) -> None:
    shape = replace(MODEL, crop=(32, 32, 64), upsampling=2)
    recipe = replace(RECIPE, model=shape, loop=STUDENT.loop)
    train_volume(recipe, None, [balls], tmp_path / "teacher", licence=LICENCE, show_progress=False)
    taught = replace(STUDENT, kd=Distillation(str(tmp_path / "teacher" / "best"), 0.5, "logits"))
    train_volume(taught, None, [balls], tmp_path / "student", licence=LICENCE, show_progress=False)
    line = json.loads((tmp_path / "student" / "metrics.jsonl").read_text().splitlines()[0])["losses"]
    assert line["loss"] == pytest.approx(0.5 * line["supervised"] + 0.5 * line["distillation"], rel=1e-5)
    checkpoint = load_checkpoint(tmp_path / "student" / "best")
    assert checkpoint.model["architecture"] == "swin_unetr"
    assert checkpoint.lineage["teacher"]["recipe"] == "autoprosam"
    other = replace(taught, intensity=VoxelIntensity("window_zscore", 0.0, 500.0, 100.0, 50.0), orientation=None)
    with pytest.raises(CheckpointError, match=r"(?s)sees or names something else.*orientation.*intensity"):
        train_volume(other, None, [balls], tmp_path / "other", licence=LICENCE)


def test_whole_volumes_are_predicted_window_by_window() -> None:
    """A network that only looks at single voxels must say of a volume what it says of each of its windows."""

    class Threshold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at = nn.Parameter(torch.tensor(0.5))

        def forward(self, crop: torch.Tensor) -> torch.Tensor:
            assert crop.shape == (1, 1, *MODEL.crop)
            return torch.cat([self.at - crop, crop - self.at, functional.relu(crop - 1) * 4], dim=1)

    voxels = np.random.default_rng(0).uniform(-1, 2, (21, 9, 40)).astype(np.float32)
    volume = NetworkVolume("v", voxels, np.zeros_like(voxels, np.uint8), 0.0, np.array([]))
    got = predict(Threshold().eval(), volume, RECIPE.preprocessing)
    assert got.dtype == np.uint8
    assert np.array_equal(got, np.where(4 * (voxels - 1) > voxels - 0.5, 2, voxels > 0.5))


def test_recipes_survive_json_and_refuse_what_is_wrong() -> None:
    for recipe in (autoprosam(), swin_unetr(), replace(STUDENT, kd=Distillation("teacher")), RECIPE):
        assert VolumeRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    with pytest.raises(ValueError, match="expected one of autoprosam, swin_unetr with a model of its own, got 'swin_"):
        replace(RECIPE, name="swin_unetr")
    with pytest.raises(ValueError, match=r"batch_size: .* got 0"):
        replace(RECIPE, batch_size=0)
    with pytest.raises(ValueError, match="balance: expected two weights"):
        replace(RECIPE, balance=(0.0, 0.0))
    with pytest.raises(ValueError, match="kd: space: expected one of probabilities, logits, got 'angles'"):
        VolumeRecipe.from_dict({**STUDENT.to_dict(), "kd": {"teacher": "t", "space": "angles"}})
    with pytest.raises(ValueError, match="kd: weight: expected a number from 0 to 1, got 2"):
        Distillation("t", 2)
    with pytest.raises(ValueError, match=r"geometry\.overlap must be 0 to below 1"):
        VolumeRecipe.from_dict({**RECIPE.to_dict(), "overlap": 1.0})


def test_the_published_numbers_are_the_defaults() -> None:
    recipe = autoprosam()
    assert (recipe.dice_weight, recipe.ce_weight, recipe.background, recipe.balance) == (0.5, 0.5, True, (2.0, 1.0))
    assert (recipe.loop.learning_rate, recipe.loop.weight_decay, recipe.loop.clip_norm) == (5e-4, 0.0, 1.0)
    assert (recipe.loop.decay, recipe.loop.decay_power, recipe.loop.warmup) == ("polynomial", 0.9, "exponential")
    assert (recipe.loop.steps, recipe.loop.warmup_steps, recipe.loop.epoch_steps) == (400 * 200, 5 * 200, 200)
    assert (recipe.augmentation.flip, recipe.augmentation.quarter_turn, recipe.augmentation.affine) == (0.1, 0.1, 0.0)
    assert recipe.model == AutoProSamConfig()
    intensity = recipe.intensity
    assert (intensity.lowest, intensity.highest, intensity.mean, intensity.std) == (-991.0, 362.0, 50.0, 141.0)


def test_encoder_generator_and_decoder_are_clipped_apart() -> None:
    names = [name for name, _ in build_volume_model(MODEL).named_parameters()]
    groups = {name.partition(".")[0]: autoprosam().loop.clip_group(name) for name in names}
    assert groups == {part: f"{part}.*" for part in ("image_encoder", "prompt_generator", "mask_decoder")}
    assert swin_unetr().loop.clip_groups == ()


RUNS = sorted((Path(__file__).parents[3] / "training" / "runs").glob("*.json"))
VOLUME_RUNS = [path for path in RUNS if path.name.startswith(("autoprosam", "swin_unetr"))]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_the_runs_configurations_are_valid(path: Path) -> None:
    entries = train_cli._entries()
    # The longest name that fits: `samed_s` is not `samed`.
    name = max((name for name in entries if path.stem.startswith(name)), key=len)
    changes = json.loads(path.read_text())
    recipe = entries[name].from_dict(train_cli._merged(entries[name].default().to_dict(), changes))
    assert recipe.to_dict()["loop"].items() >= changes.get("loop", {}).items()


@pytest.mark.parametrize("path", VOLUME_RUNS, ids=lambda path: path.stem)
def test_runs_on_volumes_say_how_they_are_trained(path: Path) -> None:
    """Of two cores' runs nothing is left to the published defaults, which may be corrected."""
    changes = json.loads(path.read_text())
    loop = changes["loop"]
    assert (loop["decay"], loop["warmup"], loop["epoch_steps"], loop["clip_groups"]) == ("cosine", "linear", 1, [])
    assert loop.keys() >= {"steps", "learning_rate", "warmup_steps", "weight_decay"}
    assert changes["model"]["crop"] == [32, 64, 32]
    assert ("kd" in changes) == ("_kd" in path.stem)
