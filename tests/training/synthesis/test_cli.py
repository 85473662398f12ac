import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest

from samsdk import cli, command
from samsdk_training.data import read_set
from samsdk_training.synthesis.cli import add_synthesise


@dataclass
class Entry:
    name: str = "synthesise"

    def load(self):
        return add_synthesise


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether or not this installation has been made again since the entry point came.
    monkeypatch.setattr(command, "entry_points", lambda group: [Entry()] if group == command.EXTENSIONS else [])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six images, of which `a` shows one class, `b` two and `c` none; the others have no mask."""
    root = tmp_path / "set"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in "abcdef":
        cv2.imwrite(str(root / "images" / f"{name}.png"), rng.integers(0, 200, (48, 64)).astype(np.uint8))
    label = np.zeros((48, 64), np.uint8)
    cv2.imwrite(str(root / "masks" / "c.png"), label)
    label[10:30, 10:30] = 2
    cv2.imwrite(str(root / "masks" / "a.png"), label)
    label[15:20, 40:50] = 7
    cv2.imwrite(str(root / "masks" / "b.png"), label)
    (root / "list.txt").write_text("\n".join("abcdef"))
    (root / "labels.json").write_text(json.dumps({"2": "kidney", "7": "cyst"}))
    return root


def run(images: Path, out: Path, *options: str) -> int:
    return cli.main(["synthesise", str(images), "-o", str(out), "--count", "3", "--json", *options])


def test_the_richest_exemplar_is_chosen(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(images, out) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["exemplars"], data["images"], data["backgrounds"]) == (["b"], 3, 6)
    assert cv2.imread(data["sheet"]).any()
    assert {value for one in read_set(out) for value in np.unique(one.label)} == {0, 2, 7}
    assert json.loads((out / "labels.json").read_text()) == {"2": "kidney", "7": "cyst"}


def test_slices_of_volumes_are_exemplars_and_backgrounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values, labels = np.zeros((40, 30, 12)), np.zeros((40, 30, 12))
    values[...] = 10 * np.arange(12)
    labels[10:20, 5:15, 4:9] = 1
    labels[22:30, 5:15, 6] = 2
    for kind, array in (("images", values), ("masks", labels)):
        (tmp_path / "set" / kind).mkdir(parents=True)
        image = nibabel.Nifti1Image(array.astype(np.int16), np.eye(4))
        nibabel.save(image, tmp_path / "set" / kind / "case.nii.gz")
    assert run(tmp_path / "set", tmp_path / "out") == 0
    data = json.loads(capsys.readouterr().out)
    # The only slice with both classes; all twelve are backgrounds, the unlabelled ones too.
    assert (data["exemplars"], data["backgrounds"]) == (["case_z006"], 12)
    assert [one.image.shape for one in read_set(tmp_path / "out")] == [(30, 40)] * 3


def test_the_same_seed_writes_the_same_files(images: Path, tmp_path: Path) -> None:
    for name, seed in (("first", "5"), ("second", "5"), ("third", "6")):
        assert run(images, tmp_path / name, "--exemplars", "2", "--seed", seed) == 0
    files = {
        name: {path.name: path.read_bytes() for path in (tmp_path / name / "images").iterdir()}
        for name in ("first", "second", "third")
    }
    assert files["first"] == files["second"]
    assert files["first"].keys() == files["third"].keys()
    assert all(files["first"][name] != files["third"][name] for name in files["first"])


def test_named_exemplars_on_another_folder_with_own_settings(images: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name, grey in (("a.png", 60), ("x.jpg", 90)):
        cv2.imwrite(str(tmp_path / "more" / name), np.full((48, 64), grey, np.uint8))
    (tmp_path / "settings.json").write_text(json.dumps({"same_image": 0, "foreground": {"noise": 0}}))
    options = [
        "--exemplars",
        "a,",
        "--backgrounds",
        str(tmp_path / "more"),
        "--config",
        str(tmp_path / "settings.json"),
    ]
    assert run(images, tmp_path / "out", *options, "--preset", "lesions", "--count", "12") == 0
    record = json.loads((tmp_path / "out" / "synthesis.json").read_text())
    assert record["exemplars"] == ["a"]
    assert {one["background"] for one in record["images"].values()} == {"more/a.png", "more/x.jpg"}
    assert (record["config"]["same_image"], record["config"]["foreground"]["noise"]) == (0, 0)
    assert record["config"]["flip_horizontal"] == 0.5


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--exemplars", "d,a"], 2, "'d' has no mask"),
        (["--exemplars", "q"], 2, "'q' is none of the list's images"),
        (["--exemplars", "c"], 1, "c has no labelled pixel"),
        (["--exemplars", "3"], 1, "from 1 to the 2 images with a label, got 3"),
        (["--seed", "-1"], 2, "seed of at least 0"),
        (["--backgrounds", "no-such-folder"], 1, "holds no image"),
        (["--list", "val.txt"], 1, "no val.txt"),
        (["--config", "absent.json"], 2, "absent.json"),
    ],
)
def test_wrong_calls_say_so_and_write_nothing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, text: str
) -> None:
    assert run(images, tmp_path / "out", *options) == code
    assert text in json.loads(capsys.readouterr().out)["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_settings_that_make_no_sense_are_a_wrong_call(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in ('{"sizes": [2, 1]}', '{"size": 1}', "[]", "{"):
        (tmp_path / "settings.json").write_text(content)
        assert run(images, tmp_path / "out", "--config", str(tmp_path / "settings.json")) == 2
        assert "settings.json" in json.loads(capsys.readouterr().out)["error"]["message"]
