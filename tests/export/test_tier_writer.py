import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import samsdk
from samsdk import Bundle, MissingExtraError
from samsdk.backends import openvino
from samsdk.bundle_staging import write_manifest
from samsdk.tiers import Graph, Plan, TierReader
from samsdk_export import bundle_writer, tier_writer
from samsdk_export.bundle_writer import write_bundle
from samsdk_export.calibration import CalibrationError, CalibrationSets, largest_change
from samsdk_export.manifest_writer import file_entry, plan_entry
from samsdk_export.onnx_export import ExportError
from samsdk_export.parity import ParityError
from samsdk_export.precision import Found, lowered_plan
from samsdk_export.tier_writer import TierRequest, certified_devices
from samsdk_training.checkpoints import Checkpoint

MakeSet = Callable[..., Path]
needs_openvino = pytest.mark.skipif(not openvino.is_installed(), reason="openvino is not installed")


@pytest.fixture
def quick(exported_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the graphs from the bundle that was exported already."""
    for part in ("encoder", "decoder"):
        content = (exported_bundle / f"{part}.onnx").read_bytes()
        monkeypatch.setattr(bundle_writer, f"export_{part}", lambda model, rewrites, content=content: content)


@pytest.fixture
def sets(make_set: MakeSet, tmp_path: Path) -> CalibrationSets:
    return CalibrationSets((make_set(tmp_path / "discs", [[(30, 30, 14)], [(64, 48, 25)]]),), images=2, objects=1)


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)


def test_tiers_need_to_be_known_and_to_be_calibrated(tmp_path: Path) -> None:
    sets = CalibrationSets((tmp_path / "one",))
    assert TierRequest() == TierRequest((), None, ())
    assert TierRequest(("fast", "balanced"), sets).tiers == ("fast", "balanced")
    assert TierRequest(calibration=sets).calibration is sets
    for unknown in (("exact",), ("quick", "fast", "tiny")):
        with pytest.raises(ExportError) as caught:
            TierRequest(unknown, sets)
        named = ", ".join(name for name in unknown if name != "fast")
        assert str(caught.value) == f"unknown tiers {named}, expected some of: balanced, fast"
    with pytest.raises(
        CalibrationError, match="tiers balanced, fast need calibration sets: folders of labelled images"
    ):
        TierRequest(("balanced", "fast"))


def test_a_plan_is_read_as_it_is_written() -> None:
    plans = (
        Plan(Graph("a.onnx", "float32"), Graph("b.onnx", "float32"), ("onnxruntime", "openvino")),
        Plan(Graph("a.onnx", "bfloat16", ("x", "y")), Graph("b.onnx", "float32"), ("openvino",)),
        Plan(Graph("a.engine", "float16"), Graph("b.engine", "float16"), ("tensorrt",), ("sm86", "sm89")),
    )
    entries = json.loads(json.dumps([plan_entry(plan) for plan in plans]))
    assert set(entries[0]) == {"encoder", "decoder", "engines"}
    reader = TierReader(dict.fromkeys(("a.onnx", "b.onnx", "a.engine", "b.engine")))
    assert reader.tiers({"exact": entries}) == {"exact": plans}
    assert reader.problems == []


def test_files_are_listed_with_hash_and_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_entry(tmp_path / "file") == {"sha256": hashlib.sha256(b"abc").hexdigest(), "size": 3}


def test_a_manifest_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_manifest(path, {"name": "first"})
    with pytest.raises(TypeError):
        write_manifest(path, {"name": "second", "wrong": {1, 2}})
    assert json.loads(path.read_bytes()) == {"name": "first"}
    write_manifest(path, {"name": "third"})
    assert json.loads(path.read_bytes()) == {"name": "third"}
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]


def test_export_proves_on_processors_and_leaves_gpus_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier_writer, "available_devices", lambda: ["cpu", "cuda", "openvino", "tensorrt"])
    assert certified_devices() == ["cpu", "openvino"]
    monkeypatch.setattr(tier_writer, "available_devices", lambda: ["cpu", "cuda"])
    assert certified_devices() == ["cpu"]


@pytest.mark.usefixtures("quick")
def test_with_sets_alone_full_precision_is_measured_on_them(
    tiny_checkpoint: Checkpoint, sets: CalibrationSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tier_writer, "available_devices", lambda: ["cpu"])
    path = write_bundle(tiny_checkpoint, tmp_path / "tiny", name="tiny", request=TierRequest(calibration=sets))
    manifest = Bundle.open(path).manifest
    assert list(manifest.tiers) == list(manifest.parity) == ["exact"]
    (certificate,) = manifest.parity["exact"].values()
    # `exact` has a bound of its own on logits; on Dice it is held to what `balanced` is.
    assert certificate["bounds"]["dice_change"] == 0.001
    assert largest_change(certificate["dice_change"]) < 1e-4
    mine = sets.dice(samsdk.load(path, device="cpu"), ("points", "box"))
    assert certificate["dice"]["discs"] == pytest.approx(mine["discs"])
    assert 0 < certificate["dice"]["discs"]["box"] < 1


@needs_openvino
@pytest.mark.usefixtures("quick")
def test_a_tier_that_cannot_be_found_is_left_out(
    tiny_checkpoint: Checkpoint, sets: CalibrationSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(tier_writer, "measure_layers", lambda *args: [])
    monkeypatch.setattr(tier_writer, "find_plan", lambda bundle, plan, tier, *args: asked.append(tier))
    lines: list[str] = []
    path = write_bundle(
        tiny_checkpoint,
        tmp_path / "tiny",
        name="tiny",
        request=TierRequest(("balanced", "fast"), sets),
        progress=lines.append,
    )
    assert asked == ["balanced", "fast"]
    left_out = [line for line in lines if "left out" in line]
    assert left_out == [f"{tier}: left out, no layer may be lowered within its bound" for tier in ("balanced", "fast")]
    manifest = Bundle.open(path).manifest
    assert list(manifest.tiers) == list(manifest.parity) == ["exact"]


@needs_openvino
@pytest.mark.usefixtures("quick")
def test_a_plan_that_does_not_hold_in_a_fresh_process_is_left_out_and_the_rest_stays(
    tiny_checkpoint: Checkpoint, sets: CalibrationSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered = lowered_plan(
        Plan(Graph("encoder.onnx", "float32"), Graph("decoder.onnx", "float32"), ("openvino",)), {"encoder": ["a"]}
    )
    certify = tier_writer.certify

    def prove(bundle: Path, tier: str, *args: Any) -> dict[str, Any]:
        if tier != "exact":
            raise ParityError("not this one")
        return certify(bundle, tier, *args)

    monkeypatch.setattr(tier_writer, "certify", prove)
    monkeypatch.setattr(tier_writer, "measure_layers", lambda *args: [])
    monkeypatch.setattr(tier_writer, "find_plan", lambda *args: Found(lowered, 1, 0.1, {}))
    lines: list[str] = []
    request = TierRequest(("fast",), sets)
    path = write_bundle(tiny_checkpoint, tmp_path / "tiny", name="tiny", request=request, progress=lines.append)
    assert "fast: left out, its plan does not hold in a fresh process: not this one" in lines
    manifest = Bundle.open(path).manifest
    assert list(manifest.tiers) == list(manifest.parity) == ["exact"]


@pytest.mark.usefixtures("quick")
def test_a_set_that_cannot_be_used_stops_the_export_before_any_proof(
    tiny_checkpoint: Checkpoint, make_set: MakeSet, tmp_path: Path
) -> None:
    single = make_set(tmp_path / "single", [[(30, 30, 14)]])
    lines: list[str] = []
    with pytest.raises(CalibrationError, match=r"single has 1 image\(s\)"):
        write_bundle(
            tiny_checkpoint,
            tmp_path / "bundle" / "tiny",
            name="tiny",
            request=TierRequest(calibration=CalibrationSets((single,))),
            progress=lines.append,
        )
    assert not any("parity" in line for line in lines)
    assert not (tmp_path / "bundle" / "tiny").exists()


def test_targets_that_are_unknown_are_refused_before_the_work() -> None:
    assert TierRequest(targets=("sm86", "sm75")).targets == ("sm86", "sm75")
    with pytest.raises(ExportError, match=r"unknown targets \['sm99'\], expected some of: sm75"):
        TierRequest(targets=("sm86", "sm99"))


@pytest.mark.usefixtures("without_openvino")
def test_lower_tiers_need_openvino_and_say_so_before_the_work(
    tiny_checkpoint: Checkpoint, sets: CalibrationSets, tmp_path: Path
) -> None:
    lines: list[str] = []
    request = TierRequest(("fast",), sets)
    with pytest.raises(MissingExtraError, match="device 'openvino' needs openvino: pip install"):
        write_bundle(tiny_checkpoint, tmp_path / "tiny", name="tiny", request=request, progress=lines.append)
    assert lines == []
    assert not (tmp_path / "tiny").exists()
