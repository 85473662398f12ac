import json
from pathlib import Path
from typing import Any

import pytest

import samsdk
from samsdk import cli, hub
from samsdk_export import bundle_writer
from samsdk_export.calibration import CalibrationSets
from samsdk_export.tier_writer import TierRequest, certified_devices
from samsdk_training import importers
from samsdk_training.checkpoints import Checkpoint, save_checkpoint


@pytest.fixture
def saved(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tiny_checkpoint, tmp_path / "checkpoints" / "tiny")
    return tmp_path / "checkpoints" / "tiny"


def run(*argv: object) -> int:
    return cli.main(["export", *(str(arg) for arg in argv)])


def only_object(out: str) -> dict[str, Any]:
    assert out.count("\n") == 1
    data = json.loads(out)
    assert isinstance(data, dict)
    return data


def test_exporting_a_saved_checkpoint_again_gives_the_same_bytes(
    saved: Path, exported_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way, tracing included; the other tests of the command take the graphs from here."""
    target = tmp_path / "again"
    assert run(saved, "-o", target, "--json") == 0
    out, err = capsys.readouterr()
    assert only_object(out) == {"name": "tiny", "bundle": str(target)}
    assert err.splitlines() == [
        "building the model",
        "exporting the encoder",
        "exporting the decoder",
        "asking the torch model the golden prompts",
        *(f"checking parity of tier exact on {device} in a fresh process" for device in certified_devices()),
        "moving the bundle into place",
    ]
    assert {path.name for path in target.iterdir()} == {path.name for path in exported_bundle.iterdir()}
    for path in exported_bundle.iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes(), path.name


def test_export_to_one_file_for_people(
    saved: Path,
    exported_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for part in ("encoder", "decoder"):
        content = (exported_bundle / f"{part}.onnx").read_bytes()
        monkeypatch.setattr(bundle_writer, f"export_{part}", lambda model, rewrites, content=content: content)
    target = tmp_path / "out" / "tiny.samsdk"
    assert run(saved, "-o", target) == 0
    out, err = capsys.readouterr()
    assert out == f"{target}\n"
    assert err.endswith("moving the bundle into place\n")
    assert samsdk.load(target, device="cpu").bundle.identity == samsdk.Bundle.open(exported_bundle).identity


@pytest.mark.parametrize(
    ("argv", "kind", "message"),
    [
        (("{tmp}/absent", "-o", "{tmp}/b"), "CheckpointError", "is not a checkpoint folder"),
        (("{saved}", "-o", "{saved}"), "OutputError", "holds something else than a bundle and is left alone"),
        (("{saved}", "-o", "{saved}/model.json"), "OutputError", "is a file; give a folder or a name that ends in"),
    ],
)
def test_what_cannot_be_exported_exits_1_and_says_why(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], kind: str, message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert run(*(arg.format(saved=saved, tmp=tmp_path) for arg in argv), "--json") == 1
    out, err = capsys.readouterr()
    error = only_object(out)["error"]
    assert error["type"] == kind
    assert message in error["message"]
    assert err.startswith(f"samsdk: {kind}: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_of_one_s_own_needs_a_place(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(saved) == 2
    assert "give the bundle's place with -o" in capsys.readouterr().err


def test_a_call_without_a_checkpoint_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("-o", "somewhere")
    assert stop.value.code == 2
    assert "the following arguments are required: checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(hub.MODELS))
def test_every_known_name_is_pulled_and_imported_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(hub, "pull", lambda pulled, **how: tmp_path / pulled)
    monkeypatch.setattr(importers, "import_weights", lambda path, kind: (path, kind))
    monkeypatch.setattr(
        bundle_writer, "write_bundle", lambda checkpoint, target, *, name, **how: asked.append((checkpoint, name))
    )
    assert run(name, "-o", tmp_path / "bundle") == 0
    assert asked == [((tmp_path / name, name), name)]
    assert name in importers.KINDS


def test_tiers_calibration_and_engines_are_asked_for_by_options(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TierRequest] = []
    monkeypatch.setattr(
        bundle_writer, "write_bundle", lambda checkpoint, target, *, request, **how: asked.append(request)
    )
    target = tmp_path / "bundle"
    sets = (tmp_path / "one", tmp_path / "two")
    calibrate = [word for folder in sets for word in ("--calibrate", folder)]
    assert run(saved, "-o", target) == 0
    assert run(saved, "-o", target, *calibrate, "--calibrate-images", 4) == 0
    lower = ("--tier", "fast", "--tier", "balanced", "--tier", "fast")
    assert run(saved, "-o", target, *lower, *calibrate, "--tensorrt", "sm86,sm75,") == 0
    assert asked == [
        TierRequest(),
        TierRequest((), CalibrationSets(sets, 4), ()),
        TierRequest(("fast", "balanced"), CalibrationSets(sets, 8), ("sm86", "sm75")),
    ]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (("--tier", "fast"), "CalibrationError", "tiers fast need calibration sets: folders of labelled images"),
        (("--calibrate", "x", "--calibrate", "y/x"), "CalibrationError", "need different names, got x, x"),
        (("--calibrate", "x", "--calibrate-images", 1), "CalibrationError", "needs at least 2 images, got 1"),
        (("--calibrate", "absent"), "DataError", "absent has no list.txt"),
        (("--tensorrt", "sm86,sm99"), "ExportError", "unknown targets ['sm99'], expected some of: sm75, sm80"),
    ],
)
def test_what_cannot_be_added_is_refused(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[Any, ...], kind: str, message: str
) -> None:
    assert run(saved, "-o", tmp_path / "bundle", *options, "--json") == 1
    error = only_object(capsys.readouterr().out)["error"]
    assert error["type"] == kind
    assert message in error["message"]
    assert not (tmp_path / "bundle").exists()


def test_an_unknown_tier_is_a_wrong_call(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(saved, "-o", "x", "--tier", "exact")
    assert stop.value.code == 2
    assert "invalid choice: 'exact'" in capsys.readouterr().err
