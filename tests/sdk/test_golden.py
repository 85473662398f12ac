import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samsdk import BundleError, Predictor
from samsdk.bundle import Bundle
from samsdk.golden import GoldenCase, golden_prompt, measure_parity, read_golden, write_golden


def put_golden(folder: Path, content: bytes) -> Bundle:
    """Replace the golden file and its hash, as whoever forged a bundle would."""
    (folder / "golden.npz").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["golden.npz"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.open(folder)


def test_what_is_written_is_read(tiny_bundle: Path) -> None:
    images, cases = read_golden(Bundle.open(tiny_bundle))
    assert [image.shape for image in images] == [(320, 267), (320, 320, 3), (192, 320, 3)]
    assert len(cases) == 8
    written = write_golden(images, cases)
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


@pytest.mark.parametrize(("shift", "passed"), [(1e-2, False), (2e-3, False), (5e-4, True)])
def test_one_changed_logit_decides_by_the_bound(tiny_bundle: Path, shift: float, passed: bool) -> None:
    images, cases = read_golden(Bundle.open(tiny_bundle))
    masks = cases[-1].low_res_masks.copy()
    # Of the last mask, for ambiguous prompts, and away from the threshold, so that no mask changes.
    place = np.unravel_index(np.abs(masks[-1]).argmax(), masks[-1].shape)
    masks[-1][place] += np.float32(shift)
    bundle = put_golden(tiny_bundle, write_golden(images, [*cases[:-1], replace(cases[-1], low_res_masks=masks)]))
    parity = measure_parity(Predictor(bundle, device="cpu"))
    assert parity.passed is passed
    assert parity.max_logit_difference == pytest.approx(shift, rel=0.05)
    assert parity.mean_mask_iou == 1.0


@pytest.mark.parametrize(("shift", "passed"), [(5e-3, False), (5e-4, True)])
def test_one_changed_score_decides_by_the_bound(tiny_bundle: Path, shift: float, passed: bool) -> None:
    images, cases = read_golden(Bundle.open(tiny_bundle))
    scores = cases[0].iou_predictions + np.array([0, 0, shift, 0], np.float32)
    bundle = put_golden(tiny_bundle, write_golden(images, [replace(cases[0], iou_predictions=scores), *cases[1:]]))
    parity = measure_parity(Predictor(bundle, device="cpu"))
    assert parity.passed is passed
    assert parity.max_iou_prediction_difference == pytest.approx(shift, rel=0.05)


def test_changed_masks_fail_by_their_overlap(tiny_bundle: Path) -> None:
    images, cases = read_golden(Bundle.open(tiny_bundle))
    flipped = [replace(case, low_res_masks=-case.low_res_masks) for case in cases]
    bundle = put_golden(tiny_bundle, write_golden(images, flipped))
    parity = measure_parity(Predictor(bundle, device="cpu"))
    assert parity.passed is False
    assert parity.min_mask_iou == 0.0
    assert parity.mean_mask_iou < 0.1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_prove_nothing(tiny_bundle: Path, value: float) -> None:
    images, cases = read_golden(Bundle.open(tiny_bundle))
    masks = cases[-1].low_res_masks.copy()
    masks[0, 0, 0] = value
    bundle = put_golden(tiny_bundle, write_golden(images, [*cases[:-1], replace(cases[-1], low_res_masks=masks)]))
    with pytest.raises(BundleError, match=r"golden.npz in .* proves nothing: it holds no case, or NaN or infinite"):
        measure_parity(Predictor(bundle, device="cpu"))


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
    elif kind == "fewer masks":
        arrays["low_res_masks"] = arrays["low_res_masks"][:3]
    elif kind == "other prompts":
        arrays["prompts"] = np.array('["box"]' if len(arrays) else "")
        arrays["low_res_masks"], arrays["iou_predictions"] = arrays["low_res_masks"][:1], arrays["iou_predictions"][:1]
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["garbage", "truncated", "empty", "no masks", "fewer masks", "other prompts"])
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
