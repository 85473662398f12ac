import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest

from samsdk.backends.openvino import is_installed
from samsdk.bundle import Bundle
from samsdk.doctor import examine
from samsdk.golden import read_golden, write_golden


@pytest.fixture(autouse=True)
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("samsdk.backends.is_installed", lambda: False)


def shifted(folder: Path, by: float) -> Bundle:
    """The bundle with all its golden logits moved by as much, hash and certificate intact."""
    images, cases = read_golden(Bundle.open(folder))
    content = write_golden(images, [replace(case, low_res_masks=case.low_res_masks + by) for case in cases])
    (folder / "golden.npz").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["golden.npz"]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.open(folder)


def test_a_good_bundle_passes(exported_bundle: Path) -> None:
    bundle = Bundle.open(exported_bundle)
    data = examine(bundle)
    assert data["passed"] is True
    assert (data["bundle"], data["path"]) == (bundle.identity, str(exported_bundle))
    (check,) = data["checks"]
    assert (check["tier"], check["device"], check["passed"]) == ("exact", "cpu", True)
    assert check["detail"].startswith("8 golden prompts, largest logit difference ")
    assert check["detail"].endswith("mean mask IoU 1.000000")
    assert check["parity"]["max_logit_difference"] < 1e-4
    assert {"python", "onnxruntime", "providers", "processor", "cores"} <= set(data["environment"])
    json.dumps(data, allow_nan=False)


def test_a_bundle_that_computes_something_else_fails(tiny_bundle: Path) -> None:
    data = examine(shifted(tiny_bundle, 1e-2))
    assert data["passed"] is False
    (check,) = data["checks"]
    assert check["passed"] is False
    assert "largest logit difference 1.0e-02" in check["detail"]
    assert check["parity"]["max_logit_difference"] == pytest.approx(1e-2, rel=0.01)


def test_a_tier_that_cannot_run_fails_with_the_reason_and_spoils_the_whole(tiny_bundle: Path) -> None:
    file = tiny_bundle / "manifest.json"
    manifest = json.loads(file.read_bytes())
    manifest["tiers"]["fast"] = manifest["tiers"]["exact"]
    file.write_text(json.dumps(manifest))
    data = examine(Bundle.open(tiny_bundle))
    assert data["passed"] is False
    good, bad = data["checks"]
    assert good["passed"] is True
    assert (bad["tier"], bad["passed"], "parity" in bad) == ("fast", False, False)
    assert "tier 'fast' of bundle 'tiny' needs a passed parity certificate and has none" in bad["detail"]


def test_every_device_that_onnxruntime_offers_is_examined(
    exported_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.capi._pybind_state.get_available_providers():
        pytest.skip("this onnxruntime really has CUDA")
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        data = examine(Bundle.open(exported_bundle))
    assert [(check["device"], check["passed"]) for check in data["checks"]] == [("cpu", True), ("cuda", False)]
    # onnxruntime names CUDA but cannot start it: that is a failure, not a fall back that passes.
    assert "CUDAExecutionProvider could not be started" in data["checks"][1]["detail"]
    assert data["passed"] is False


def test_openvino_is_examined_where_it_is_installed(exported_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_installed():
        pytest.skip("openvino is not installed")
    monkeypatch.setattr("samsdk.backends.is_installed", lambda: True)
    bundle = Bundle.open(exported_bundle)
    data = examine(bundle)
    assert [(check["device"], check["passed"]) for check in data["checks"]] == [("cpu", True), ("openvino", True)]
    assert data["checks"][1]["parity"]["provider"] == "OpenVINO CPU"
    assert data["checks"][1]["parity"]["max_logit_difference"] < 1e-4
    (alone,) = examine(bundle, device="openvino")["checks"]
    assert alone == data["checks"][1]


def test_one_device_that_is_not_there_fails_with_the_command(
    exported_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    data = examine(Bundle.open(exported_bundle), device="openvino")
    (check,) = data["checks"]
    assert (data["passed"], check["device"], check["passed"]) == (False, "openvino", False)
    assert check["detail"] == "device 'openvino' needs openvino: pip install 'samsdk[openvino]'"
