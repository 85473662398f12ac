import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

import samsdk
from samsdk import BundleError
from samsdk.backends import openvino
from samsdk.errors import OutputError
from samsdk_export import bundle_writer
from samsdk_export.bundle_writer import write_bundle
from samsdk_export.onnx_export import OPSET
from samsdk_export.parity import ParityError
from samsdk_export.tier_writer import certified_devices
from samsdk_training.checkpoints import Checkpoint, save_checkpoint

# What an export says before it proves the bundle on each backend for CPUs.
CHECKS = [f"checking parity of tier exact on {device} in a fresh process" for device in certified_devices()]


@pytest.fixture
def quick(exported_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the graphs from the bundle that was exported already: tracing them is ten of an export's eleven seconds."""
    for part in ("encoder", "decoder"):
        content = (exported_bundle / f"{part}.onnx").read_bytes()
        monkeypatch.setattr(bundle_writer, f"export_{part}", lambda model, rewrites, content=content: content)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_is_the_checkpoints(exported_bundle: Path, tiny_checkpoint: Checkpoint) -> None:
    manifest = json.loads((exported_bundle / "manifest.json").read_bytes())
    for section in ("geometry", "intensity", "normalisation", "prompts", "classes", "licence"):
        assert manifest[section] == getattr(tiny_checkpoint, section)
    exporter = manifest["lineage"].pop("exporter")
    assert manifest["lineage"] == tiny_checkpoint.lineage
    versions = {"samsdk": samsdk.__version__, "torch": torch.__version__, "onnx": onnx.__version__, "opset": OPSET}
    assert exporter == versions
    assert (manifest["format"], manifest["name"], manifest["version"], manifest["task"]) == (
        1,
        "tiny",
        "1",
        "promptable",
    )
    assert manifest["embedding"] == {"image_embeddings": [32, 16, 16]}
    assert manifest["outputs"] == {"mask_side": 64, "mask_threshold": 0.0, "multimask_outputs": 3}
    full = {part: {"file": f"{part}.onnx", "precision": "float32"} for part in ("encoder", "decoder")}
    assert manifest["tiers"] == {"exact": [{"engines": ["onnxruntime", "openvino"], **full}]}
    assert list(manifest["parity"]) == ["exact"]
    certified = {backend: one["passed"] for backend, one in manifest["parity"]["exact"].items()}
    assert certified == dict.fromkeys(("onnxruntime-cpu", *(["openvino"] if openvino.is_installed() else [])), True)


def test_the_manifest_lists_every_file_with_its_hash(exported_bundle: Path) -> None:
    files = contents(exported_bundle)
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["files"] == {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in files.items()
    }
    assert set(files) == {"MODEL_CARD.md", "decoder.onnx", "encoder.onnx", "golden.npz"}
    assert [path.name for path in exported_bundle.parent.iterdir()] == ["tiny"]


def test_the_model_card_says_what_it_is(exported_bundle: Path) -> None:
    card = (exported_bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.startswith("# tiny\n")
    assert "not a medical device" in card
    assert "| licence | CC0-1.0 |" in card
    assert f"| sha256 of the weights it was made from | {'0' * 64} |" in card


@pytest.mark.usefixtures("quick")
def test_a_zip_bundle_loads_and_two_of_them_are_identical(
    tiny_checkpoint: Checkpoint, exported_bundle: Path, tissue: NDArray[np.uint8], tmp_path: Path
) -> None:
    lines: list[str] = []
    first = write_bundle(tiny_checkpoint, tmp_path / "new" / "a.samsdk", name="tiny", progress=lines.append)
    assert first == tmp_path / "new" / "a.samsdk"
    assert lines == [
        "building the model",
        "exporting the encoder",
        "exporting the decoder",
        "asking the torch model the golden prompts",
        *CHECKS,
        "moving the bundle into place",
    ]
    with zipfile.ZipFile(first) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o644}
        assert {name: archive.read(name) for name in archive.namelist()} == contents(exported_bundle)
    one, two = (
        samsdk.load(path, device="cpu").segment(tissue, box=(9, 9, 300, 200)) for path in (first, exported_bundle)
    )
    np.testing.assert_array_equal(one.low_res_logits, two.low_res_logits)
    # A second export replaces the first, and is the same to the byte although it is later.
    before = first.read_bytes()
    os.utime(first, (0, 0))
    write_bundle(tiny_checkpoint, first, name="tiny")
    assert first.read_bytes() == before
    assert first.stat().st_mtime > 0
    assert [path.name for path in first.parent.iterdir()] == ["a.samsdk"]


@pytest.mark.usefixtures("quick")
def test_an_earlier_bundle_is_replaced(
    tiny_checkpoint: Checkpoint, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tiny_checkpoint, tiny_bundle, name="second", bundle_version="2")
    manifest = samsdk.Bundle.open(tiny_bundle).manifest
    assert (manifest.name, manifest.version) == ("second", "2")
    # The folder that one stands in has no name of its own.
    monkeypatch.chdir(tiny_bundle)
    assert write_bundle(tiny_checkpoint, ".", name="third") == tiny_bundle
    assert samsdk.Bundle.open(tiny_bundle).manifest.name == "third"
    assert [path.name for path in tiny_bundle.parent.iterdir()] == ["tiny"]


def web_extension(folder: Path) -> Path:
    (folder / "src").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"manifest_version": 3, "name": "an extension of a browser"}')
    (folder / "src" / "main.js").write_text("work of weeks")
    return folder


def bundle_with_notes(folder: Path, bundle: Path) -> Path:
    folder.mkdir()
    for name, content in contents(bundle).items():
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("mine")
    return folder


def make_file(path: Path, content: bytes = b"mine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def other_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mine.txt", "mine")
    return path


REFUSED: list[tuple[str, Callable[[Path, Path], Path], str]] = [
    (
        "a full folder",
        lambda tmp, _: make_file(tmp / "full" / "a.txt").parent,
        "holds something else than a bundle and",
    ),
    ("another manifest.json", lambda tmp, _: web_extension(tmp / "web"), "holds something else than a bundle"),
    (
        "a bundle with more",
        lambda tmp, good: bundle_with_notes(tmp / "mine", good),
        "holds something else than a bundle",
    ),
    ("a file", lambda tmp, _: make_file(tmp / "file"), "is a file; give a folder or a name that ends in .samsdk"),
    (
        "a file named so",
        lambda tmp, _: make_file(tmp / "a.samsdk"),
        "is something else than a bundle and is left alone",
    ),
    ("another zip", lambda tmp, _: other_zip(tmp / "a.samsdk"), "is something else than a bundle and is left alone"),
    (
        "a folder named so",
        lambda tmp, _: make_file(tmp / "b.samsdk" / "x").parent,
        r"is a folder; a \*.samsdk bundle is",
    ),
    ("below a file", lambda tmp, _: make_file(tmp / "file") / "bundle", "cannot write .*file/bundle"),
]


@pytest.mark.parametrize(("make", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_no_bundle_is_left_alone(
    tiny_checkpoint: Checkpoint,
    exported_bundle: Path,
    tmp_path: Path,
    make: Callable[[Path, Path], Path],
    message: str,
) -> None:
    target = make(tmp_path, exported_bundle)
    before = contents(tmp_path)
    lines: list[str] = []
    with pytest.raises(OutputError, match=message):
        write_bundle(tiny_checkpoint, target, name="tiny", progress=lines.append)
    assert contents(tmp_path) == before
    # Before the work, not after it.
    assert lines == []


def wrong_answers(original: Callable[..., Any], *args: Any) -> tuple[Any, list[Any]]:
    embeddings, cases = original(*args)
    return embeddings, [replace(case, low_res_masks=case.low_res_masks + 1e-2) for case in cases]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["bundle", "bundle.samsdk"])
def test_a_failed_parity_check_leaves_no_bundle_and_no_staging(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original = bundle_writer.golden_answers
    monkeypatch.setattr(bundle_writer, "golden_answers", lambda *args: wrong_answers(original, *args))
    with pytest.raises(
        ParityError, match=r"tier 'exact' on cpu does not compute what the checkpoint computes: .*passed.: false"
    ):
        write_bundle(tiny_checkpoint, tmp_path / name, name="tiny")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_failed_export_leaves_the_earlier_bundle(
    tiny_checkpoint: Checkpoint, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(tiny_bundle)
    original = bundle_writer.golden_answers
    monkeypatch.setattr(bundle_writer, "golden_answers", lambda *args: wrong_answers(original, *args))
    with pytest.raises(ParityError):
        write_bundle(tiny_checkpoint, tiny_bundle, name="second")
    monkeypatch.setattr(bundle_writer, "golden_answers", original)
    # And when the last step, the renaming, is refused by the system.
    rename = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*Permission denied"):
        write_bundle(tiny_checkpoint, tiny_bundle, name="second")
    assert contents(tiny_bundle) == before
    assert [path.name for path in tiny_bundle.parent.iterdir()] == ["tiny"]


# The graphs come from an earlier bundle, so that a run takes seconds; everything else is the real export. After the
# line that it is to be killed at, it waits, so that the kill always comes there; only "moving" is killed in mid-work.
KILLED = """
    import sys, time
    from samsdk_export import bundle_writer
    from samsdk_training.checkpoints import load_checkpoint
    checkpoint, source, target, moment = sys.argv[1:]
    for part in ("encoder", "decoder"):
        content = open(f"{source}/{part}.onnx", "rb").read()
        setattr(bundle_writer, f"export_{part}", lambda model, rewrites, content=content: content)
    def progress(line):
        print(line, file=sys.stderr, flush=True)
        if moment in line and moment != "moving":
            time.sleep(60)
    bundle_writer.write_bundle(load_checkpoint(checkpoint), target, name="second", progress=progress)
"""


@pytest.fixture(scope="module")
def saved(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(tiny_checkpoint, folder)
    return folder


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("moment", ["exporting the decoder", "checking parity", "moving"])
def test_a_killed_export_leaves_nothing_that_loads_and_the_earlier_bundle_whole(
    saved: Path, exported_bundle: Path, tmp_path: Path, moment: str, form: str
) -> None:
    absent = form == "folder"
    target = tmp_path / ("bundle" if absent else "bundle.samsdk")
    if not absent:
        with zipfile.ZipFile(target, "w") as archive:
            for name, content in contents(exported_bundle).items():
                archive.writestr(name, content)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(saved), str(exported_bundle), str(target), moment]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        reached = False
        for line in process.stderr:
            if moment in line:
                reached = True
                process.send_signal(signal.SIGKILL)
    assert reached
    if moment == "moving":
        # The kill may come before or after the renaming; what is there is whole either way.
        if absent and not target.exists():
            return
        assert samsdk.load(target, device="cpu").manifest.name in ({"second"} if absent else {"second", "tiny"})
    elif absent:
        assert not target.exists()
        with pytest.raises(BundleError, match="no bundle at"):
            samsdk.load(target)
    else:
        assert samsdk.load(target, device="cpu").manifest.name == "tiny"
    # What a kill may leave has a hidden name; before the certificate it does not load either.
    left = [path for path in tmp_path.iterdir() if path not in (target, scratch)]
    assert all(path.name.startswith(".") for path in left)
    if moment != "moving":
        assert len(left) == 1
        for path in (*left, *scratch.iterdir()):
            with pytest.raises(BundleError):
                samsdk.load(path)
