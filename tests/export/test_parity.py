import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from samsdk.bundle import Bundle
from samsdk.golden import read_golden, write_golden
from samsdk_export.parity import ParityError, certify


def uncertified(folder: Path) -> dict[str, object]:
    """Take the certificate off, as a bundle is before it is proved; give it back."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    certificate = manifest["parity"].pop("exact")["onnxruntime-cpu"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return certificate


def test_a_fresh_process_measures_what_the_certificate_says(tiny_bundle: Path) -> None:
    written = uncertified(tiny_bundle)
    certificate = certify(tiny_bundle, "exact", "cpu")
    assert certificate == written
    assert certificate["passed"] is True
    assert certificate["cases"] == 8
    assert certificate["max_logit_difference"] < 1e-4
    assert certificate["provider"] == "CPUExecutionProvider"
    assert certificate["bounds"] == {
        "max_logit_difference": 1e-3,
        "max_iou_prediction_difference": 1e-3,
        "mean_mask_iou": 0.999,
    }


def test_what_exceeds_the_bounds_is_refused_with_the_measurements(tiny_bundle: Path) -> None:
    images, samples, cases = read_golden(Bundle.open(tiny_bundle))
    content = write_golden(images, samples, [replace(case, low_res_masks=case.low_res_masks + 1e-2) for case in cases])
    (tiny_bundle / "golden.npz").write_bytes(content)
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    manifest["files"]["golden.npz"]["sha256"] = hashlib.sha256(content).hexdigest()
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ParityError) as caught:
        certify(tiny_bundle, "exact", "cpu")
    head, _, measured = str(caught.value).partition(": ")
    assert head == "tier 'exact' on cpu does not compute what the checkpoint computes"
    assert json.loads(measured)["max_logit_difference"] == pytest.approx(1e-2, rel=0.01)


def test_a_check_that_cannot_run_says_why_without_a_traceback(tiny_bundle: Path) -> None:
    with pytest.raises(ParityError) as caught:
        certify(tiny_bundle, "fast", "cpu")
    text = str(caught.value)
    assert text == (
        "the parity check of tier 'fast' on cpu could not run: bundle 'tiny' has no tier 'fast'; it has: exact"
    )
    (tiny_bundle / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(ParityError, match=r"could not run: encoder.onnx in .* was changed: expected sha256"):
        certify(tiny_bundle, "exact", "cpu")


def test_the_check_imports_neither_torch_nor_what_exports() -> None:
    code = "import sys, samsdk_export.parity; print(sorted({'torch', 'onnx', 'skimage', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
