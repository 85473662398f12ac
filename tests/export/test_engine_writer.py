"""Bundles with TensorRT-RTX engines, built for GPUs that are not here."""

import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk import Bundle, BundleError, MissingExtraError, Predictor, SamsdkError
from samsdk.backends.tensorrt_library import is_installed, load_engine
from samsdk_export import bundle_writer, tier_writer
from samsdk_export.bundle_writer import write_bundle
from samsdk_export.engine_writer import REPORT
from samsdk_export.tier_writer import TierRequest
from samsdk_training.checkpoints import Checkpoint

needs_tensorrt = pytest.mark.skipif(not is_installed(), reason="tensorrt-rtx is not installed")


@pytest.fixture(scope="module")
def quick(exported_bundle: Path) -> Iterator[None]:
    """Graphs of the bundle that was exported already, proved on ONNX Runtime alone."""
    with pytest.MonkeyPatch.context() as patch:
        for part in ("encoder", "decoder"):
            content = (exported_bundle / f"{part}.onnx").read_bytes()
            patch.setattr(bundle_writer, f"export_{part}", lambda model, rewrites, content=content: content)
        patch.setattr(tier_writer, "available_devices", lambda: ["cpu"])
        yield


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def path(tiny_checkpoint: Checkpoint, quick: None, said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("engines") / "tiny"
    return write_bundle(
        tiny_checkpoint, target, name="tiny", request=TierRequest(targets=("sm86",)), progress=said.append
    )


@needs_tensorrt
def test_the_engines_are_plans_of_exact_and_fast(path: Path, said: list[str]) -> None:
    tiers = Bundle.open(path).manifest.tiers
    assert list(tiers) == ["exact", "fast"]
    graphs, exact = tiers["exact"]
    (fast,) = tiers["fast"]
    assert graphs.engines == ("onnxruntime", "openvino")
    for plan, precision in ((exact, "float32"), (fast, "float16")):
        assert (plan.engines, plan.targets, plan.precision) == (("tensorrt",), ("sm86",), precision)
        assert plan.encoder.file.startswith("engines/encoder.sm86.trtrtx")
        assert plan.decoder.file.startswith("engines/decoder.sm86.trtrtx")
        assert all(file.endswith(f".{precision}.engine") for file in plan.files)
    assert [line for line in said if "engine" in line] == [
        f"building the {precision} engine of the {part} for sm86"
        for precision in ("float32", "float16")
        for part in ("encoder", "decoder")
    ]


@needs_tensorrt
def test_every_file_is_listed_with_its_hash_and_is_an_engine(path: Path) -> None:
    bundle = Bundle.open(path)
    on_disk = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    del on_disk["manifest.json"]
    assert bundle.manifest.files == {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in on_disk.items()
    }
    engines = [name for name in on_disk if name.endswith(".engine")]
    assert len(engines) == 4
    report = json.loads(on_disk[REPORT])
    assert set(report) == set(engines)
    for name in engines:
        # As TensorRT-RTX's engines begin.
        assert on_disk[name][:4] == b"vtrt"
        assert (report[name]["targets"], report[name]["size"]) == (["sm86"], len(on_disk[name]))
        half = report[name]["precisions"].get("HALF", 0)
        assert (half > 0) == ("float16" in name)
        assert report[name]["seconds"] > 0
    for part in ("encoder", "decoder"):
        (full,) = (name for name in engines if f"{part}." in name and "float32" in name)
        assert report[full]["graph_sha256"] == hashlib.sha256(on_disk[f"{part}.onnx"]).hexdigest()


def refusal(content: bytes) -> str:
    """Why this machine cannot run an engine; nothing where it can."""
    try:
        load_engine(content)
    except SamsdkError as error:
        return str(error)
    return ""


@needs_tensorrt
def test_an_engine_gets_as_far_as_the_gpu(path: Path) -> None:
    bundle = Bundle.open(path)
    for file in bundle.manifest.plan("exact", "tensorrt", "sm86").files:
        content = bundle.read(file)
        # Neither damaged nor foreign: all it may lack is a driver, or a GPU of the generation it was built for.
        reason = refusal(content)
        assert not reason or "no NVIDIA driver" in reason or "other GPU generations" in reason
        assert "cut short" in refusal(content[: len(content) // 2])


@needs_tensorrt
def test_on_a_processor_the_bundle_works_as_without_engines(
    path: Path, predictor: Predictor, tissue: NDArray[np.uint8]
) -> None:
    mine = samsdk.load(path, device="cpu")
    assert mine.engines.plan.files == ("encoder.onnx", "decoder.onnx")
    one, two = (either.segment(tissue, box=(120, 100, 300, 260)).low_res_logits for either in (mine, predictor))
    np.testing.assert_array_equal(one, two)
    with pytest.raises(
        BundleError, match="tier 'fast' of bundle 'tiny' has no plan for onnxruntime-cpu; it has: tenso"
    ):
        samsdk.load(path, device="cpu", tier="fast")


@needs_tensorrt
def test_engines_are_not_certified_by_the_exporting_machine(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(Bundle.open(path).manifest.parity) == ["exact"]
    assert list(Bundle.open(path).manifest.parity["exact"]) == ["onnxruntime-cpu"]
    # As on a machine with such a GPU.
    monkeypatch.setattr("samsdk.engines.backend_name", lambda device: "tensorrt")
    monkeypatch.setattr("samsdk.engines.gpu_target", lambda device: "sm86")
    for tier in ("exact", "fast"):
        with pytest.raises(
            BundleError, match=f"tier '{tier}' .* no valid parity certificate for tensorrt: there is none"
        ):
            samsdk.load(path, device="tensorrt", tier=tier)
    monkeypatch.setattr("samsdk.engines.gpu_target", lambda device: "sm89")
    with pytest.raises(
        BundleError, match="has no plan for tensorrt on sm89; it has: onnxruntime openvino, tensorrt sm86"
    ):
        samsdk.load(path, device="tensorrt")


@needs_tensorrt
def test_a_packed_bundle_holds_the_engines_in_their_folder(path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "tiny.samsdk"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            archive.write(file, file.relative_to(path).as_posix())
    bundle = Bundle.open(packed)
    assert bundle.identity == Bundle.open(path).identity
    plan = bundle.manifest.plan("fast", "tensorrt", "sm86")
    assert bundle.read(plan.encoder.file) == (path / plan.encoder.file).read_bytes()
    assert samsdk.load(packed, device="cpu").provider == "CPUExecutionProvider"


@needs_tensorrt
def test_a_changed_engine_is_refused(path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "tiny.samsdk"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            content = file.read_bytes()
            changed = content[:-1] + bytes([content[-1] ^ 1]) if file.suffix == ".engine" else content
            archive.writestr(file.relative_to(path).as_posix(), changed)
    with pytest.raises(BundleError, match=r"engines/.*.engine in .* was changed: expected sha256"):
        Bundle.open(packed)


@needs_tensorrt
@pytest.mark.usefixtures("quick")
def test_a_bundle_with_engines_is_replaced_as_any_other(
    path: Path, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    target = tmp_path / "tiny"
    for file in (file for file in path.rglob("*") if file.is_file()):
        (target / file.relative_to(path)).parent.mkdir(parents=True, exist_ok=True)
        (target / file.relative_to(path)).write_bytes(file.read_bytes())
    write_bundle(tiny_checkpoint, target, name="second")
    assert Bundle.open(target).manifest.name == "second"
    assert not (target / "engines").exists()


def test_without_tensorrt_rtx_the_command_is_named_before_the_work(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    lines: list[str] = []
    request = TierRequest(targets=("sm86",))
    with pytest.raises(
        MissingExtraError, match=r"building engines needs tensorrt-rtx .*: pip install 'samsdk\[tensorrt\]'"
    ):
        write_bundle(tiny_checkpoint, tmp_path / "tiny", name="tiny", request=request, progress=lines.append)
    assert lines == []
    assert not (tmp_path / "tiny").exists()
