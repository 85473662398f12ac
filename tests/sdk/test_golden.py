import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from samsdk import BundleError, Predictor
from samsdk.bundle import Bundle
from samsdk.golden import (
    EXACT,
    LOWER,
    Bounds,
    GoldenCase,
    golden_bounds,
    golden_prompt,
    measure_parity,
    read_golden,
    sample_embedding,
    write_golden,
)


def put_golden(folder: Path, content: bytes) -> Bundle:
    """Replace the golden file and its hash, as whoever forged a bundle would."""
    (folder / "golden.npz").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["golden.npz"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.open(folder)


def test_what_is_written_is_read(tiny_bundle: Path) -> None:
    images, samples, cases = read_golden(Bundle.open(tiny_bundle))
    assert [image.shape for image in images] == [(320, 267), (320, 320, 3), (192, 320, 3)]
    assert len(cases) == 8
    assert [{name: sample.shape for name, sample in one.items()} for one in samples] == [
        {"image_embeddings": (4096,)}
    ] * 3
    written = write_golden(images, samples, cases)
    assert written == (tiny_bundle / "golden.npz").read_bytes()
    with np.load(io.BytesIO(written), allow_pickle=False) as archive:
        assert archive["low_res_masks"].shape == (8, 4, 64, 64)
        assert archive["low_res_masks"].dtype == np.float32


def test_a_mask_prompt_is_the_logits_of_the_case_it_names() -> None:
    logits = np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4)
    first = GoldenCase(0, {"box": [1.0, 2.0, 3.0, 4.0]}, logits, np.zeros(2, np.float32))
    second = GoldenCase(0, {"points": [[1.0, 2.0]], "labels": [1], "mask_from": 0}, logits, np.zeros(2, np.float32))
    assert golden_prompt(first, [first]).kinds == ("box",)
    prompt = golden_prompt(second, [first, second])
    assert prompt.kinds == ("points", "mask")
    np.testing.assert_array_equal(prompt.mask, logits[0])


def test_the_exported_bundle_has_parity(predictor: Predictor) -> None:
    parity = measure_parity(predictor)
    assert parity.passed
    assert parity.cases == 8
    assert parity.max_logit_difference < 1e-4
    assert parity.max_iou_prediction_difference < 1e-4
    assert parity.min_mask_iou == parity.mean_mask_iou == 1.0
    assert (parity.nan, parity.provider) == (False, "CPUExecutionProvider")
    assert parity.to_dict()["bounds"] == {
        "max_logit_difference": 1e-3,
        "max_iou_prediction_difference": 1e-3,
        "mean_mask_iou": 0.999,
    }


def test_all_masks_are_compared_whichever_of_them_answers(exported_bundle: Path) -> None:
    predictor = Predictor(Bundle.open(exported_bundle), device="cpu")
    first = measure_parity(predictor)
    predictor.manifest = replace(predictor.manifest, single_mask="best")
    assert measure_parity(predictor) == first
    assert first.passed


@pytest.mark.parametrize(("shift", "passed"), [(1e-2, False), (2e-3, False), (5e-4, True)])
def test_one_changed_logit_decides_by_the_bound(tiny_bundle: Path, shift: float, passed: bool) -> None:
    images, samples, cases = read_golden(Bundle.open(tiny_bundle))
    masks = cases[-1].low_res_masks.copy()
    # Of the last mask, for ambiguous prompts, and away from the threshold, so that no mask changes.
    place = np.unravel_index(np.abs(masks[-1]).argmax(), masks[-1].shape)
    masks[-1][place] += np.float32(shift)
    bundle = put_golden(
        tiny_bundle, write_golden(images, samples, [*cases[:-1], replace(cases[-1], low_res_masks=masks)])
    )
    parity = measure_parity(Predictor(bundle, device="cpu"))
    assert parity.passed is passed
    assert parity.max_logit_difference == pytest.approx(shift, rel=0.05)
    assert parity.mean_mask_iou == 1.0


@pytest.mark.parametrize(("shift", "passed"), [(5e-3, False), (5e-4, True)])
def test_one_changed_score_decides_by_the_bound(tiny_bundle: Path, shift: float, passed: bool) -> None:
    images, samples, cases = read_golden(Bundle.open(tiny_bundle))
    scores = cases[0].iou_predictions + np.array([0, 0, shift, 0], np.float32)
    bundle = put_golden(
        tiny_bundle, write_golden(images, samples, [replace(cases[0], iou_predictions=scores), *cases[1:]])
    )
    parity = measure_parity(Predictor(bundle, device="cpu"))
    assert parity.passed is passed
    assert parity.max_iou_prediction_difference == pytest.approx(shift, rel=0.05)


def test_changed_masks_fail_by_their_overlap(tiny_bundle: Path) -> None:
    images, samples, cases = read_golden(Bundle.open(tiny_bundle))
    flipped = [replace(case, low_res_masks=-case.low_res_masks) for case in cases]
    bundle = put_golden(tiny_bundle, write_golden(images, samples, flipped))
    parity = measure_parity(Predictor(bundle, device="cpu"))
    assert parity.passed is False
    assert parity.min_mask_iou == 0.0
    assert parity.mean_mask_iou < 0.1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_prove_nothing(tiny_bundle: Path, value: float) -> None:
    images, samples, cases = read_golden(Bundle.open(tiny_bundle))
    masks = cases[-1].low_res_masks.copy()
    masks[0, 0, 0] = value
    bundle = put_golden(
        tiny_bundle, write_golden(images, samples, [*cases[:-1], replace(cases[-1], low_res_masks=masks)])
    )
    with pytest.raises(BundleError, match=r"golden.npz in .* proves nothing: it holds no case, or NaN or infinite"):
        measure_parity(Predictor(bundle, device="cpu"))


def test_samples_of_embeddings_that_are_not_finite_prove_nothing(tiny_bundle: Path) -> None:
    images, samples, cases = read_golden(Bundle.open(tiny_bundle))
    samples[1]["image_embeddings"][7] = np.nan
    bundle = put_golden(tiny_bundle, write_golden(images, samples, cases))
    with pytest.raises(BundleError, match=r"golden.npz in .* proves nothing"):
        read_golden(bundle)


def test_a_sample_is_the_same_values_each_time_and_all_of_a_small_embedding() -> None:
    values = np.arange(10_000, dtype=np.float32).reshape(1, 100, 10, 10)
    sample = sample_embedding(values)
    np.testing.assert_array_equal(sample, sample_embedding(values.copy()))
    assert len(set(sample.tolist())) == 4096
    # From everywhere, not from the first channels alone.
    assert np.histogram(sample, bins=10, range=(0, 10_000))[0].min() > 350
    np.testing.assert_array_equal(sample_embedding(values[:, :40]), np.arange(4000))


def test_the_embeddings_of_the_bundle_are_those_of_the_checkpoint(predictor: Predictor) -> None:
    images, samples, _ = read_golden(predictor.bundle)
    for image, sample in zip(images, samples, strict=True):
        mine = sample_embedding(predictor.encode(image).image_embeddings)
        np.testing.assert_allclose(mine, sample["image_embeddings"], atol=1e-4, rtol=0)
        assert sample["image_embeddings"].std() > 0.1
    parity = measure_parity(predictor)
    assert 0 < parity.mean_embedding_difference <= parity.max_embedding_difference < 1e-4


def test_the_worst_value_of_the_worst_image_counts(tiny_bundle: Path) -> None:
    images, samples, cases = read_golden(Bundle.open(tiny_bundle))
    samples[2]["image_embeddings"][100] += 0.25
    samples[0]["image_embeddings"][5] -= 0.125
    parity = measure_parity(Predictor(put_golden(tiny_bundle, write_golden(images, samples, cases)), device="cpu"))
    assert parity.max_embedding_difference == pytest.approx(0.25, abs=1e-4)
    assert parity.mean_embedding_difference == pytest.approx(0.375 / 3 / 4096, abs=1e-5)


def test_another_encoder_is_seen_in_the_embeddings(tiny_bundle: Path) -> None:
    """One that adds 1/64 to the first of 32 channels; how far embeddings are off is measured, and held to no bound."""
    model = onnx.load(tiny_bundle / "encoder.onnx")
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
        node.input[:] = ["before" if name == output.name else name for name in node.input]
    shift = np.zeros((1, 32, 1, 1), np.float32)
    shift[0, 0] = 1 / 64
    model.graph.initializer.append(numpy_helper.from_array(shift, "shift"))
    model.graph.node.append(helper.make_node("Add", ["before", "shift"], [output.name]))
    content = model.SerializeToString()
    (tiny_bundle / "encoder.onnx").write_bytes(content)
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    manifest["files"]["encoder.onnx"]["sha256"] = hashlib.sha256(content).hexdigest()
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(BundleError, match="the one of the bundle is for other files"):
        Predictor(bundle, device="cpu")
    other = Predictor(bundle, device="cpu", uncertified="onnxruntime-cpu")
    parity = measure_parity(other, Bounds(None, None, 0.0))
    assert parity.passed
    assert parity.max_embedding_difference == pytest.approx(1 / 64, rel=0.01)
    # Of the values that are sampled, about one in 32 is of the first channel.
    assert parity.mean_embedding_difference == pytest.approx(1 / 64 / 32, rel=0.2)
    assert measure_parity(other).passed is False


def test_full_precision_is_held_to_the_checkpoint_and_lower_ones_to_their_certificates(exported_bundle: Path) -> None:
    bundle = Bundle.open(exported_bundle)
    parity = {
        "exact": {"openvino": {"mean_mask_iou": 0.5}},
        "fast": {"openvino": {"mean_mask_iou": 0.95}, "tensorrt": {"mean_mask_iou": 0.9}},
    }
    certified = Bundle(bundle.path, replace(bundle.manifest, parity=parity))
    assert golden_bounds(certified, "exact") == EXACT == Bounds(1e-3, 1e-3, 0.999)
    assert golden_bounds(certified, "fast") == Bounds(None, None, pytest.approx(0.89))
    assert golden_bounds(certified, "balanced") == LOWER == Bounds(None, None, 0.8)


def test_lower_precision_is_held_by_its_masks_alone(tiny_bundle: Path) -> None:
    images, samples, cases = read_golden(Bundle.open(tiny_bundle))
    moved = [
        replace(case, low_res_masks=case.low_res_masks * 1.5, iou_predictions=case.iou_predictions + 1)
        for case in cases
    ]
    predictor = Predictor(put_golden(tiny_bundle, write_golden(images, samples, moved)), device="cpu")
    parity = measure_parity(predictor, LOWER)
    assert (parity.passed, parity.bounds) == (True, LOWER)
    # But for logits so close to the threshold that float32 rounds them to the other side.
    assert parity.mean_mask_iou > 0.999
    assert parity.max_iou_prediction_difference == pytest.approx(1, rel=0.01)
    assert parity.max_logit_difference > 0.1
    assert measure_parity(predictor).passed is False
    flipped = [replace(case, low_res_masks=-case.low_res_masks) for case in cases]
    other = Predictor(put_golden(tiny_bundle, write_golden(images, samples, flipped)), device="cpu")
    assert measure_parity(other, LOWER).passed is False


def damaged(content: bytes, kind: str) -> bytes:
    if kind == "garbage":
        return b"garbage"
    if kind == "truncated":
        return content[: len(content) // 2]
    if kind == "empty":
        return b""
    buffer = io.BytesIO()
    with np.load(io.BytesIO(content)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if kind == "no masks":
        del arrays["low_res_masks"]
    elif kind == "no embeddings":
        del arrays["embedding_1_image_embeddings"]
    elif kind == "fewer masks":
        arrays["low_res_masks"] = arrays["low_res_masks"][:3]
    elif kind == "other prompts":
        arrays["prompts"] = np.array('["box"]' if len(arrays) else "")
        arrays["low_res_masks"], arrays["iou_predictions"] = arrays["low_res_masks"][:1], arrays["iou_predictions"][:1]
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", ["garbage", "truncated", "empty", "no masks", "no embeddings", "fewer masks", "other prompts"]
)
def test_a_damaged_golden_file_is_a_bundle_error(tiny_bundle: Path, kind: str) -> None:
    bundle = put_golden(tiny_bundle, damaged((tiny_bundle / "golden.npz").read_bytes(), kind))
    with pytest.raises(BundleError, match=r"golden.npz in .* cannot be read"):
        read_golden(bundle)


def test_a_bundle_without_golden_cases_says_so(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    del manifest["files"]["golden.npz"]
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"lists no file golden.npz; it lists: "):
        measure_parity(Predictor(Bundle.open(tiny_bundle), device="cpu"))


def test_pickles_in_a_golden_file_are_never_loaded(tiny_bundle: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, prompts=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BundleError, match="cannot be read: Object arrays cannot be loaded"):
        read_golden(put_golden(tiny_bundle, buffer.getvalue()))
