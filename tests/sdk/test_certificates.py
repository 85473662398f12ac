import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import samsdk
from samsdk import Bundle, BundleError, OutputError, hub
from samsdk.certificates import complete, find_certificate, keep_certificate, read_kept
from samsdk.tiers import Plan

BACKEND, ENGINE = "onnxruntime-cpu", "onnxruntime 1.0"
MEASURED = {"passed": True, "max_logit_difference": 0.25, "mean_mask_iou": 0.5}


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    """Without a certificate."""
    return with_parity(Bundle.open(tiny_bundle), {})


@pytest.fixture
def plan(bundle: Bundle) -> Plan:
    return bundle.manifest.tiers["exact"][0]


def with_parity(bundle: Bundle, parity: dict[str, Any]) -> Bundle:
    return Bundle(bundle.path, replace(bundle.manifest, parity=parity))


def kept_file(bundle: Bundle) -> Path:
    (file,) = (hub.cache_dir() / "certificates").iterdir()
    assert file.name == bundle.identity + ".json"
    return file


def refusal(bundle: Bundle, plan: Plan, *, tier: str = "exact", backend: str = BACKEND, engine: str = ENGINE) -> str:
    """Why there is no certificate, without the words around the reasons."""
    with pytest.raises(BundleError) as caught:
        find_certificate(bundle, tier, backend, plan, engine)
    head = f"tier {tier!r} of bundle 'tiny' has no valid parity certificate for {backend}: "
    tail = ". Measure it here (`samsdk doctor BUNDLE --device DEVICE --certify`), or export the bundle again"
    text = str(caught.value)
    assert text.startswith(head)
    assert text.endswith(tail)
    return text.removeprefix(head).removesuffix(tail)


def test_what_export_wrote_holds_for_what_it_exported(exported_bundle: Path) -> None:
    bundle = Bundle.open(exported_bundle)
    (plan,) = bundle.manifest.tiers["exact"]
    certificate = find_certificate(bundle, "exact", BACKEND, plan, "whatever runs it here")
    assert certificate == bundle.manifest.parity["exact"][BACKEND]
    hashes = {name: bundle.manifest.files[name]["sha256"] for name in ("encoder.onnx", "decoder.onnx")}
    assert {name: certificate["holds_for"][name] for name in hashes} == hashes
    assert len(certificate["holds_for"]["plan"]) == 64


def test_it_is_of_one_tier_and_one_backend(bundle: Bundle, plan: Plan) -> None:
    good = complete(bundle, plan, ENGINE, MEASURED)
    certified = with_parity(bundle, {"exact": {BACKEND: good}})
    assert find_certificate(certified, "exact", BACKEND, plan, ENGINE) == good
    assert refusal(bundle, plan) == "there is none"
    assert refusal(certified, plan, tier="fast") == "there is none"
    assert refusal(certified, plan, backend="onnxruntime-cuda") == "there is none"
    assert refusal(certified, plan, backend="onnxruntime") == "there is none"


@pytest.mark.parametrize("passed", [False, None, "yes", 1])
def test_only_what_passed_holds(bundle: Bundle, plan: Plan, passed: Any) -> None:
    failed = complete(bundle, plan, ENGINE, {**MEASURED, "passed": passed})
    assert refusal(with_parity(bundle, {"exact": {BACKEND: failed}}), plan) == "failed the one of the bundle"


@pytest.mark.parametrize("file", ["encoder.onnx", "decoder.onnx"])
def test_it_holds_for_no_other_graph(bundle: Bundle, plan: Plan, file: str) -> None:
    good = {"exact": {BACKEND: complete(bundle, plan, ENGINE, MEASURED)}}
    files = {**bundle.manifest.files, file: {**bundle.manifest.files[file], "sha256": "0" * 64}}
    other = Bundle(bundle.path, replace(bundle.manifest, files=files, parity=good))
    assert refusal(other, plan) == "the one of the bundle is for other files"
    # What the graphs do not depend on may change.
    files = {**bundle.manifest.files, "MODEL_CARD.md": {"sha256": "0" * 64, "size": 1}}
    other = Bundle(bundle.path, replace(bundle.manifest, files=files, parity=good))
    assert find_certificate(other, "exact", BACKEND, plan, ENGINE)["passed"] is True


def test_it_holds_for_no_other_plan(bundle: Bundle, plan: Plan) -> None:
    lowered = replace(plan, encoder=replace(plan.encoder, precision="bfloat16", lowered=("/a", "/b")))
    certified = with_parity(bundle, {"exact": {BACKEND: complete(bundle, lowered, ENGINE, MEASURED)}})
    assert find_certificate(certified, "exact", BACKEND, lowered, ENGINE)["passed"] is True
    others = [
        plan,
        replace(lowered, encoder=replace(lowered.encoder, lowered=("/a",))),
        replace(lowered, encoder=replace(lowered.encoder, lowered=("/a", "/b", "/c"))),
        replace(lowered, encoder=replace(lowered.encoder, precision="float16")),
        replace(lowered, decoder=replace(lowered.decoder, precision="bfloat16", lowered=("/a",))),
    ]
    for other in others:
        assert refusal(certified, other) == "the one of the bundle is for other files"


def test_files_and_plan_are_compared_before_the_verdict(bundle: Bundle, plan: Plan) -> None:
    # A failure of other files says nothing of these.
    failed = complete(bundle, replace(plan, encoder=plan.decoder), ENGINE, {**MEASURED, "passed": False})
    assert refusal(with_parity(bundle, {"exact": {BACKEND: failed}}), plan) == (
        "the one of the bundle is for other files"
    )


def test_one_that_is_kept_here_holds_for_this_engine_alone(bundle: Bundle, plan: Plan) -> None:
    good = complete(bundle, plan, ENGINE, MEASURED)
    path = keep_certificate(bundle, "exact", BACKEND, good)
    assert path == kept_file(bundle)
    assert read_kept(bundle) == {"exact": {BACKEND: good}}
    assert find_certificate(bundle, "exact", BACKEND, plan, ENGINE) == good
    newer = "onnxruntime 1.1"
    assert refusal(bundle, plan, engine=newer) == f"the one measured here is for {ENGINE}, this is {newer}"
    # The shipped one was not made for an engine's version, and steps in.
    shipped = {**good, "engine": "onnxruntime 0.9", "mean_mask_iou": 0.75}
    both = with_parity(bundle, {"exact": {BACKEND: shipped}})
    assert find_certificate(both, "exact", BACKEND, plan, newer) == shipped


def test_what_was_measured_here_wins_over_what_was_shipped(bundle: Bundle, plan: Plan) -> None:
    shipped = complete(bundle, plan, ENGINE, {**MEASURED, "mean_mask_iou": 0.75})
    both = with_parity(bundle, {"exact": {BACKEND: shipped}})
    assert find_certificate(both, "exact", BACKEND, plan, ENGINE)["mean_mask_iou"] == 0.75
    keep_certificate(bundle, "exact", BACKEND, complete(bundle, plan, ENGINE, MEASURED))
    assert find_certificate(both, "exact", BACKEND, plan, ENGINE)["mean_mask_iou"] == 0.5
    # And so does a failure.
    failed = complete(bundle, plan, ENGINE, {**MEASURED, "passed": False})
    keep_certificate(bundle, "exact", BACKEND, failed)
    assert refusal(both, plan) == "failed the one measured here"
    # But not one of other files: then nothing was measured here.
    keep_certificate(bundle, "exact", BACKEND, {**failed, "holds_for": {}})
    assert find_certificate(both, "exact", BACKEND, plan, ENGINE) == shipped


def test_all_reasons_are_named(bundle: Bundle, plan: Plan) -> None:
    keep_certificate(bundle, "exact", BACKEND, complete(bundle, plan, "onnxruntime 0.1", MEASURED))
    both = with_parity(bundle, {"exact": {BACKEND: {**MEASURED, "holds_for": {}}}})
    assert refusal(both, plan) == (
        f"the one measured here is for onnxruntime 0.1, this is {ENGINE}; the one of the bundle is for other files"
    )


def test_certificates_of_a_bundle_are_kept_beside_each_other(bundle: Bundle, plan: Plan) -> None:
    keep_certificate(bundle, "exact", BACKEND, {"n": 1})
    keep_certificate(bundle, "exact", "openvino", {"n": 2})
    keep_certificate(bundle, "fast", "openvino", {"n": 3})
    keep_certificate(bundle, "exact", BACKEND, {"n": 4})
    assert read_kept(bundle) == {"exact": {BACKEND: {"n": 4}, "openvino": {"n": 2}}, "fast": {"openvino": {"n": 3}}}
    # Another bundle has another file.
    files = {**bundle.manifest.files, "more.txt": {"sha256": "1" * 64, "size": 1}}
    assert read_kept(Bundle(bundle.path, replace(bundle.manifest, files=files))) == {}


def test_the_name_of_a_bundle_does_not_lead_out_of_the_cache(bundle: Bundle) -> None:
    evil = Bundle(bundle.path, replace(bundle.manifest, name="../../../etc/passwd"))
    path = keep_certificate(evil, "exact", BACKEND, {"n": 1})
    assert path.parent == hub.cache_dir() / "certificates"
    assert read_kept(evil) == {"exact": {BACKEND: {"n": 1}}}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"exact": 3}', b'{"exact": {"onnxruntime-cpu": 3}}', b"[" * 100_000],
)
def test_a_damaged_file_is_no_certificate_and_is_replaced(bundle: Bundle, plan: Plan, content: bytes) -> None:
    good = complete(bundle, plan, ENGINE, MEASURED)
    keep_certificate(bundle, "exact", BACKEND, good)
    kept_file(bundle).write_bytes(content)
    assert refusal(bundle, plan) == "there is none"
    shipped = with_parity(bundle, {"exact": {BACKEND: good}})
    assert find_certificate(shipped, "exact", BACKEND, plan, ENGINE) == good
    keep_certificate(bundle, "exact", BACKEND, good)
    assert json.loads(kept_file(bundle).read_bytes()) == {"exact": {BACKEND: good}}


def test_a_cache_that_cannot_be_written_is_an_output_error(
    bundle: Bundle, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SAMSDK_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"cannot keep the certificate in .*file/certificates: "):
        keep_certificate(bundle, "exact", BACKEND, MEASURED)
    # Reading from there finds nothing, and that is all.
    assert refusal(bundle, plan) == "there is none"


def test_without_a_home_folder_a_certified_bundle_still_loads(
    exported_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SAMSDK_CACHE_DIR")
    monkeypatch.setattr(hub, "_platform_cache", homeless)
    predictor = samsdk.load(exported_bundle, device="cpu")
    assert predictor.engines.certificate == predictor.manifest.parity["exact"][BACKEND]
    with pytest.raises(samsdk.SamsdkError, match="set SAMSDK_CACHE_DIR to a folder"):
        keep_certificate(predictor.bundle, "exact", BACKEND, MEASURED)
