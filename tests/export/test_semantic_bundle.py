"""From a semantic checkpoint to a bundle: what is in it, and how it is proved."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import samsdk
from samsdk.backends import openvino
from samsdk.backends.onnxruntime import OnnxRuntimeBackend
from samsdk.backends.options import BackendOptions
from samsdk.bundle import Bundle
from samsdk_export.calibration import CalibrationSets
from samsdk_export.goldens import golden_images, semantic_answers
from samsdk_export.parity import ParityError, certify
from samsdk_export.precision import Probe, list_layers, lowered_plan, trial
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.torch_predictor import TorchPredictor

MakeSet = Callable[..., Path]


@pytest.fixture(scope="module")
def sets(make_set: MakeSet, tmp_path_factory: pytest.TempPathFactory) -> CalibrationSets:
    folder = tmp_path_factory.mktemp("sets") / "discs"
    return CalibrationSets((make_set(folder, [[(30, 30, 10), (90, 60, 20)], [(64, 48, 25)]]),))


def test_the_manifest_says_what_it_is(semantic_bundle: Path, semantic_checkpoint: Checkpoint) -> None:
    manifest = json.loads((semantic_bundle / "manifest.json").read_bytes())
    assert manifest["task"] == "semantic"
    assert manifest["classes"] == semantic_checkpoint.classes
    assert manifest["prompts"] == {"kinds": [], "trained": [], "mask": "logits"}
    assert manifest["outputs"] == {"mask_side": 32, "mask_threshold": 0.0, "multimask_outputs": 0}
    assert manifest["embedding"] == {"image_embeddings": [32, 8, 8], "high_res_features": [8, 16, 16]}
    assert all(one["passed"] for one in manifest["parity"]["exact"].values())
    assert manifest["flops"]["decoder"] > 1e5


def test_the_model_card_speaks_of_classes(semantic_bundle: Path) -> None:
    card = (semantic_bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| task | semantic |\n| prompts | none: it names the class of each pixel |\n" in card
    assert "| classes | 0 background, 1 liver, 2 spleen, 3 left kidney, 4 aorta |\n| input |" in card
    assert "has no estimate of" in card
    assert "predicted score" not in card


def test_the_decoder_takes_the_image_alone_and_any_number_of_them(
    semantic_bundle: Path, semantic_checkpoint: Checkpoint
) -> None:
    content = (semantic_bundle / "decoder.onnx").read_bytes()
    graph = onnx.load_from_string(content).graph
    assert [value.name for value in graph.input] == ["image_embeddings", "high_res_features"]
    assert [value.name for value in graph.output] == ["low_res_masks"]
    model = semantic_checkpoint.build()
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        embeddings = model.encode(images)
        expected = model.decode_all(embeddings)[0].numpy()
    backend = OnnxRuntimeBackend(content, "cpu", BackendOptions())
    got = backend.run({name: tensor.numpy() for name, tensor in embeddings.items()})["low_res_masks"]
    assert got.shape == (3, 5, 32, 32)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_golden_answers_are_the_models(semantic_checkpoint: Checkpoint) -> None:
    model, images = semantic_checkpoint.build(), golden_images()
    embeddings, cases = semantic_answers(model, semantic_checkpoint.preprocessing, images)
    reference = TorchPredictor.of(semantic_checkpoint, model)
    for index, (image, case) in enumerate(zip(images, cases, strict=True)):
        assert (case.image, case.prompt) == (index, {})
        answer = reference.decode(reference.encode(image))
        np.testing.assert_array_equal(case.low_res_masks, answer.low_res_logits)
        np.testing.assert_array_equal(embeddings[index]["image_embeddings"], reference.encode(image).image_embeddings)


def uncertified(bundle: Path, target: Path) -> Path:
    folder = Path(shutil.copytree(bundle, target))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "parity": {}}))
    return folder


def test_a_certificate_holds_the_dice_of_each_class(
    semantic_bundle: Path, semantic_checkpoint: Checkpoint, sets: CalibrationSets, tmp_path: Path
) -> None:
    reference = sets.dice(
        TorchPredictor.of(semantic_checkpoint, semantic_checkpoint.build()), (), semantic_checkpoint.classes
    )
    assert list(reference["discs"]) == ["liver", "spleen"]
    folder = uncertified(semantic_bundle, tmp_path / "organs")
    certificate = certify(folder, "exact", "cpu", sets, reference)
    assert certificate["dice"]["discs"] == pytest.approx(reference["discs"], abs=1e-3)
    assert certificate["bounds"]["dice_change"] == 0.001
    better = {"discs": {name: value + 0.01 for name, value in reference["discs"].items()}}
    with pytest.raises(ParityError, match="does not compute what the checkpoint computes"):
        certify(folder, "exact", "cpu", sets, better)


@pytest.mark.skipif(not openvino.is_installed(), reason="the search is for OpenVINO")
def test_a_lower_precision_is_measured_on_classes(semantic_bundle: Path, sets: CalibrationSets) -> None:
    bundle = Bundle.open(semantic_bundle)
    plan = bundle.manifest.plan("exact", "openvino")
    probe = Probe(bundle, plan, sets, bundle.manifest.trained_kinds)
    assert probe.measure(trial(bundle, lowered_plan(plan, {})), "encoder") == (0.0, 1.0)
    layers = [name for name, _, _ in list_layers(bundle, plan, "decoder")]
    error, overlap = probe.measure(trial(bundle, lowered_plan(plan, {"decoder": layers})), "decoder")
    assert 0 < error < 0.01
    assert 0.8 < overlap <= 1.0


@pytest.mark.skipif(not openvino.is_installed(), reason="without OpenVINO")
def test_openvino_answers_as_onnx_runtime_does(semantic_bundle: Path) -> None:
    image = golden_images()[1]
    one, other = (samsdk.load(semantic_bundle, device=device).segment(image) for device in ("cpu", "openvino"))
    np.testing.assert_allclose(one.low_res_logits, other.low_res_logits, atol=1e-4)
    assert np.count_nonzero(one.masks != other.masks) <= 20
