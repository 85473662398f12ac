import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import samsdk
from samsdk import cli
from samsdk.io.wheels import file_sha256
from samsdk.splitting import Splitting
from samsdk_training.checkpoints import Checkpoint, save_checkpoint
from samsdk_training.data import read_set
from samsdk_training.evaluation import (
    Measures,
    PassPerClass,
    class_cases,
    evaluate_images,
    intervals,
    summarise,
    summarise_cases,
)
from samsdk_training.evaluation.model import EvaluatedModel
from samsdk_training.evaluation.report import report_sets, table
from samsdk_training.metrics.instances import aggregated_jaccard, match_objects
from samsdk_training.metrics.overlap import dice
from samsdk_training.simulate import correction
from samsdk_training.torch_predictor import TorchPredictor

BOX, POINTS = (355, 300, 490, 440), ("box", "point1", "point2")


def write_set(folder: Path, image: np.ndarray, labels: dict[str, np.ndarray]) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for name, label in labels.items():
        cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), label)
    (folder / "val.txt").write_text("".join(f"{name}\n" for name in labels))


@pytest.fixture
def sets(tmp_path: Path, cell: np.ndarray) -> Path:
    """A set of three images of two patients, one of one image, and a folder that is none."""
    whole, part, other = np.zeros((3, *cell.shape), np.uint8)
    whole[300:440, 355:490] = part[300:400, 355:450] = other[20:90, 20:200] = 1
    other[200:260, 20:90] = 2
    write_set(tmp_path / "data" / "one", cell, {"a": whole, "b": part, "c": other})
    write_set(tmp_path / "data" / "two", cell, {"a": other})
    (tmp_path / "data" / "one" / "patients.csv").write_text("id,patient\na,anna\nb,anna\nc,ben\n")
    (tmp_path / "data" / "other").mkdir()
    return tmp_path / "data"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    assert cli.main(["evaluate", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the program says of a call that is wrong only as a whole."""
    assert cli.main(["evaluate", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_each_set_and_the_mean_over_sets(
    sets: Path, exported_bundle: Path, predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    data = run(capsys, exported_bundle, "--data", sets, "--prompts", "box,point1,point2", "--device", "cpu")
    assert sorted(data["sets"]) == ["one", "two"]
    scores = list(evaluate_images(predictor, read_set(sets / "one", "val.txt"), prompts=POINTS))
    assert data["sets"]["one"] == {**summarise(scores), "intervals": intervals([scores])}
    assert (data["sets"]["one"]["patients"], data["sets"]["two"]["patients"]) == (2, None)
    assert data["sets"]["one"]["intervals"]["dice"]["box"]["clusters"] == 2
    for measure in ("dice", "iou"):
        for prompt in POINTS:
            values = [data["sets"][name][measure][prompt] for name in ("one", "two")]
            assert data[f"mean_{measure}"][prompt] == pytest.approx(sum(values) / 2)
    # One image cannot say how far others lie from it, and so the mean over sets cannot either.
    assert data["intervals"]["dice"]["box"]["low"] is None
    about = {key: data[key] for key in ("bundle", "checkpoint", "task", "tier", "prompts", "zoom")}
    assert about == {
        "bundle": predictor.bundle.identity,
        "checkpoint": None,
        "task": "promptable",
        "tier": "exact",
        "prompts": list(POINTS),
        "zoom": None,
    }
    assert data["rules"]["empty"] == {"both": "undefined", "one": "undefined"}
    assert data["rules"]["interval"] == {"level": 0.95, "resamples": 2000}


def test_a_checkpoint_is_measured_as_its_bundle(
    sets: Path,
    exported_bundle: Path,
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(tiny_checkpoint, folder)
    how = ("--data", sets / "one", "--zoom")
    mine, bundle = run(capsys, folder, *how), run(capsys, exported_bundle, *how, "--device", "cpu")
    assert mine["checkpoint"] == file_sha256(folder / "model.safetensors")
    assert (mine["bundle"], mine["tier"], mine["zoom"]) == (None, None, bundle["zoom"])
    assert mine["prompts"] == bundle["prompts"] == ["box", "point1", "point3"]
    assert mine["mean_dice"] == pytest.approx(bundle["mean_dice"], abs=2e-3)
    assert mine["mean_dice"] != run(capsys, folder, "--data", sets / "one")["mean_dice"]
    for option in (("--device", "cpu"), ("--tier", "exact")):
        assert "is a checkpoint, which runs in torch" in refused(capsys, folder, *how, *option)


def test_a_table_with_intervals(sets: Path, exported_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(exported_bundle), "--data", str(sets / "one"), "--prompts", "point1"]) == 0
    printed = capsys.readouterr().out
    data = run(capsys, exported_bundle, "--data", sets / "one", "--prompts", "point1")
    assert printed == table(data) + "\n"
    head, row, mean = printed.splitlines()
    assert head.split() == ["Dice", "images", "objects", "point1"]
    ends = data["sets"]["one"]["intervals"]["dice"]["point1"]
    cell = f"{data['mean_dice']['point1']:.3f} [{ends['low']:.2f}, {ends['high']:.2f}]"
    # The number of images and of objects that the mean was made of.
    assert row.split(maxsplit=3) == ["one", "3", "4", cell]
    assert mean.split(maxsplit=3) == ["mean", "over", "sets", cell]


def test_one_row_an_object_and_prompt(
    sets: Path, exported_bundle: Path, predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("from before")
    how = ("--device", "cpu", "--prompts", "box,point2", "--nsd", 2, "--hd95", "medpy", "--spacing", "0.5,0.5")
    data = run(capsys, exported_bundle, "--data", sets, *how, "--csv", tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("set", "image", "patient", "object", "area", "prompt", "dice", "iou", "predicted_iou", "nsd", "hd95")
    ]
    keys = [tuple(row[name] for name in ("set", "image", "patient", "object", "area", "prompt")) for row in rows]
    assert keys[::2] == [
        ("one", "a", "anna", "1", "18900", "box"),
        ("one", "b", "anna", "1", "9500", "box"),
        ("one", "c", "ben", "1", "12600", "box"),
        ("one", "c", "ben", "2", "4200", "box"),
        ("two", "a", "", "1", "12600", "box"),
        ("two", "a", "", "2", "4200", "box"),
    ]
    assert [key[-1] for key in keys] == ["box", "point2"] * 6
    measures = Measures(nsd=2.0, hd95="medpy", spacing=(0.5, 0.5))
    images = read_set(sets / "one", "val.txt")
    first = next(evaluate_images(predictor, images, prompts=("box", "point2"), measures=measures))
    for row, prompt in zip(rows, ("box", "point2"), strict=False):
        expected = (first.dice, first.iou, first.predicted_iou, *(first.distances[one] for one in ("nsd", "hd95")))
        written = [float(row[name]) for name in ("dice", "iou", "predicted_iou", "nsd", "hd95")]
        assert written == [pytest.approx(one[prompt], nan_ok=True) for one in expected]
    for measure in ("dice", "nsd", "hd95"):
        of_one = [float(row[measure]) for row in rows if row["set"] == "one" and row["prompt"] == "box"]
        assert data["sets"]["one"][measure]["box"] == pytest.approx(np.mean(of_one))
        assert f"mean_{measure}" in data


def test_a_semantic_model_by_class(
    sets: Path, semantic_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = run(capsys, semantic_bundle, "--data", sets, "--device", "cpu", "--csv", tmp_path / "rows.csv")
    organs = samsdk.load(semantic_bundle, device="cpu")
    classes = organs.manifest.classes
    found = {name: list(class_cases(organs, read_set(sets / name, "val.txt"), classes)) for name in ("one", "two")}
    assert data["prompts"] == ["none"]
    assert data["sets"]["one"] == {**summarise_cases(found["one"]), "intervals": intervals([found["one"]])}
    assert data["mean_dice"] == report_sets(found)["mean_dice"]
    assert list(data["mean_dice"]) == ["liver", "spleen", "left kidney", "aorta", "mean over classes"]
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["object"], row["area"]) for row in rows[8:12]] == [
        *(("c", "liver", "12600"), ("c", "spleen", "4200"), ("c", "left kidney", "0"), ("c", "aorta", "0"))
    ]
    assert {row["prompt"] for row in rows} == {"none"}
    assert [row["dice"] == "" for row in rows] == [
        np.isnan(v) for one in found.values() for s in one for v in s.values["dice"].values()
    ]
    assert cli.main(["evaluate", str(semantic_bundle), "--data", str(sets), "--prompts", "none", "--images", "1"]) == 0
    head, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["Dice", "images", "cases", "liver"]


@pytest.fixture
def cells(cell: np.ndarray, tmp_path: Path) -> Path:
    """A set of one small image with two numbered objects."""
    small = cell[::4, ::4].copy()
    label = np.zeros(small.shape, np.uint16)
    label[75:110, 88:122], label[5:22, 5:50] = 1, 2
    write_set(tmp_path / "cells", small, {"a": label})
    return tmp_path / "cells"


def test_a_model_that_prompts_itself_by_its_objects(
    auto_checkpoint: Checkpoint, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(auto_checkpoint, tmp_path / "checkpoint")
    (labelled,) = read_set(cells, "val.txt")
    small, label = labelled.image, labelled.label
    data = run(capsys, tmp_path / "checkpoint", "--data", tmp_path / "cells")
    asked = TorchPredictor.of(auto_checkpoint, auto_checkpoint.build())
    answer = asked.decode(asked.encode(small))
    found = answer.instances()
    assert found.max() > 1
    row = data["sets"]["cells"]
    assert row["dice"]["foreground"] == pytest.approx(dice(answer.mask, label > 0))
    assert row["aji"]["foreground"] == pytest.approx(aggregated_jaccard(found, label))
    assert row["object_f1"]["foreground"] == match_objects(found, label).f1()
    assert (data["task"], data["prompts"], data["zoom"]) == ("auto", ["none"], None)
    assert data["rules"]["splitting"] == auto_checkpoint.auto.splitting.to_dict()
    assert not {"skipped", "further", "prompt"} & data.keys()


ALL = ("--prompts", "box,point1,point3,point5,none")


def test_a_promptable_model_is_not_asked_without_a_prompt(
    sets: Path, exported_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = run(capsys, exported_bundle, "--data", sets / "one", *ALL)
    assert data["prompts"] == list(data["mean_dice"]) == ["box", "point1", "point3", "point5"]
    assert list(data["skipped"]) == ["none"]
    plain = run(capsys, exported_bundle, "--data", sets / "one", "--prompts", "box,point1,point3,point5")
    assert data == {**plain, "skipped": data["skipped"]}
    assert cli.main(["evaluate", str(exported_bundle), "--data", str(sets / "one"), *ALL]) == 0
    out, err = capsys.readouterr()
    reason = "not asked with none: it answers to prompts (points, box, mask), none is nothing to ask it"
    assert reason in err
    assert out.splitlines()[-1] == reason


def test_a_semantic_bundle_is_asked_without_a_prompt_alone(
    sets: Path, semantic_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = run(capsys, semantic_bundle, "--data", sets, *ALL)
    plain = run(capsys, semantic_bundle, "--data", sets)
    assert data["skipped"].keys() == {"box", "point1", "point3", "point5"}
    assert set(data["skipped"].values()) == {"it is semantic and takes no prompt"}
    assert data == {**plain, "skipped": data["skipped"]}


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_a_model_that_prompts_itself_takes_points_of_an_expert(
    kind: str,
    auto_checkpoint: Checkpoint,
    auto_bundle: Path,
    cells: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_checkpoint(auto_checkpoint, tmp_path / "checkpoint")
    model = tmp_path / "checkpoint" if kind == "checkpoint" else auto_bundle
    data = run(capsys, model, "--data", cells, *ALL, "--csv", tmp_path / "rows.csv")
    assert data["prompts"] == ["none", "point1", "point3", "point5"]
    assert list(data["further"]) == ["point1", "point3", "point5"]
    assert data["skipped"] == {"box": "a box means one object, and all that it finds is measured"}
    alone = run(capsys, model, "--data", cells)
    assert {key: data[key] for key in ("sets", "mean_dice", "intervals")} == {
        key: alone[key] for key in ("sets", "mean_dice", "intervals")
    }
    # By hand: the first click is in the largest error of what it finds alone.
    (labelled,) = read_set(cells, "val.txt")
    truth = labelled.label > 0
    asked = samsdk.load(auto_bundle, device="cpu")
    embedding = asked.encode(labelled.image)
    point, sign = correction(asked.decode(embedding).mask, truth)
    expected = asked.decode(embedding, points=[point], labels=[sign])
    assert expected.points[0].tolist() == list(point)
    assert data["further"]["point1"]["mean_dice"]["foreground"] == pytest.approx(
        dice(expected.mask, truth), abs=0.0 if kind == "bundle" else 2e-3
    )
    assert data["further"]["point1"]["mean_dice"] != data["mean_dice"]
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["object"], row["prompt"]) for row in rows] == [("foreground", one) for one in data["prompts"]]
    assert cli.main(["evaluate", str(model), "--data", str(cells), "--prompts", "none,point1"]) == 0
    heads = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if "images" in line]
    assert heads[:4] == ["Dice", "Dice, point1", "AJI", "AJI, point1"]
    only = run(capsys, model, "--data", cells, "--prompts", "point1")
    assert only["prompt"] == "point1"
    assert only["mean_dice"] == data["further"]["point1"]["mean_dice"]


def test_a_checkpoint_with_and_without_points_that_name_classes(
    sets: Path, class_point_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(class_point_checkpoint, tmp_path / "checkpoint")
    how = ("--data", sets, "--prompts", "box,point1,point2,none")
    data = run(capsys, tmp_path / "checkpoint", *how, "--images", "2", "--csv", tmp_path / "rows.csv")
    assert data["prompts"] == ["none", "point1", "point2"]
    assert data["skipped"] == {"box": "it takes points that name classes, and no box"}
    asked = TorchPredictor.of(class_point_checkpoint, class_point_checkpoint.build())
    classes = class_point_checkpoint.classes
    images = list(read_set(sets / "one", "val.txt"))[:2]
    for prompt, part in (("none", data), ("point2", data["further"]["point2"])):
        scores = list(class_cases(asked, images, classes, prompts=(prompt,)))
        assert part["sets"]["one"] == {**summarise_cases(scores), "intervals": intervals([scores])}
        assert part["sets"]["one"]["cases"] == 2
    assert data["further"]["point1"]["mean_dice"] != data["mean_dice"]
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Three images, three prompts, four classes.
    assert len(rows) == 36
    assert {row["prompt"] for row in rows} == {"none", "point1", "point2"}
    # Without being asked for, points are left out: the bundle answers without them.
    assert run(capsys, tmp_path / "checkpoint", "--data", sets)["prompts"] == ["none"]


def test_a_promptable_model_by_class(sets: Path, exported_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run(capsys, exported_bundle, "--data", sets, "--by-class", "--prompts", "point2,none", "--device", "cpu")
    assert (data["prompt"], data["rules"]["by_class"], list(data["skipped"])) == ("point2", True, ["none"])
    assert list(data["mean_dice"]) == ["class 1", "class 2", "mean over classes"]
    classes = {"0": "background", "1": "class 1", "2": "class 2"}
    asked = PassPerClass(samsdk.load(exported_bundle, device="cpu"), classes)
    scores = list(class_cases(asked, read_set(sets / "one", "val.txt"), classes, prompts=("point2",)))
    assert data["sets"]["one"] == {**summarise_cases(scores), "intervals": intervals([scores])}
    (sets / "one" / "labels.json").write_text('{"1": "disc", "2": "square"}')
    named = run(capsys, exported_bundle, "--data", sets, "--by-class", "--prompts", "point2", "--device", "cpu")
    # A set has its own classes: the mean over sets is over those that have a class of this name.
    assert named["mean_dice"]["disc"] == data["sets"]["one"]["dice"]["class 1"]
    assert named["mean_dice"]["class 1"] == data["sets"]["two"]["dice"]["class 1"]
    assert {"disc", "square", "class 1"} <= named["intervals"]["dice"].keys()
    united = run(capsys, exported_bundle, "--data", sets, "--by-class", "--union", "--device", "cpu")
    assert (united["prompts"], list(united["mean_dice"])) == (["point1", "point3"], ["foreground"])


@pytest.mark.parametrize(
    ("task", "kinds", "class_points", "taken"),
    [
        ("promptable", ("box",), False, ["box"]),
        ("promptable", ("points", "mask"), False, ["point1"]),
        ("semantic", (), False, ["none"]),
        ("semantic", (), True, ["point1", "none"]),
        ("auto", ("points", "box"), False, ["point1", "none"]),
        ("volume", (), False, ["none"]),
    ],
)
def test_what_each_kind_of_model_is_asked_with(
    task: str, kinds: tuple[str, ...], class_points: bool, taken: list[str]
) -> None:
    model = EvaluatedModel(None, task, kinds, {}, None, Splitting(), class_points=class_points)
    assert [one for one in ("box", "point1", "none") if model.refusal(one) is None] == taken


def test_all_labels_as_one_class(
    sets: Path, semantic_bundle: Path, cell: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = sets / "one" / "masks" / "c.png"
    name = samsdk.load(semantic_bundle, device="cpu").manifest.classes["1"]
    (sets / "one" / "val.txt").write_text("c\n")
    data = run(capsys, semantic_bundle, "--data", sets / "one", "--union", "--device", "cpu")
    answer = samsdk.segment(cell, model=semantic_bundle, device="cpu")
    united = cv2.imread(str(cells), cv2.IMREAD_UNCHANGED) > 0
    assert data["sets"]["one"]["dice"][name] == pytest.approx(dice(answer.label_map == 1, united))
    assert data["rules"]["union"] is True


def test_what_does_not_go_together(
    sets: Path, exported_bundle: Path, semantic_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promptable, organs = (exported_bundle, "--data", sets), (semantic_bundle, "--data", sets)
    assert "none is nothing to ask it" in refused(capsys, *promptable, "--prompts", "none")
    assert "it is semantic and takes no prompt" in refused(capsys, *organs, "--prompts", "box")
    assert "--by-class is for promptable models" in refused(capsys, *organs, "--by-class")
    assert "by class it is asked with points" in refused(capsys, *promptable, "--by-class", "--prompts", "box")
    assert "nothing to look closer at" in refused(capsys, *promptable, "--by-class", "--zoom")
    assert "nothing to look closer at" in refused(capsys, *organs, "--zoom")
    assert "--union is for models that name classes" in refused(capsys, *promptable, "--union")
    transunet = ("--protocol", "transunet")
    assert "is for models that name classes, " in refused(capsys, *promptable, *transunet)
    for option in (("--nsd", 1), ("--hd95", "medpy"), ("--spacing", "1,1"), ("--empty", "perfect")):
        assert "with a rule of its own for empty masks" in refused(capsys, *organs, *transunet, *option)
    assert "--spacing is for --nsd and --hd95" in refused(capsys, *promptable, "--spacing", "1,1")
    assert "there is no such folder" in refused(capsys, *promptable, "--csv", sets / "nowhere" / "rows.csv")
    assert "found no val.txt with ids" in refused(capsys, exported_bundle, "--data", sets / "other")


@pytest.mark.parametrize(
    "words",
    [
        ("--prompts", "box,point0"),
        ("--prompts", "box,lasso"),
        ("--prompts", ""),
        ("--clicks", "1"),
        ("--nsd", "-1"),
        ("--nsd", "nan"),
        ("--hd95", "mine"),
        ("--spacing", "1"),
        ("--spacing", "0,1"),
        ("--images", "0"),
        ("--share", "half"),
    ],
)
def test_words_that_are_not_known(words: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", "x", "--data", str(tmp_path), *words])
    assert stop.value.code == 2


def test_data_that_do_not_fit(
    sets: Path, exported_bundle: Path, semantic_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failed(model: Path, *words: object) -> str:
        assert cli.main(["evaluate", str(model), "--data", str(sets), *map(str, words)]) == 1
        return capsys.readouterr().err

    assert "a: NSD and HD95 need the size of a pixel in mm" in failed(exported_bundle, "--nsd", 2)
    assert "a is no slice of a volume" in failed(semantic_bundle, "--protocol", "transunet")
    (sets / "one" / "labels.json").write_text('{"1": "spleen"}')
    assert "calls class 1 spleen, which is class 2 of the model" in failed(semantic_bundle)
    (sets / "one" / "labels.json").write_text('{"1": "liver", "2": "gall bladder"}')
    assert run(capsys, semantic_bundle, "--data", sets)["task"] == "semantic"
    cv2.imwrite(str(sets / "one" / "masks" / "b.png"), np.full((660, 550), 5, np.uint8))
    assert "b: label 5 is no class of the model" in failed(semantic_bundle)
    shutil.rmtree(sets / "two")
    for name in "abc":
        cv2.imwrite(str(sets / "one" / "masks" / f"{name}.png"), np.zeros((660, 550), np.uint8))
    assert "no object of at least 30 pixels" in failed(exported_bundle)


def test_a_bundle_needs_the_runtime_alone(sets: Path, exported_bundle: Path) -> None:
    code = f"""
import sys
for name in ("torch", "monai", "scipy", "safetensors", "onnx", "skimage"):
    sys.modules[name] = None
from samsdk import cli, command
from samsdk_training.evaluate_cli import add_evaluate
class Entry:
    name, load = "evaluate", staticmethod(lambda: add_evaluate)
command.entry_points = lambda group: [Entry] if group == command.EXTENSIONS else []
call = ["evaluate", {str(exported_bundle)!r}, "--data", {str(sets)!r}, "--device", "cpu"]
assert cli.main(call) == 0
sys.exit(cli.main([*call, "--nsd", "1", "--spacing", "1,1"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Dice")
    assert done.returncode == 1
    assert "pip install 'samsdk[train]'" in done.stderr
