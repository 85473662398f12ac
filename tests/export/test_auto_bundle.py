"""From a checkpoint that prompts itself to a bundle: what is in it, how it is proved, and that it answers as torch."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import samsdk
from samsdk import AutoResult
from samsdk.backends import openvino
from samsdk.bundle import Bundle
from samsdk.golden import measure_parity, read_golden
from samsdk.golden_points import read_golden_points, write_golden_points
from samsdk.masks import mask_iou
from samsdk_export.bundle_writer import write_bundle
from samsdk_export.calibration import CalibrationSets, what_counts
from samsdk_export.flops import count_flops
from samsdk_export.goldens import golden_images
from samsdk_export.manifest_writer import file_entry, plan_entry
from samsdk_export.onnx_export import ExportError
from samsdk_export.parity import ParityError, certify
from samsdk_export.precision import Probe, lowered_plan, trial
from samsdk_export.tier_writer import TierRequest
from samsdk_training.checkpoints import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.torch_predictor import TorchPredictor

MakeSet = Callable[..., Path]
DEVICES = ["cpu", pytest.param("openvino", marks=pytest.mark.skipif(not openvino.is_installed(), reason="without it"))]


@pytest.fixture(scope="module")
def reference(auto_checkpoint: Checkpoint) -> TorchPredictor:
    return TorchPredictor.of(auto_checkpoint, auto_checkpoint.build())


@pytest.fixture(scope="module")
def sets(make_set: MakeSet, tmp_path_factory: pytest.TempPathFactory) -> CalibrationSets:
    folder = tmp_path_factory.mktemp("sets") / "discs"
    return CalibrationSets((make_set(folder, [[(30, 30, 10), (90, 60, 20)], [(64, 48, 25)]]),))


def test_the_manifest_says_what_it_is(auto_bundle: Path, auto_checkpoint: Checkpoint) -> None:
    manifest = json.loads((auto_bundle / "manifest.json").read_bytes())
    assert manifest["task"] == "auto"
    assert manifest["prompts"] == auto_checkpoint.prompts
    assert manifest["tiers"]["exact"][0]["prompter"] == {"file": "prompter.onnx", "precision": "float32"}
    assert {"prompter.onnx", "golden_points.npz"} <= set(manifest["files"])
    assert manifest["flops"]["prompter"] > 1e6
    assert manifest["flops"] == count_flops(auto_checkpoint.build(), "auto")
    for certificate in manifest["parity"]["exact"].values():
        assert certificate["passed"]
        assert "prompter.onnx" in certificate["holds_for"]
        # Something was pointed at, and it is the same to the point.
        assert certificate["points"]["points"] > 6
        assert certificate["points"]["moved"] == certificate["points"]["positives_moved"] == 0
        assert 3 <= certificate["points"]["positives"] < certificate["points"]["points"]
        assert certificate["points"]["max_probability_difference"] < 1e-4
        assert certificate["cases"] > 8
    plan = Bundle.open(auto_bundle).manifest.plan("exact", "openvino")
    assert plan.files == ("encoder.onnx", "decoder.onnx", "prompter.onnx")
    assert plan_entry(plan)["prompter"]["file"] == "prompter.onnx"


def test_the_model_card_speaks_of_points(auto_bundle: Path) -> None:
    card = (auto_bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| task | auto |\n| prompts | none needed: it points by itself |\n" in card
    assert "| points that it picks, at most | 6 on objects, 4 on background, by centroid |" in card
    assert "| its mask is split into objects at | necks deeper than 0.5 pixels |\n| input |" in card


@pytest.mark.parametrize("device", DEVICES)
def test_a_bundle_points_and_answers_as_torch_does(auto_bundle: Path, reference: TorchPredictor, device: str) -> None:
    predictor = samsdk.load(auto_bundle, device=device)
    found = 0
    for image in golden_images():
        mine, theirs = predictor.segment(image), reference.decode(reference.encode(image))
        assert isinstance(mine, AutoResult)
        assert isinstance(theirs, AutoResult)
        np.testing.assert_array_equal(mine.points, theirs.points)
        np.testing.assert_array_equal(mine.point_labels, theirs.point_labels)
        np.testing.assert_allclose(mine.low_res_logits, theirs.low_res_logits, atol=1e-3)
        assert mask_iou(mine.mask, theirs.mask) > 0.999
        if device == "cpu":
            np.testing.assert_array_equal(mine.instances(), theirs.instances())
        found += len(mine.points)
    assert found > 6


@pytest.mark.parametrize(
    "given", [{"points": [(40, 50), (90, 70)], "labels": [1, 0]}, {"box": (30, 40, 120, 140)}], ids=["points", "box"]
)
def test_what_a_person_adds_means_the_same_in_torch(
    auto_bundle: Path, reference: TorchPredictor, given: dict[str, Any]
) -> None:
    predictor, image = samsdk.load(auto_bundle, device="cpu"), golden_images()[1]
    mine, theirs = predictor.segment(image, **given), reference.decode(reference.encode(image), **given)
    assert isinstance(theirs, AutoResult)
    np.testing.assert_array_equal(mine.points, theirs.points)
    np.testing.assert_allclose(mine.low_res_logits, theirs.low_res_logits, atol=1e-3)
    assert len(theirs.points) == 0 if "box" in given else len(theirs.points) > 2


def test_where_torch_finds_nothing_the_answer_is_empty(reference: TorchPredictor) -> None:
    result = reference.decode(reference.encode(np.zeros((50, 70), np.uint8)))
    assert isinstance(result, AutoResult)
    assert (result.area, result.score, len(result.points)) == (0, 0.0, 0)
    assert result.mask.shape == (50, 70)


def uncertified(bundle: Path, target: Path) -> Path:
    folder = Path(shutil.copytree(bundle, target))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "parity": {}}))
    return folder


def put_points(folder: Path, content: bytes) -> None:
    (folder / "golden_points.npz").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["golden_points.npz"] = file_entry(folder / "golden_points.npz")
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("what", ["probabilities", "points", "labels"])
def test_a_bundle_that_points_elsewhere_is_not_certified(auto_bundle: Path, tmp_path: Path, what: str) -> None:
    folder = uncertified(auto_bundle, tmp_path / "nuclei")
    first, *others = read_golden_points(Bundle.open(folder))
    assert len(first.points) > 1
    changed = {
        "probabilities": replace(first, probabilities=first.probabilities + np.float32(0.01)),
        "points": replace(first, points=first.points + 20),
        "labels": replace(first, labels=1 - first.labels),
    }
    put_points(folder, write_golden_points([changed[what], *others]))
    parity = measure_parity(samsdk.load(folder, device="cpu", uncertified="onnxruntime-cpu"))
    assert parity.points is not None
    assert not parity.passed
    assert not parity.points.passed
    assert (parity.points.moved == 0) == (what == "probabilities")
    # The decoder is the same, and only the points are to blame.
    assert parity.max_logit_difference < 1e-3
    if what == "points":
        with pytest.raises(ParityError, match="does not compute what the checkpoint computes"):
            certify(folder, "exact", "cpu")


def test_points_that_are_damaged_prove_nothing(auto_bundle: Path, tmp_path: Path) -> None:
    folder = uncertified(auto_bundle, tmp_path / "nuclei")
    put_points(folder, b"nothing")
    with pytest.raises(samsdk.BundleError, match=r"golden_points.npz in .* cannot be read"):
        read_golden_points(Bundle.open(folder))
    put_points(folder, write_golden_points([]))
    with pytest.raises(samsdk.BundleError, match="proves nothing"):
        read_golden_points(Bundle.open(folder))


def test_golden_cases_hold_the_points_that_torch_picks(auto_bundle: Path, reference: TorchPredictor) -> None:
    images, _, cases = read_golden(Bundle.open(auto_bundle))
    picked = cases[8:]
    assert len(picked) >= 1
    for case in picked:
        answer = reference.decode(reference.encode(images[case.image]))
        assert isinstance(answer, AutoResult)
        np.testing.assert_array_equal(case.prompt["points"], answer.points)
        np.testing.assert_allclose(case.low_res_masks[:1], answer.low_res_logits, atol=1e-5)


def test_dice_is_measured_without_a_prompt(
    auto_bundle: Path, auto_checkpoint: Checkpoint, reference: TorchPredictor, sets: CalibrationSets, tmp_path: Path
) -> None:
    asked = what_counts("auto", auto_checkpoint.prompts["trained"], {})
    dice = sets.dice(reference, *asked)
    both = total = 0
    for one in sets.read(sets.folders[0]):
        mask = reference.decode(reference.encode(one.image)).mask
        both += 2 * np.count_nonzero(mask & (one.label > 0))
        total += np.count_nonzero(mask) + np.count_nonzero(one.label)
    assert dice == {"discs": {"foreground": pytest.approx(both / total)}}
    certificate = certify(uncertified(auto_bundle, tmp_path / "nuclei"), "exact", "cpu", sets, dice)
    assert certificate["dice"]["discs"] == pytest.approx(dice["discs"], abs=1e-3)


@pytest.mark.skipif(not openvino.is_installed(), reason="the search is for OpenVINO")
def test_a_lower_precision_keeps_the_prompter(auto_bundle: Path, sets: CalibrationSets) -> None:
    bundle = Bundle.open(auto_bundle)
    plan = bundle.manifest.plan("exact", "openvino")
    lowered = lowered_plan(plan, {"encoder": ["a"]})
    assert lowered.prompter == plan.prompter
    kinds, _ = what_counts("auto", bundle.manifest.trained_kinds, {})
    probe = Probe(bundle, plan, sets, kinds)
    assert probe.measure(trial(bundle, lowered_plan(plan, {})), "encoder") == (0.0, 1.0)


def test_engines_of_it_are_refused_before_anything_is_done(auto_checkpoint: Checkpoint, tmp_path: Path) -> None:
    lines: list[str] = []
    request = TierRequest(targets=("sm86",))
    with pytest.raises(ExportError, match="take up to 16 tokens in a prompt, a model that prompts itself gives more"):
        write_bundle(auto_checkpoint, tmp_path / "nuclei", name="nuclei", request=request, progress=lines.append)
    assert lines == []
    assert not (tmp_path / "nuclei").exists()


def test_a_checkpoint_keeps_how_it_prompts_itself(auto_checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(auto_checkpoint, tmp_path / "nuclei")
    loaded = load_checkpoint(tmp_path / "nuclei")
    assert loaded.task == "auto"
    assert loaded.auto == auto_checkpoint.auto
    assert loaded.auto is not None
    assert (loaded.auto.selection.positives, loaded.auto.selection.negatives) == (6, 4)
    generator = loaded.build().auto_prompt_generator
    assert generator is not None
    image = torch.rand(1, 3, 64, 64)
    expected = auto_checkpoint.build().auto_prompt_generator(image)
    torch.testing.assert_close(generator(image), expected, atol=0, rtol=0)


def test_a_checkpoint_without_what_its_task_needs_is_refused(
    auto_checkpoint: Checkpoint, tiny_checkpoint: Checkpoint
) -> None:
    assert tiny_checkpoint.auto is None
    prompts = auto_checkpoint.prompts
    with pytest.raises(CheckpointError, match="auto_prompt is missing") as caught:
        replace(tiny_checkpoint, task="auto").check()
    assert caught.value.problems[1] == "prompts.selection is missing: how it picks its points"
    replace(tiny_checkpoint, task="promptable", prompts=prompts).check()
    for changed, text in (
        ({**prompts, "selection": {**prompts["selection"], "positives": 0}}, "positives must be at least 1, got 0"),
        ({**prompts, "splitting": {"smallest": 4}}, r"missing fields \['depth'\]"),
        ({**prompts, "trained": ["box"]}, "prompts.trained must name points"),
    ):
        with pytest.raises(CheckpointError, match=text):
            replace(auto_checkpoint, prompts=changed).check()
    replace(auto_checkpoint, prompts={**prompts, "splitting": None}).check()
