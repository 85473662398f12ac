"""A plan file: everything of a shipped student in one command, and clear words where it is wrong."""

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest

from samsdk import cli
from samsdk_training.checkpoints import load_checkpoint
from samsdk_training.data import DataError, read_ids
from samsdk_training.models import SamConfig, StudentEncoderConfig
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.recipes.student_plan import StudentPlan, read_plan, run_plan


def disc_picture(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:80, :96]
    y, x, radius = rng.integers(25, 55), rng.integers(25, 70), rng.integers(10, 18)
    mask = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    return np.clip(60 + 110 * mask + rng.normal(0, 6, mask.shape), 0, 255).astype(np.uint8), mask.astype(np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set with lists, one without, a volume, and unlabelled pictures, one of which a labelled set has too."""
    rng, root = np.random.default_rng(0), tmp_path / "data"
    for name in ("listed", "whole"):
        for kind in ("images", "masks"):
            (root / name / kind).mkdir(parents=True)
        for index in range(6):
            image, mask = disc_picture(rng)
            cv2.imwrite(str(root / name / "images" / f"{name}{index}.png"), image)
            cv2.imwrite(str(root / name / "masks" / f"{name}{index}.png"), mask)
    (root / "listed" / "train.txt").write_text("listed0\nlisted1\nlisted2\nlisted3")
    (root / "listed" / "val.txt").write_text("listed4\nlisted5")
    (root / "whole" / "list.txt").write_text("\n".join(f"whole{index}" for index in range(6)))
    for kind in ("images", "masks"):
        (root / "volume" / kind).mkdir(parents=True)
    labels = np.zeros((50, 50, 50), np.uint8)
    labels[10:40, 12:36, 15:30] = 1
    values = np.where(labels, 60, -40) + rng.normal(0, 5, labels.shape)
    values[0] = -1000
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), root / "volume" / "images" / "v.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), root / "volume" / "masks" / "v.nii.gz")
    (root / "volume" / "list.txt").write_text("v")
    (root / "unlabelled").mkdir()
    for name in ("te_whole5", "u0", "u1", "u2", "u3"):
        cv2.imwrite(str(root / "unlabelled" / f"{name}.png"), disc_picture(rng)[0])
    return root


@pytest.fixture
def content(exported_bundle: Path) -> dict[str, Any]:
    encoder = StudentEncoderConfig(64, stem_channels=8, widths=(8, 16, 16, 24), depths=(1, 1, 1, 1), out_channels=32)
    model = SamConfig(encoder, DecoderConfig(num_heads=2, mlp_dim=64, iou_head_hidden_dim=32))
    loop = {"steps": 2, "learning_rate": 1e-3, "validate_every": 2, "save_every": 2}
    return {
        "model": model.to_dict(),
        "augmentation": {"focus": 0.5, "zooms": [0.8, 1.5]},
        "sets": {
            "listed": {},
            "whole": {"list": "list.txt", "share": [0, 0.5], "exclude": ["whole1"]},
            "volume": {"volumes": True, "weight": 0.5},
        },
        "validation": ["listed"],
        "teacher": {"model": str(exported_bundle), "images": {"unlabelled": 3}, "weight": 0.5},
        "stages": [
            {"name": "embeddings", "kind": "embeddings", "loop": loop, "batch_size": 2},
            {"name": "masks", "kind": "masks", "loop": loop, "batch_size": 2, "pseudo_labels": True},
        ],
        "licence": {"id": "CC0-1.0", "source": "discs", "attribution": "none"},
    }


def plan_of(content: dict[str, Any], folder: Path) -> StudentPlan:
    file = folder / "plan.json"
    file.write_text(json.dumps(content))
    return read_plan(file)


def test_a_plan_is_carried_out_once_and_then_found_done(
    data: Path, content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_of(content, tmp_path)
    run = tmp_path / "run"
    command = ["train", "student", "--plan", str(tmp_path / "plan.json"), "--data", str(data), "-o", str(run), "--json"]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["best"] == str(run / "masks" / "best")
    config = json.loads((run / "masks" / "config.json").read_text())["recipe"]
    assert config["sets"]["listed"]["images"] == 4
    # Half of the list, without the one that is excluded.
    assert config["sets"]["whole"]["images"] == 2
    assert config["sets"]["volume"]["images"] == len(read_ids(run / "data" / "volume", "train.txt")) > 20
    assert config["augmentation"]["zooms"] == [0.8, 1.5]
    # The second stage starts from the first one's encoder.
    assert config["start"]["recipe"] == "distill"
    asked = [json.loads(line)["id"] for line in (run / "data" / "teacher_unlabelled" / "labels.jsonl").open()]
    assert len(asked) == 3
    assert "te_whole5" not in asked
    assert {file.stem for file in (run / "data" / "embeddings").glob("*.npz")} == set(asked)
    before = load_checkpoint(run / "masks" / "best").state
    assert cli.main(command) == 0
    assert all((before[name] == tensor).all() for name, tensor in load_checkpoint(run / "masks" / "best").state.items())


def test_a_checkpoint_of_ours_can_teach(data: Path, content: dict[str, Any], tmp_path: Path) -> None:
    content["stages"] = content["stages"][1:]
    content["stages"][0]["pseudo_labels"] = False
    first = run_plan(plan_of(content, tmp_path), data, tmp_path / "first", show_progress=False)
    content["teacher"]["model"] = str(first)
    content["stages"][0]["pseudo_labels"] = True
    run_plan(plan_of(content, tmp_path), data, tmp_path / "second", show_progress=False)
    rows = (tmp_path / "second" / "data" / "teacher_unlabelled" / "labels.jsonl").read_text().splitlines()
    assert [json.loads(row)["teacher"] for row in rows] == ["best"] * 3


def broken(content: dict[str, Any], *path: str | int, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(content)
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (("stages", 0, "kind"), "magic", "expected embeddings or masks, got 'magic'"),
        (("stages", 0, "loop", "step"), 3, r"unknown fields \['step'\]"),
        (("stages", 0, "name"), "masks", "each with a name of its own"),
        (("stages",), [], "at least one stage"),
        (("sets", "whole", "part"), [0, 1], "whole: unknown options part"),
        (("augmentation", "zoomz"), [0, 1], "zoomz"),
        (("model",), {}, "missing fields"),
        (("teacher",), {}, "a stage needs a teacher"),
        (("licence",), None, "is not a plan"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said_before_anything_is_done(
    content: dict[str, Any], tmp_path: Path, path: tuple[str | int, ...], value: Any, text: str
) -> None:
    with pytest.raises(DataError, match=text):
        plan_of(broken(content, *path, value=value), tmp_path)


def test_the_plan_of_the_default_model_holds_together() -> None:
    """And names only sets whose licence lets weights be given away."""
    plan = read_plan(Path(__file__).parents[3] / "training" / "student_plan.json")
    assert set(plan.validation) <= set(plan.sets)
    never = ("hippocampus", "brats", "kits", "msd", "brisc")
    assert not [name for name in (*plan.sets, *plan.teacher["images"]) if any(word in name for word in never)]
    assert plan.sets["us_hc18"]["share"][1] <= 2 / 3 + 1e-3
    for name in plan.sets:
        assert len(plan.licence["attribution"]) > 100, name
