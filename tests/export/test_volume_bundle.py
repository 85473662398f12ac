import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel.testing
import numpy as np
import onnx
import pytest
import skimage.data
import skimage.io
import torch
from monai.inferers import sliding_window_inference

import samsdk
from samsdk import cli
from samsdk.backends import openvino
from samsdk.backends.tensorrt_library import is_installed, load_engine
from samsdk.bundle import Bundle
from samsdk.doctor import examine
from samsdk.errors import BackendError, BundleError
from samsdk.io.wheels import file_sha256
from samsdk.volumes import Volume
from samsdk.volumes.golden import GoldenCrop, measure_crops, read_crops, sample_logits, write_crops
from samsdk.volumes.intensity import VoxelIntensity
from samsdk_export import tier_writer
from samsdk_export.bundle_writer import write_bundle
from samsdk_export.engine_writer import REPORT
from samsdk_export.manifest_writer import file_entry
from samsdk_export.onnx_export import ExportError
from samsdk_export.tier_writer import TierRequest
from samsdk_export.volume_bundle import golden_volumes
from samsdk_training.checkpoints import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.models.auto_pro_sam_config import AutoProSamConfig
from samsdk_training.models.swin_unetr import SwinUnetrConfig
from samsdk_training.models.vit import VitConfig
from samsdk_training.models.volume import VolumeConfig, build_volume_model
from samsdk_training.torch_volume_predictor import TorchVolumePredictor

# The teacher, and the student that ships. By how much their weights are moved, and the windows of `volume()`.
AUTO_PRO_SAM = AutoProSamConfig(
    crop=(16, 16, 24),
    classes=3,
    vit=VitConfig(image_size=64, embed_dim=16, depth=4, num_heads=2, global_blocks=(), window_size=2, out_channels=8),
    window=2,
    generator_widths=(4, 6),
    decoder_width=8,
)
SWIN_UNETR = SwinUnetrConfig(crop=(32, 32, 64), classes=3, feature_size=12)
MODELS: dict[str, tuple[VolumeConfig, float, int]] = {
    "auto_pro_sam": (AUTO_PRO_SAM, 0.1, 5 * 2 * 2),
    "swin_unetr": (SWIN_UNETR, 0.02, 2),
}


@pytest.fixture(scope="module", params=MODELS)
def architecture(request: pytest.FixtureRequest) -> str:
    """Whose bundle is tested."""
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(architecture: str) -> Checkpoint:
    """A model for volumes with random weights, so that no term of it is 0 or 1."""
    config, moved, _ = MODELS[architecture]
    torch.manual_seed(9)
    model = build_volume_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * moved)
    return Checkpoint(
        model=config.to_dict(),
        geometry={
            "rule": "sliding_window",
            "crop": list(config.crop),
            "spacing": [2.0, 1.5, 1.5],
            "orientation": "RAS",
            "overlap": 0.5,
            "blending": "gaussian",
        },
        intensity={"rule": "zscore_nonzero"},
        normalisation={"rule": "none"},
        prompts={"kinds": [], "trained": [], "mask": "logits"},
        classes={"0": "background", "1": "anterior", "2": "posterior"},
        licence={"id": "CC0-1.0", "source": "random weights", "attribution": "none"},
        lineage={"recipe": "random weights", "sha256": "0" * 64},
        state=model.state_dict(),
        task="volume",
    )


@pytest.fixture(scope="module")
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that the real exporter made. Do not change it."""
    return write_bundle(checkpoint, tmp_path_factory.mktemp("bundles") / "hippocampus", name="hippocampus")


def test_a_checkpoint_comes_back_as_it_was(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(checkpoint, tmp_path / "saved")
    loaded = load_checkpoint(tmp_path / "saved")
    assert (loaded.task, loaded.geometry, loaded.model) == ("volume", checkpoint.geometry, checkpoint.model)
    given = torch.rand(1, 1, *checkpoint.volume.crop, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(loaded.build_network()(given), checkpoint.build_network()(given), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="for volumes, expected one for images"):
        loaded.build()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"classes": {"0": "background", "1": "anterior"}}, "classes: expected one for each channel, 0 to 2"),
        ({"normalisation": {"rule": "minmax"}}, "normalisation: expected the rule 'none'"),
        ({"intensity": {"rule": "uint8_or_minmax"}}, "intensity.rule is 'uint8_or_minmax'"),
        ({"prompts": {"kinds": ["box"]}}, "takes none, got box"),
        ({"geometry": {"rule": "sliding_window"}}, "geometry must have the fields"),
        ({"model": {**AUTO_PRO_SAM.to_dict(), "architecture": "unet"}}, "configuration is not valid.*architecture"),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused(checkpoint: Checkpoint, changes: dict, text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        replace(checkpoint, **changes).check()


def test_a_crop_that_is_not_the_models_is_refused(checkpoint: Checkpoint) -> None:
    crop = str(checkpoint.geometry["crop"])
    other = replace(checkpoint, geometry={**checkpoint.geometry, "crop": [16, 16, 32]})
    with pytest.raises(CheckpointError, match=re.escape(f"crop must be the model's, {crop}, got [16, 16, 32]")):
        other.check()


def test_a_checkpoint_answers_as_its_bundle_does(bundle: Path, checkpoint: Checkpoint) -> None:
    # Turned, of other voxels than the model's, and no multiple of the crop: what goes wrong between them would show.
    rng = np.random.default_rng(3)
    affine = np.array([[0, 1.1, 0, 4], [-2.2, 0, 0, 9], [0, 0, 3.0, -7], [0, 0, 0, 1.0]])
    volume = Volume(rng.normal(300, 90, (13, 31, 22)).astype(np.float32), affine)
    ours = samsdk.load(bundle, device="cpu").segment(volume)
    torchs = TorchVolumePredictor(checkpoint).segment(volume)
    assert ours.label_map.shape == torchs.label_map.shape == volume.shape
    assert len(np.unique(ours.label_map)) == 3
    assert np.mean(ours.label_map == torchs.label_map) > 0.9999
    assert ours.labels == torchs.labels


@pytest.mark.skipif(not is_installed(), reason="tensorrt-rtx is not installed")
def test_an_engine_of_the_network_is_built_for_a_gpu_that_is_not_here(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tier_writer, "available_devices", lambda: ["cpu"])
    path = write_bundle(checkpoint, tmp_path / "engines", name="hippocampus", request=TierRequest(targets=("sm86",)))
    tiers = Bundle.open(path).manifest.tiers
    (exact,) = [plan for plan in tiers["exact"] if "tensorrt" in plan.engines]
    (fast,) = [plan for plan in tiers["fast"] if "tensorrt" in plan.engines]
    assert (exact.precision, fast.precision) == ("float32", "float16")
    report = json.loads((path / REPORT).read_text())
    assert report[exact.files[0]]["graph_sha256"] == file_sha256(path / "network.onnx")
    assert report[fast.files[0]]["precisions"].get("HALF", 0) > 0
    for plan in (exact, fast):
        (file,) = plan.files
        assert file.startswith("engines/network.sm86.trtrtx")
        reasons = []
        try:
            load_engine((path / file).read_bytes())
        except BackendError as error:
            reasons.append(str(error))
        # Neither damaged nor foreign: all it may lack is a driver, or a GPU of the generation it was built for.
        assert all("no NVIDIA driver" in text or "other GPU generations" in text for text in reasons)
    # What runs here without such a GPU is the graph.
    assert samsdk.load(path, device="cpu").provider == "CPUExecutionProvider"


def test_the_manifest_says_what_it_is(bundle: Path, checkpoint: Checkpoint, architecture: str) -> None:
    # SwinUNETR normalises maps of few voxels, which are alike where nothing was measured: roundings grow.
    tolerance = 1e-4 if architecture == "auto_pro_sam" else 1e-3
    crop = " x ".join(map(str, checkpoint.volume.crop))
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    assert manifest["task"] == "volume"
    assert manifest["geometry"] == checkpoint.geometry
    assert manifest["classes"] == checkpoint.classes
    assert set(manifest["files"]) == {"network.onnx", "golden.npz", "MODEL_CARD.md"}
    assert manifest["flops"]["network"] > 1e5
    certificates = manifest["parity"]["exact"]
    assert "onnxruntime-cpu" in certificates
    assert ("openvino" in certificates) == openvino.is_installed()
    for one in certificates.values():
        assert one["passed"]
        assert one["max_logit_difference"] < tolerance
        assert one["mean_mask_iou"] > 0.999
        assert one["peak_memory_mb"] > 10
    card = (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| prompts | none: it names the class of each voxel |" in card
    assert f"| input | windows of {crop} voxels (z, y, x), spacing 2.0 x 1.5 x 1.5 mm, orientation RAS" in card


def test_the_graph_takes_any_number_of_windows(bundle: Path, checkpoint: Checkpoint) -> None:
    graph, crop = onnx.load(bundle / "network.onnx").graph, checkpoint.volume.crop
    (given,), (answer,) = graph.input, graph.output
    assert (given.name, answer.name) == ("volume", "logits")
    assert [side.dim_param or side.dim_value for side in given.type.tensor_type.shape.dim] == ["N", 1, *crop]
    windows = torch.randn(3, 1, *crop, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = checkpoint.build_network()(windows).numpy()
    predictor = samsdk.load(bundle, device="cpu")
    assert isinstance(predictor, samsdk.VolumePredictor)
    np.testing.assert_allclose(predictor.run(windows.numpy()), expected, atol=1e-4)


def volume() -> Volume:
    """An EPI of a head, stored with axes to the left, the feet and the back."""
    voxels = golden_volumes((22, 40, 30), VoxelIntensity("zscore_nonzero"))[0]
    affine = np.array([[-1.6, 0, 0, 10], [0, 0, -1.4, 20], [0, -2.1, 0, 30], [0, 0, 0, 1.0]])
    return Volume(voxels, affine)


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_a_volume_is_segmented_as_torch_and_monai_do(bundle: Path, checkpoint: Checkpoint, device: str) -> None:
    if device == "openvino" and not openvino.is_installed():
        pytest.skip("without OpenVINO")
    given, network = volume(), checkpoint.build_network()
    turned = given.array[::-1].transpose(1, 0, 2)[::-1, :, ::-1].astype(np.float32)
    signal = turned[turned != 0]
    scaled = torch.from_numpy(np.where(turned == 0, 0, (turned - signal.mean()) / signal.std()))[None, None]
    shape = (42, 21, 32)  # 40 x 2.1 / 2, 22 x 1.4 / 1.5, 30 x 1.6 / 1.5
    seen = torch.nn.functional.interpolate(scaled, size=shape, mode="trilinear")
    with torch.inference_mode():
        logits = sliding_window_inference(seen, checkpoint.volume.crop, 4, network, overlap=0.5, mode="gaussian")
    back = torch.nn.functional.interpolate(logits, size=turned.shape, mode="trilinear")
    expected = back[0].argmax(dim=0).numpy()[::-1, :, ::-1].transpose(1, 0, 2)[::-1]
    result = samsdk.load(bundle, device=device).segment(given, batch=2)
    assert isinstance(result, samsdk.VolumeResult)
    assert len(np.unique(expected)) > 1
    assert np.count_nonzero(result.label_map != expected) <= expected.size * 1e-3
    assert result.labels == {"1": "anterior", "2": "posterior"}


def test_the_command_writes_what_the_runtime_answers(bundle: Path, tmp_path: Path, capsys) -> None:
    file = Path(nibabel.testing.data_path) / "anatomical.nii"
    assert cli.main(["segment", str(file), "--model", str(bundle), "-o", str(tmp_path / "out.nii.gz"), "--json"]) == 0
    result = samsdk.load(bundle).segment(file)
    written, given = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(file)
    np.testing.assert_array_equal(np.asarray(written.dataobj).T, result.label_map)
    np.testing.assert_allclose(written.affine, given.affine)
    told = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["voxels"] for row in told["classes"]} == result.voxels
    assert sum(result.voxels.values()) > 0
    assert cli.main(["segment", str(file), "--model", str(bundle), "--slice", "3", "--json"]) == 2


@pytest.mark.parametrize("options", [(), ("--box", "10,10,50,50"), ("--point", "20,20")])
def test_a_picture_given_to_a_bundle_for_volumes(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    """Whatever it is prompted with, what is said is what to change: the bundle or the image."""
    skimage.io.imsave(tmp_path / "cell.png", skimage.data.cell())
    assert cli.main(["segment", str(tmp_path / "cell.png"), "--model", str(bundle), *options]) == 1
    said = capsys.readouterr().err
    assert "VolumeError: this bundle segments volumes, not images" in said
    assert "for images load a bundle for images" in said


def test_the_command_says_what_memory_it_will_take(
    bundle: Path, architecture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = volume()
    nibabel.save(nibabel.Nifti1Image(given.array.T, given.affine), tmp_path / "head.nii.gz")
    command = ["segment", str(tmp_path / "head.nii.gz"), "--model", str(bundle), "--device", "cpu", "--json"]
    assert cli.main(command) == 0
    out, err = capsys.readouterr()
    plan = samsdk.load(bundle, device="cpu").plan(given)
    memory = json.loads(out)["memory"]
    assert memory == {"peak_mb": round(plan.peak_bytes / 1e6, 1), "process_mb": round(plan.process_bytes / 1e6, 1)}
    stated = f"at most {memory['peak_mb']:.0f} MB of memory of {memory['process_mb']:.0f} MB that the process takes"
    assert err == f"samsdk: {MODELS[architecture][2]} windows, {stated}\n"


def test_the_plan_tells_the_memory_of_the_process(bundle: Path, architecture: str) -> None:
    predictor = samsdk.load(bundle, device="cpu")
    assert isinstance(predictor, samsdk.VolumePredictor)
    plan, measured = predictor.plan(volume()), predictor.manifest.parity["exact"]["onnxruntime-cpu"]["peak_memory_mb"]
    assert plan.process_bytes == int(measured * 1e6) + volume().array.nbytes + plan.peak_bytes
    assert plan.windows == MODELS[architecture][2]


def test_doctor_replays_the_golden_crops(bundle: Path) -> None:
    report = examine(Bundle.open(bundle), device="cpu")
    assert report["checks"][0]["passed"]
    assert report["checks"][0]["certified"]
    assert "2 golden crops, largest logit difference" in report["checks"][0]["detail"]


def test_a_network_that_computes_something_else_fails(bundle: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(bundle, tmp_path / "changed"))
    crops = read_crops(Bundle.open(bundle))
    shifted = [replace(crop, logits=crop.logits + 0.01) for crop in crops]
    relabelled = [replace(crop, labels=np.roll(crop.labels, 3)) for crop in crops]
    for others, passed in ((crops, True), (shifted, False), (relabelled, False)):
        (changed / "golden.npz").write_bytes(write_crops(others))
        manifest = json.loads((changed / "manifest.json").read_bytes())
        manifest["files"]["golden.npz"] = file_entry(changed / "golden.npz")
        (changed / "manifest.json").write_text(json.dumps(manifest))
        predictor = samsdk.load(changed, device="cpu")
        assert isinstance(predictor, samsdk.VolumePredictor)
        assert measure_crops(predictor).passed is passed
    (changed / "golden.npz").write_bytes(write_crops([]))
    manifest["files"]["golden.npz"] = file_entry(changed / "golden.npz")
    (changed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="holds no crop"):
        read_crops(Bundle.open(changed))


def test_golden_crops_are_what_torch_answers(bundle: Path, checkpoint: Checkpoint) -> None:
    crops, network = read_crops(Bundle.open(bundle)), checkpoint.build_network()
    for crop, voxels in zip(crops, golden_volumes(checkpoint.volume.crop, checkpoint.volume.intensity), strict=True):
        np.testing.assert_array_equal(crop.voxels, voxels)
        assert voxels.std() > 50  # real ones, not a constant
        with torch.inference_mode():
            logits = network(torch.from_numpy(checkpoint.volume.intensity.apply(voxels))[None, None])[0].numpy()
        np.testing.assert_allclose(crop.logits, sample_logits(logits), atol=1e-5)
        assert np.count_nonzero(crop.labels != logits.argmax(axis=0)) <= 2
    assert GoldenCrop.of(crops[0].voxels, logits).labels.dtype == np.uint16


def test_golden_volumes_are_seen_through_a_window() -> None:
    """A head's MR lies outside of what a CT model looks at: clipped, all of it would be one value."""
    window = VoxelIntensity("window_zscore", -991.0, 362.0, 50.0, 141.0)
    plain = golden_volumes((12, 20, 16), VoxelIntensity("zscore_nonzero"))
    for voxels, stretched in zip(plain, golden_volumes((12, 20, 16), window), strict=True):
        assert (stretched.min(), stretched.max()) == (-991, 362)
        assert window.apply(stretched).std() > 0.5
        assert np.corrcoef(voxels.ravel(), stretched.ravel())[0, 1] > 0.999


def test_lower_tiers_are_refused_before_anything_is_done(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from samsdk_export.calibration import CalibrationSets

    request = TierRequest(("balanced",), CalibrationSets((tmp_path,)))
    with pytest.raises(ExportError, match="full precision"):
        write_bundle(checkpoint, tmp_path / "bundle", name="x", request=request)
    assert not (tmp_path / "bundle").exists()
