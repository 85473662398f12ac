"""What a bundle's tables make of its scores, through a bundle on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk.bundle import Bundle
from samsdk.bundle_staging import write_changed
from samsdk.errors import BundleError, OutputError
from samsdk.measuring import Calibration

BOX, POINTS = (120, 100, 300, 260), [(200, 180)]
TABLES = {"box": Calibration((0.0, 2.0), (0.7, 0.8), 3), "points": Calibration((0.5,), (0.3,), 4)}
Write = Callable[..., Path]


@pytest.fixture
def write(exported_bundle: Path, tmp_path: Path) -> Write:
    def write(name: str = "calibrated", **tables: Calibration) -> Path:
        bundle = Bundle.open(exported_bundle)
        manifest = json.loads(bundle.read_manifest_text())
        calibration = {kind: table.to_dict() for kind, table in tables.items()}
        return write_changed(bundle, tmp_path / name, {**manifest, "calibration": calibration})

    return write


def test_each_kind_of_prompt_has_its_own_table(
    write: Write, predictor: samsdk.Predictor, tissue: NDArray[np.uint8]
) -> None:
    calibrated = samsdk.load(write(**TABLES), device="cpu")
    embedding = calibrated.encode(tissue)
    plain = predictor.decode(predictor.encode(tissue), box=BOX)
    box, points, both, mask = calibrated.decode_batch(
        embedding,
        [
            samsdk.Prompt(box=BOX),
            samsdk.Prompt(points=POINTS),
            samsdk.Prompt(points=POINTS, box=BOX),
            samsdk.Prompt(mask=plain),
        ],
    )
    assert box.confidence == pytest.approx(0.7 + 0.05 * np.clip(box.score, 0, 2))
    assert points.confidence == 0.3
    # With a box, it decides; nothing is known of masks alone.
    assert both.confidence == pytest.approx(0.7 + 0.05 * np.clip(both.score, 0, 2))
    assert mask.confidence == np.clip(mask.score, 0, 1)
    # Nothing else of an answer changes.
    assert (box.score, box.rle()) == (plain.score, plain.rle())
    assert plain.confidence == np.clip(plain.score, 0, 1) != box.confidence


def test_a_kind_without_a_table_keeps_its_scores(write: Write, tissue: NDArray[np.uint8]) -> None:
    calibrated = samsdk.load(write(points=TABLES["points"]), device="cpu")
    assert calibrated.segment(tissue, points=POINTS, zoom=True, variations=2).confidence == 0.3
    result = calibrated.segment(tissue, box=BOX)
    assert result.confidence == np.clip(result.score, 0, 1)


@pytest.mark.parametrize("name", ["calibrated", "calibrated.samsdk"])
def test_files_and_certificates_stay_what_they_are(write: Write, exported_bundle: Path, name: str) -> None:
    before, after = Bundle.open(exported_bundle), Bundle.open(write(name, **TABLES))
    assert after.manifest.calibration == TABLES
    assert after.identity == before.identity
    assert {file: after.read(file) for file in after.manifest.files} == {
        file: before.read(file) for file in before.manifest.files
    }
    # The runtime asks for the certificate when it loads.
    engines = samsdk.load(after.path, device="cpu").engines
    assert engines.certificate == before.manifest.parity["exact"]["onnxruntime-cpu"]


def test_a_bundle_may_be_written_over_itself(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_bundle)
    bundle = Bundle.open(tiny_bundle)
    manifest = json.loads(bundle.read_manifest_text())
    files = sorted(tiny_bundle.iterdir())
    changed = {**manifest, "calibration": {"box": TABLES["box"].to_dict()}}
    assert write_changed(bundle, ".", changed) == tiny_bundle
    assert Bundle.open(tiny_bundle).manifest.calibration == {"box": TABLES["box"]}
    assert sorted(tiny_bundle.iterdir()) == files
    assert [path.name for path in tiny_bundle.parent.iterdir()] == [tiny_bundle.name]


@pytest.mark.parametrize("calibration", [{"box": {}}, {"text": TABLES["box"].to_dict()}, 3])
def test_a_manifest_that_is_not_valid_never_takes_the_place_of_a_bundle(tiny_bundle: Path, calibration: Any) -> None:
    bundle = Bundle.open(tiny_bundle)
    text = bundle.read_manifest_text()
    with pytest.raises(BundleError, match="calibration"):
        write_changed(bundle, tiny_bundle, {**json.loads(text), "calibration": calibration})
    assert Bundle.open(tiny_bundle).read_manifest_text() == text
    assert [path.name for path in tiny_bundle.parent.iterdir()] == [tiny_bundle.name]


def test_what_is_no_bundle_is_left_alone(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep me")
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(OutputError, match="holds something else than a bundle"):
        write_changed(bundle, tmp_path / "mine", json.loads(bundle.read_manifest_text()))
    assert (tmp_path / "mine" / "note.txt").read_text() == "keep me"
