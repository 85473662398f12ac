"""`samsdk data`, and what it prepares as training and evaluation read it."""

import json
import shutil
import tomllib
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest

from samsdk import cli, command
from samsdk_training.data import read_set
from samsdk_training.data_cli import add_data
from samsdk_training.evaluate_cli import add_evaluate
from samsdk_training.evaluation import evaluate_images, intervals, summarise
from samsdk_training.models import SamConfig, StudentEncoderConfig
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.train_cli import add_train


@pytest.fixture(autouse=True)
def _commands(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether or not this installation has been made again since the entry point came.
    class Entry:
        def __init__(self, name: str, add) -> None:
            self.name, self.load = name, lambda: add

    commands = [Entry("data", add_data), Entry("evaluate", add_evaluate), Entry("train", add_train)]
    monkeypatch.setattr(command, "entry_points", lambda group: commands if group == command.EXTENSIONS else [])


def disc(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:64, :80]
    y, x, radius = rng.integers(20, 44), rng.integers(20, 60), rng.integers(8, 14)
    label = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2).astype(np.uint8)
    return np.clip(60 + 110 * label + rng.normal(0, 6, label.shape), 0, 255), label


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve TIFFs of 16 bits, of six patients, without any list."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "pictures" / part).mkdir(parents=True)
    for index in range(12):
        image, label = disc(rng)
        name = f"patient{index // 2}-{index}"
        cv2.imwrite(str(tmp_path / "pictures" / "images" / f"{name}.tif"), (image * 200).astype(np.uint16))
        cv2.imwrite(str(tmp_path / "pictures" / "masks" / f"{name}.png"), label)
    return tmp_path / "pictures"


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Four volumes of three planes, to be cut across y."""
    rng = np.random.default_rng(1)
    for part in ("images", "masks"):
        (tmp_path / "volumes" / part).mkdir(parents=True)
    for name in "abcd":
        planes = [disc(rng) for _ in range(3)]
        for part, arrays in (("images", [one[0] for one in planes]), ("masks", [one[1] for one in planes])):
            volume = np.stack([np.rot90(array, -1) for array in arrays], axis=1)  # columns are x, rows are -z
            image = nibabel.Nifti1Image(volume.astype(np.int16), np.diag([1, 4, 1, 1.0]))
            nibabel.save(image, tmp_path / "volumes" / part / f"{name}.nii.gz")
    (tmp_path / "volumes" / "set.json").write_text('{"axis": "y"}')
    return tmp_path / "volumes"


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Four NPZ files, as MedSAM writes them."""
    rng = np.random.default_rng(2)
    (tmp_path / "arrays").mkdir()
    for name in "efgh":
        image, label = disc(rng)
        np.savez(tmp_path / "arrays" / f"{name}.npz", imgs=image.astype(np.uint8), gts=label)
    return tmp_path / "arrays"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict]:
    code = cli.main([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_program_has_the_command() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["samsdk.commands"]["data"] == "samsdk_training.data_cli:add_data"


def test_check_then_split_then_check(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, "data", "check", pictures)
    assert (code, report["problems"], report["images"], report["patients"]) == (0, [], 12, None)
    code, split = run(capsys, "data", "split", pictures, "--patients", r"^(patient\d)-", "--seed", 5)
    assert code == 0
    assert (len(split["train"]), len(split["validation"]), split["patients"]) == (8, 4, 6)
    code, report = run(capsys, "data", "check", pictures)
    assert (code, report["patients"]) == (0, 6)
    assert report["lists"] == {"train.txt": {"images": 8, "patients": 4}, "val.txt": {"images": 4, "patients": 2}}
    # A list that another hand has changed.
    (pictures / "val.txt").write_text("\n".join([*split["validation"], split["train"][0]]))
    code, report = run(capsys, "data", "check", pictures)
    assert code == 1
    assert [problem["kind"] for problem in report["problems"]] == ["in both", "patients"]


def test_the_same_as_lines(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "split", str(pictures), "--held-back", "0.25"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith("train.txt: 9 images")
    assert out[1].endswith("val.txt: 3 images")
    assert out[2] == "patients unknown: each image counts as a patient of its own"
    assert cli.main(["data", "split", str(pictures)]) == 1
    assert "already" in capsys.readouterr().err
    shutil.rmtree(pictures / "masks")
    assert cli.main(["data", "check", str(pictures)]) == 1
    assert "PROBLEM: images without mask: 12" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--held-back", "0"), ("--held-back", "x"), ("--seed", "1.5")])
def test_wrong_calls(pictures: Path, words: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "split", str(pictures), *words])
    assert stop.value.code == 2


def test_evaluate_reads_every_layout(
    pictures: Path,
    volumes: Path,
    arrays: Path,
    exported_bundle: Path,
    predictor,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in (pictures, volumes, arrays):
        assert run(capsys, "data", "split", folder, "--held-back", 0.25)[0] == 0
    how = ("--device", "cpu", "--prompts", "box,point1")
    code, data = run(capsys, "evaluate", exported_bundle, "--data", pictures.parent, *how)
    assert code == 0
    counts = {name: (row["images"], row["objects"]) for name, row in data["sets"].items()}
    assert counts == {"arrays": (1, 1), "pictures": (3, 3), "volumes": (3, 3)}
    scores = list(evaluate_images(predictor, read_set(volumes, "val.txt"), prompts=("box", "point1")))
    assert data["sets"]["volumes"] == {**summarise(scores), "intervals": intervals([scores])}
    # A set without any list: all of its images.
    for name in ("train.txt", "val.txt"):
        (arrays / name).unlink()
    code, data = run(capsys, "evaluate", exported_bundle, "--data", arrays.parent, "--list", "list.txt", *how)
    assert list(data["sets"]) == ["arrays"]
    assert (code, data["sets"]["arrays"]["images"]) == (0, 4)


def test_a_student_trains_on_every_layout(
    pictures: Path, volumes: Path, arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = tmp_path / "lists"
    for folder in (pictures, volumes, arrays):
        words = ("--held-back", 0.25, "-o", lists / folder.name)
        assert run(capsys, "data", "split", folder, *words)[0] == 0
    encoder = StudentEncoderConfig(64, stem_channels=8, widths=(8, 16, 16, 24), depths=(1, 1, 1, 1), out_channels=32)
    model = SamConfig(encoder, DecoderConfig(num_heads=2, mlp_dim=64, iou_head_hidden_dim=32))
    (tmp_path / "model.json").write_text(json.dumps(model.to_dict()))
    words = ("--model", tmp_path / "model.json", "--steps", 4, "--batch-size", 2, "--validate-every", 2)
    code, _ = run(capsys, "train", "student", "--data", lists, "-o", tmp_path / "run", *words)
    assert code == 0
    sets = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["sets"]
    assert {name: (row["images"], row["objects"]) for name, row in sets.items()} == {
        "arrays": (3, 3),
        "pictures": (9, 9),
        "volumes": (9, 9),
    }
