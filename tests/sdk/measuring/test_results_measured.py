"""Measuring what a predictor found, from Python and from the command line."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO

import samsdk
from samsdk import Predictor, Prompt, PromptError, Scan, cli
from samsdk.measuring import measure
from samsdk.measuring.perturbation import perturbed

CELL = (355, 300, 490, 440)


def test_a_result_is_measured_in_the_scans_millimetres(predictor: Predictor, cell: NDArray[np.uint8]) -> None:
    result = predictor.segment(Scan(cell, spacing=(0.5, 0.25)), box=CELL, zoom=False)
    measured = result.measure()
    assert measured == measure(result.mask, (0.5, 0.25))
    assert measured.mm is not None
    assert measured.mm.area == pytest.approx(result.area * 0.125)
    assert measured.stability is None
    assert predictor.segment(cell, box=CELL, zoom=False).measure().mm is None


@pytest.mark.parametrize("zoom", [False, True])
def test_moved_prompts_give_ranges(predictor: Predictor, cell: NDArray[np.uint8], zoom: bool) -> None:
    plain = predictor.segment(cell, box=CELL, zoom=zoom)
    result = predictor.segment(cell, box=CELL, zoom=zoom, variations=6)
    np.testing.assert_array_equal(result.mask, plain.mask)
    window = result.frame.window
    x, y = window[:2]
    moved = perturbed(Prompt(box=CELL), plain.region, window, np.random.default_rng(0), count=6)
    embedding = predictor.encode(cell, window=window if zoom else None)
    expected = [one.area for one in predictor.decode_batch(embedding, moved)]
    assert (x, y) != (0, 0) or not zoom
    assert [one.area for one in result.variations] == expected
    measured = result.measure()
    assert measured.stability is not None
    low, high = measured.stability.ranges["area_px2"]
    # Percentiles of the mask and its variations together.
    assert (low, high) == pytest.approx(tuple(np.percentile([plain.area, *expected], [5, 95])))
    assert predictor.segment(cell, box=CELL, zoom=zoom, variations=6).measure() == measured


def test_a_class_is_measured(semantic_bundle: Path, cell: NDArray[np.uint8]) -> None:
    result = samsdk.segment(Scan(cell, spacing=(2.0, 2.0)), model=semantic_bundle, device="cpu")
    assert result.measure(1).px.area == np.count_nonzero(result.label_map == 1)
    assert result.measure().px.area == np.count_nonzero(result.label_map)
    assert result.measure().mm.area == 4 * result.measure().px.area


def test_variations_are_of_prompts(exported_bundle: Path, auto_bundle: Path, cell: NDArray[np.uint8]) -> None:
    assert samsdk.segment(cell, model=auto_bundle, device="cpu", variations=3).variations == ()
    assert len(samsdk.segment(cell, box=CELL, model=exported_bundle, device="cpu", variations=3).variations) == 3
    with pytest.raises(PromptError, match="variations"):
        samsdk.load(exported_bundle, device="cpu").segment(cell, box=CELL, variations=-1)


def test_the_command_prints_and_saves(
    exported_bundle: Path, cell: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "cell.png"), cell)
    words = ["segment", str(tmp_path / "cell.png"), "--box", "355,300,490,440", "--model", str(exported_bundle)]
    words += ["--device", "cpu", "--measure"]
    assert cli.main([*words, "--json", "-o", str(tmp_path / "cell.coco.json")]) == 0
    answer = json.loads(capsys.readouterr().out)
    result = samsdk.segment(cell, box=CELL, model=exported_bundle, device="cpu", variations=8)
    assert answer["measurement"] == json.loads(json.dumps(result.measure().to_dict()))
    coco = COCO(tmp_path / "cell.coco.json")
    (annotation,) = coco.loadAnns(coco.getAnnIds())
    np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), result.mask)
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"area {result.area:.1f} px2  (") for line in lines)
    assert any(line.startswith("agreement of 8 moved prompts ") for line in lines)
