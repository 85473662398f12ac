import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import samsdk
from samsdk import BundleError, environment
from samsdk.backends.openvino import is_installed
from samsdk.bundle import Bundle
from samsdk.certificates import read_kept
from samsdk.doctor import examine
from samsdk.golden import read_golden, write_golden


@pytest.fixture(autouse=True)
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("samsdk.backends.openvino.is_installed", lambda: False)
    monkeypatch.setattr("samsdk.backends.tensorrt.is_usable", lambda: False)


def edit(folder: Path, **fields: Any) -> Bundle:
    """The bundle with some fields of its manifest replaced."""
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **fields}))
    return Bundle.open(folder)


def shifted(folder: Path, by: float) -> Bundle:
    """The bundle with all its golden logits moved by as much, hash and certificate intact."""
    images, samples, cases = read_golden(Bundle.open(folder))
    content = write_golden(images, samples, [replace(case, low_res_masks=case.low_res_masks + by) for case in cases])
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
    assert (check["tier"], check["device"], check["passed"], check["certified"]) == ("exact", "cpu", True, True)
    assert check["detail"].startswith("8 golden prompts, largest logit difference ")
    assert check["detail"].endswith("mean mask IoU 1.000000")
    assert check["parity"]["max_logit_difference"] < 1e-4
    assert {"python", "onnxruntime", "providers", "processor", "cores"} <= set(data["environment"])
    assert data["problems"] == []
    json.dumps(data, allow_nan=False)
    # The word that everything else takes means all of them here.
    assert examine(bundle, device="auto")["checks"] == data["checks"]


def test_a_bundle_that_computes_something_else_fails(tiny_bundle: Path) -> None:
    data = examine(shifted(tiny_bundle, 1e-2))
    assert data["passed"] is False
    (check,) = data["checks"]
    assert check["passed"] is False
    assert "largest logit difference 1.0e-02" in check["detail"]
    assert check["parity"]["max_logit_difference"] == pytest.approx(1e-2, rel=0.01)


def test_a_tier_that_cannot_run_fails_with_the_reason_and_spoils_the_whole(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    # The card is in the bundle, and no graph.
    broken = {**manifest["tiers"]["exact"][0], "decoder": {"file": "MODEL_CARD.md", "precision": "float32"}}
    data = examine(edit(tiny_bundle, tiers={**manifest["tiers"], "fast": [broken]}))
    assert data["passed"] is False
    good, bad = data["checks"]
    assert (good["passed"], good["certified"]) == (True, True)
    assert (bad["tier"], bad["passed"], bad["certified"], "parity" in bad) == ("fast", False, False, False)
    assert "ONNX Runtime cannot load the graph" in bad["detail"]


def test_a_tier_without_a_certificate_is_measured_and_said_to_be_refused(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    data = examine(edit(tiny_bundle, tiers={**manifest["tiers"], "fast": manifest["tiers"]["exact"]}))
    good, other = data["checks"]
    assert (other["tier"], other["passed"], other["certified"]) == ("fast", True, False)
    assert other["parity"]["max_logit_difference"] == good["parity"]["max_logit_difference"]
    refusal = (
        "; the runtime refuses it: tier 'fast' of bundle 'tiny' has no valid parity certificate for onnxruntime-cpu"
    )
    assert refusal in other["detail"]


def test_certify_keeps_what_the_runtime_then_accepts(tiny_bundle: Path, own_cache: Path) -> None:
    bundle = edit(tiny_bundle, parity={})
    assert examine(bundle)["checks"][0]["certified"] is False
    assert list(own_cache.iterdir()) == []
    with pytest.raises(BundleError, match="has no valid parity certificate"):
        samsdk.load(tiny_bundle, device="cpu")
    (check,) = examine(bundle, certify=True)["checks"]
    assert (check["passed"], check["certified"]) == (True, True)
    assert "refuses" not in check["detail"]
    kept = read_kept(bundle)["exact"]["onnxruntime-cpu"]
    assert {name: kept[name] for name in check["parity"]} == check["parity"]
    assert kept["engine"] == f"onnxruntime {onnxruntime.__version__}"
    predictor = samsdk.load(tiny_bundle, device="cpu")
    assert predictor.engines.certificate == kept


def test_what_failed_here_is_refused_although_the_bundle_was_certified_elsewhere(tiny_bundle: Path) -> None:
    bundle = shifted(tiny_bundle, 1e-2)
    (check,) = examine(bundle)["checks"]
    assert (check["passed"], check["certified"]) == (False, True)
    (check,) = examine(bundle, certify=True)["checks"]
    assert (check["passed"], check["certified"]) == (False, False)
    assert "failed the one measured here" in check["detail"]
    with pytest.raises(BundleError, match="failed the one measured here"):
        samsdk.load(tiny_bundle, device="cpu")


def test_a_device_without_any_plan_is_refused(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    plan = {**manifest["tiers"]["exact"][0], "engines": ["openvino"]}
    bundle = edit(tiny_bundle, tiers={"exact": [plan]})
    with pytest.raises(BundleError, match="bundle 'tiny' has no plan for cpu; nothing was examined"):
        examine(bundle, device="cpu")
    with pytest.raises(
        BundleError, match="bundle 'tiny' has no plan for any device that is here; nothing was examined"
    ):
        examine(bundle)


@pytest.mark.parametrize(
    ("there", "passed"),
    [(("onnxruntime",), True), (("onnxruntime-gpu",), True), (("onnxruntime", "onnxruntime-gpu"), False)],
)
def test_two_onnxruntimes_over_each_other_are_a_problem(
    exported_bundle: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], passed: bool
) -> None:
    monkeypatch.setattr(environment, "_version", lambda name: "1.22" if name in there else None)
    data = examine(Bundle.open(exported_bundle))
    assert data["checks"][0]["passed"] is True
    assert (data["passed"], len(data["problems"])) == (passed, int(not passed))
    assert all("pip uninstall -y onnxruntime onnxruntime-gpu" in problem for problem in data["problems"])


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
    monkeypatch.setattr("samsdk.backends.openvino.is_installed", lambda: True)
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
