"""What users get wrong, told before a step is made: data, bases, disks, and runs that are gone on with."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import samsdk
from samsdk import cli
from samsdk_export.bundle_writer import write_bundle
from samsdk_training.adapter_file import load_adapter
from samsdk_training.checkpoints import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.data import DataError
from samsdk_training.loop import LoopConfig, TrainingError
from samsdk_training.merging import merge_adapter
from samsdk_training.recipes.sac import SacRecipe, train_sac
from samsdk_training.recipes.sam_med2d import SamMed2dRecipe, train_sam_med2d
from samsdk_training.recipes.semantic import SemanticRecipe, cheap_lunch, samed, samed_s, train_semantic
from samsdk_training.recipes.student import StudentRecipe, train_student
from samsdk_training.run_folder import RunFolder
from samsdk_training.samples import SampleSet
from samsdk_training.tuning import load_base

Train = Callable[[Path, Path], Any]
LICENCE = {"id": "CC0-1.0"}
LOOP = LoopConfig(steps=1, learning_rate=1e-3)
SEMANTIC = {
    "samed": samed(),
    "samed_s": samed_s(),
    "cheap_lunch": replace(cheap_lunch(), exemplars=2),
    "per_class": replace(cheap_lunch(), exemplars=2, class_points="per_class"),
}
RECIPES = (*SEMANTIC, "sac", "sam_med2d", "student")


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawing takes longer than these runs do.
    monkeypatch.setattr(RunFolder, "draw", lambda self: None)


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    """A dark disc and a bright square an image, two classes; four images to train on, two to validate on."""
    folder = tmp_path / "data" / "slices"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for index in range(6):
        y, left = rng.integers(16, 24), rng.integers(34, 44)
        label = ((rows - y) ** 2 + (columns - 18) ** 2 < 10**2).astype(np.uint8)
        label[36:52, left : left + 16] = 2
        image = np.array([120, 30, 220])[label] + rng.normal(0, 6, label.shape)
        write(folder, f"{index}", np.clip(image, 0, 255).astype(np.uint8), label)
    (folder / "train.txt").write_text("0\n1\n2\n3\n")
    (folder / "val.txt").write_text("4\n5\n")
    return folder


def write(folder: Path, name: str, image: np.ndarray, label: np.ndarray) -> None:
    cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
    cv2.imwrite(str(folder / "masks" / f"{name}.png"), label)


@pytest.fixture
def base(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tiny_checkpoint, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def student(student_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(student_checkpoint, tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def training(base: Path, student_checkpoint: Checkpoint) -> Callable[[str], Train]:
    """A recipe's training by its name: of a set, in a run, for one step."""
    known, common = load_base(base), {"licence": LICENCE, "show_progress": False}

    def train(name: str) -> Train:
        if name in SEMANTIC:
            recipe: Any = replace(SEMANTIC[name], loop=LOOP, batch_size=2, validation_cases=2)
            return lambda data, run: train_semantic(recipe, known, [data], run, **common)
        if name == "sac":
            recipe = SacRecipe(LOOP, batch_size=2, channels=4, depth=2, warm_start=1, validation_cases=2)
            return lambda data, run: train_sac(recipe, known, [data], run, **common)
        if name == "sam_med2d":
            loop = replace(LOOP, steps=9, validate_every=9, save_every=9)
            recipe = SamMed2dRecipe(loop, batch_size=2, masks_per_image=1, validation_images=2)
            return lambda data, run: train_sam_med2d(recipe, known, [data], run, **common)
        shape = load_shape(student_checkpoint)
        recipe = StudentRecipe(LOOP, shape, batch_size=2, validation_images=2)
        return lambda data, run: train_student(recipe, [SampleSet(data)], [data], run, **common)

    return train


def load_shape(checkpoint: Checkpoint) -> Any:
    from samsdk_training.models.sam_config import SamConfig

    return SamConfig.from_dict(checkpoint.model)


def break_mask(folder: Path, fault: str) -> str:
    """Break the second validation image, and say what the error should."""
    mask = folder / "masks" / "5.png"
    label = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    if fault == "missing":
        mask.unlink()
        return "5 in .*slices has no mask"
    if fault == "size":
        cv2.imwrite(str(mask), label[:32])
        return r"5 in .*slices: the mask must hold integers of the image's size \(64, 64\), got \(32, 64\)"
    label[:4, :4] = 3
    cv2.imwrite(str(mask), label)
    return "5: expected labels from 0 to 2, got 0 to 3"


@pytest.mark.parametrize("fault", ["missing", "size", "class"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_fault_of_the_second_validation_image_is_told_before_a_step(
    name: str, fault: str, training: Callable[[str], Train], slices: Path, tmp_path: Path
) -> None:
    if fault == "class" and name not in SEMANTIC:
        pytest.skip("whatever is labelled is an object")
    expected = break_mask(slices, fault)
    with pytest.raises(DataError, match=expected):
        training(name)(slices, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["samed", "samed_s", "sac"])
def test_an_image_without_mask_is_not_left_out_silently(
    name: str, training: Callable[[str], Train], slices: Path, tmp_path: Path
) -> None:
    for image in ("1", "3"):
        (slices / "masks" / f"{image}.png").unlink()
    with pytest.raises(DataError, match=r"2 images of train\.txt in .*slices have no mask: 1, 3; add masks"):
        training(name)(slices, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_synthesis_takes_images_without_mask_for_backgrounds(
    training: Callable[[str], Train], slices: Path, tmp_path: Path
) -> None:
    (slices / "masks" / "1.png").unlink()
    assert training("cheap_lunch")(slices, tmp_path / "run")["step"] == 1
    facts = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["sets"]["slices"]
    assert facts == {"images": 4, "labelled": 3}


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_does_not_go_on_with_other_data(
    name: str, training: Callable[[str], Train], slices: Path, tmp_path: Path
) -> None:
    train, run = training(name), tmp_path / "run"
    train(slices, run)
    train(slices, run)
    swap(slices / "images" / "0.png", slices / "images" / "1.png")
    with pytest.raises(TrainingError, match=r"recipe\.data_sha256\.slices/train\.txt: the run has '[0-9a-f]{64}', got"):
        train(slices, run)
    swap(slices / "images" / "0.png", slices / "images" / "1.png")
    (slices / "val.txt").write_text("5\n4\n")
    with pytest.raises(TrainingError, match=r"recipe\.data_sha256\.slices/val\.txt: ") as caught:
        train(slices, run)
    assert "train.txt" not in str(caught.value)


def swap(one: Path, other: Path) -> None:
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


def command(recipe: str, data: Path, run: Path, base: Path, *more: str) -> list[str]:
    return ["train", recipe, "--data", str(data), "-o", str(run), "--base", str(base), *more]


def small(folder: Path, recipe: str, **changes: Any) -> Path:
    """A configuration for pictures of 64 pixels."""
    content: dict[str, Any] = {"sac": {"channels": 4, "depth": 2}, "cheap_lunch": {"exemplars": 2}}.get(recipe, {})
    path = folder / f"{recipe}.json"
    path.write_text(json.dumps({**content, **changes}))
    return path


@pytest.mark.parametrize("recipe", ["samed", "cheap_lunch", "sac", "lite_medsam"])
def test_a_base_without_attention_gets_its_pairs_elsewhere(
    recipe: str, student: Path, slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = small(tmp_path, recipe), tmp_path / "run"
    given = ["--config", str(config), "--steps", "1", "--batch-size", "2", "--json"]
    assert cli.main(command(recipe, slices, run, student, *given)) == 0, capsys.readouterr().err
    adapter, known = load_adapter(run / "adapter"), load_base(student)
    assert adapter.tuning.lora.encoder == "linear"
    sites = {site.name for site in adapter.pairs if site.name.startswith("image_encoder.")}
    # The 1 x 1 convolutions of the student's encoder.
    laterals = {f"image_encoder.lateral.{level}.weight" for level in range(3)}
    assert sites == {"image_encoder.high_res.weight", "image_encoder.out.weight", *laterals}
    best = load_checkpoint(run / "best")
    assert all(torch.equal(one, best.state[key]) for key, one in merge_adapter(adapter, known)[0].state.items())
    if recipe == "samed":
        # The student's features of high resolution, and a mask for each class.
        write_bundle(best, tmp_path / "bundle", name="mine")
        image = cv2.imread(str(slices / "images" / "5.png"), cv2.IMREAD_GRAYSCALE)
        assert samsdk.load(tmp_path / "bundle", device="cpu").segment(image).label_map.shape == (64, 64)


@pytest.mark.parametrize("recipe", ["samed", "samed_s", "cheap_lunch", "sac", "lite_medsam", "sam_med2d"])
def test_an_input_size_that_a_base_cannot_have_is_told_in_words(
    recipe: str, base: Path, slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tmp_path, recipe, image_size=99)
    assert cli.main(command(recipe, slices, tmp_path / "run", base, "--config", str(config))) == 1
    assert "CheckpointError: this model cannot have an input of 99 x 99 pixels" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_u_net_that_does_not_halve_the_input_is_told_in_words(
    base: Path, slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tmp_path, "sac", depth=7)
    assert cli.main(command("sac", slices, tmp_path / "run", base, "--config", str(config))) == 1
    assert "CheckpointError: the U-Net cannot have an input of 64 x 64 pixels" in capsys.readouterr().err


def test_sam_med2d_says_that_it_needs_attention(
    student: Path, slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command("sam_med2d", slices, tmp_path / "run", student)) == 1
    assert "CheckpointError: expected a base whose encoder has attention" in capsys.readouterr().err


def test_a_base_of_another_task_is_told_before_a_step(
    tiny_checkpoint: Checkpoint, slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that takes no points cannot prompt itself."""
    blind = replace(tiny_checkpoint, prompts={"kinds": ["box"], "trained": ["box"], "mask": "logits"})
    save_checkpoint(blind, tmp_path / "blind")
    config = small(tmp_path, "sac")
    assert cli.main(command("sac", slices, tmp_path / "run", tmp_path / "blind", "--config", str(config))) == 1
    assert "CheckpointError: the base does not go with the recipe" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_merged_model_is_a_base_only_where_no_adapter_is_made(
    training: Callable[[str], Train], student: Path, slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "first"
    assert cli.main(command("lite_medsam", slices, run, student, "--steps", "1", "--batch-size", "2")) == 0
    assert cli.main(command("lite_medsam", slices, tmp_path / "second", run / "best", "--steps", "1")) == 1
    assert "low-rank weights were merged into" in capsys.readouterr().err
    # The recipe student trains and saves everything, so that nothing refers to what it began with.
    shape = tmp_path / "shape.json"
    shape.write_text(json.dumps(load_checkpoint(student).model))
    start = ["train", "student", "--data", str(slices), "-o", str(tmp_path / "third"), "--steps", "1"]
    start += ["--batch-size", "2", "--model", str(shape), "--start", str(run / "best")]
    assert cli.main(start) == 0
    third = load_checkpoint(tmp_path / "third" / "best")
    assert third.lineage["start"]["merged"] is True
    assert not third.lineage.get("merged")
    assert load_base(tmp_path / "third" / "best").sha256


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_space(base: Path, slices: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    # No file may grow beyond this: the configuration has its place, tensors have not.
    limited = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += "from samsdk import cli; resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)); "
    limited += "sys.exit(cli.main(sys.argv[1:]))"
    given = ["--steps", "2", "--batch-size", "2", "--validate-every", "1"]
    call = command("samed", slices, tmp_path / "run", base, *given)
    done = subprocess.run([sys.executable, "-c", limited, *call], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "samsdk: OutputError: cannot write " in done.stderr
    assert "File too large" in done.stderr
    assert "free space" in done.stderr
    assert "Traceback" not in done.stderr
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"config.json", "metrics.jsonl", ".lock"}
    assert cli.main(call) == 0
    assert cli.main(command("samed", slices, tmp_path / "whole", base, *given)) == 0
    for name in ("state/state.safetensors", "best/model.safetensors", "adapter/adapter.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_run_folder_that_cannot_be_made_is_told(
    base: Path, slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        assert cli.main(command("samed", slices, run, base, "--steps", "1")) == 1
        assert "OutputError: cannot write " in capsys.readouterr().err


def test_equal_ids_in_several_sets_are_several_images(
    training: Callable[[str], Train], base: Path, slices: Path, tmp_path: Path
) -> None:
    other = slices.with_name("others")
    shutil.copytree(slices, other)
    recipe: SemanticRecipe = replace(SEMANTIC["cheap_lunch"], exemplars=8, loop=LOOP, batch_size=2)
    train_semantic(recipe, load_base(base), [slices, other], tmp_path / "run", licence=LICENCE, show_progress=False)
    facts = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    names = {f"{folder}/{index}" for folder in ("slices", "others") for index in range(4)}
    assert {*facts["sets"]["exemplars"]} == names
    assert {*facts["data_sha256"]} == {f"{one}/{part}.txt" for one in ("slices", "others") for part in ("train", "val")}
    with pytest.raises(DataError, match="expected sets whose folders have different names"):
        train_semantic(recipe, load_base(base), [slices, slices], tmp_path / "x", licence=LICENCE, show_progress=False)


def test_a_model_for_volumes_is_no_base_for_images(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    from samsdk.volumes.intensity import VoxelIntensity
    from samsdk_training.models.auto_pro_sam_config import AutoProSamConfig
    from samsdk_training.models.vit import VitConfig
    from samsdk_training.models.volume import build_volume_model
    from samsdk_training.recipes.volume_recipe import VolumeRecipe

    vit = VitConfig(image_size=64, embed_dim=24, depth=4, num_heads=2, global_blocks=(), window_size=4, out_channels=16)
    shape = AutoProSamConfig((16, 16, 16), 2, 8, vit, 4, (8, 16), 4, 8)
    rules = VolumeRecipe(model=shape, intensity=VoxelIntensity("zscore_nonzero"), spacing=None)
    checkpoint = replace(
        tiny_checkpoint,
        model=shape.to_dict(),
        geometry=rules.preprocessing.geometry(),
        intensity=rules.intensity.to_dict(),
        normalisation={"rule": "none"},
        prompts={"kinds": [], "trained": [], "mask": "logits"},
        classes={"0": "background", "1": "ball"},
        task="volume",
        state=build_volume_model(shape).state_dict(),
    )
    save_checkpoint(checkpoint, tmp_path / "volume")
    with pytest.raises(CheckpointError, match="is a model for volumes, expected one for images"):
        load_base(tmp_path / "volume")
