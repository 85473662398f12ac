import json
from collections.abc import Callable
from typing import Any

import pytest

import samsdk
from samsdk.bench import run_bench
from samsdk.cli import main
from samsdk.errors import BundleError, VolumeError
from samsdk.manifest import Manifest
from samsdk.manifest_reader import read_manifest
from samsdk.tiers import Graph
from samsdk.volumes.intensity import VoxelIntensity
from samsdk.volumes.preprocessing import VolumePreprocessing

CT = {"rule": "window_zscore", "lowest": -991.0, "highest": 362.0, "mean": 50.0, "std": 141.0}


@pytest.fixture
def data(make_predictor: Callable[..., samsdk.VolumePredictor]) -> dict[str, Any]:
    predictor = make_predictor(CT, spacing=[2.0, 1.0, 1.0], orientation="RAS", overlap=0.25, blending="constant")
    return dict(json.loads(predictor.bundle.read_manifest_text()))


def read(data: dict[str, Any]) -> Manifest:
    return read_manifest(json.dumps(data).encode())


def test_every_field_is_read(data: dict[str, Any]) -> None:
    manifest = read(data)
    expected = VolumePreprocessing(
        (16, 12, 20), VoxelIntensity(**CT), (2.0, 1.0, 1.0), "RAS", overlap=0.25, blending="constant"
    )
    assert manifest.task == "volume"
    assert manifest.volume == expected
    assert manifest.volume is not None
    assert manifest.volume.geometry() == data["geometry"]
    assert manifest.volume.intensity.to_dict() == data["intensity"]
    assert manifest.classes == {"0": "background", "1": "kidney", "2": "tumour"}
    assert (manifest.prompt_kinds, manifest.embedding, manifest.mask_side) == ((), {}, 0)
    plan = manifest.plan("exact", "openvino")
    assert plan.graphs == (Graph("network.onnx", "float32"),)
    assert plan.parts == {"network": Graph("network.onnx", "float32")}
    assert plan.precision == "float32"


def test_images_are_refused_by_its_preprocessing(data: dict[str, Any]) -> None:
    with pytest.raises(VolumeError, match="segments volumes, not images"):
        read(data).preprocessing.apply_image(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("geometry", {"rule": "longest_pad_br", "input_size": 64}, "geometry must have the fields blending, crop"),
        ("geometry.rule", "resize_square", "expected 'sliding_window' of a volume bundle"),
        ("geometry.crop", [16, 12], "geometry.crop must be three sides"),
        ("geometry.crop", [16, 12, 0], "geometry.crop must be three sides"),
        ("geometry.crop", [16, 12, 2000], "geometry.crop must be three sides"),
        ("geometry.crop", [16, 12.5, 20], "geometry.crop must be three sides"),
        ("geometry.crop", "16", "geometry.crop and spacing must be lists"),
        ("geometry.spacing", [1, 1, 0], "geometry.spacing must be null or three positive lengths"),
        ("geometry.spacing", [1, 1, True], "geometry.spacing must be null or three positive lengths"),
        ("geometry.orientation", "LPS", "geometry.orientation must be null or 'RAS'"),
        ("geometry.overlap", 1, "geometry.overlap must be 0 to below 1"),
        ("geometry.overlap", float("nan"), "geometry.overlap must be 0 to below 1"),
        ("geometry.blending", "cosine", "geometry.blending is 'cosine', expected: gaussian, constant"),
        ("intensity", {"rule": "uint8_or_minmax"}, "intensity.rule is 'uint8_or_minmax'"),
        ("normalisation.rule", "minmax", "normalisation.rule is 'minmax', expected: none"),
        ("prompts.kinds", ["box"], "names box, but a volume bundle takes no prompt"),
        ("classes", {}, "classes must be numbered from 0"),
        ("classes", {"0": "background", "2": "kidney"}, "classes must be numbered from 0"),
        ("tiers", {"exact": [{"engines": ["openvino"]}]}, "tiers.exact.0.network is missing"),
    ],
)
def test_what_is_wrong_is_named(data: dict[str, Any], path: str, value: object, message: str) -> None:
    *above, last = path.split(".")
    place = data
    for key in above:
        place = place[key]
    place[last] = value
    with pytest.raises(BundleError, match=message):
        read(data)


def test_info_tells_of_windows(
    make_predictor: Callable[..., samsdk.VolumePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = make_predictor(spacing=[2.0, 1.0, 1.0])
    assert main(["info", str(predictor.bundle.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "windows [16, 12, 20] voxels (z, y, x)  spacing [2.0, 1.0, 1.0] mm  overlap 0.5" in lines
    assert "classes: 0 background, 1 kidney, 2 tumour" in lines


def test_bench_says_that_it_times_images(make_predictor: Callable[..., samsdk.VolumePredictor]) -> None:
    with pytest.raises(BundleError, match=r"segments volumes.*plan and timings"):
        run_bench(make_predictor().bundle)
