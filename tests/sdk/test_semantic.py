"""Label maps against torch's interpolation, results of semantic bundles, and what such bundles take."""

import json
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco

import samsdk
from samsdk import PromptError, SemanticResult, cli
from samsdk.golden import measure_parity, read_golden
from samsdk.masks import upsample_labels, upsample_logits
from samsdk.results import OVERLAY_COLOUR
from samsdk.semantic import PALETTE, name_pixels
from samsdk.transforms import Frame, Preprocessing

# pycocotools' own arrays lack an argument that numpy 2 asks for.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

CLASSES = {"0": "background", "1": "liver", "2": "spleen", "3": "kidney"}
FOREGROUND = {"1": "liver", "2": "spleen", "3": "kidney"}


def blobs(classes: int, side: int, seed: int) -> NDArray[np.float32]:
    """Smooth random logits, of the background a little higher, so that each class is somewhere and somewhere none."""
    noise = np.random.default_rng(seed).normal(size=(classes, side, side)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(one, (0, 0), side / 12) for one in noise])
    smooth *= 3 / smooth.std()
    smooth[0] += 2
    return smooth


def torch_logits(logits: NDArray[np.float32], frame: Frame) -> NDArray[np.float64]:
    """Padding cut off, then bilinear to the image's size; for frames that fill a whole number of cells."""
    height, width = (side * logits.shape[1] / frame.input_size for side in frame.resized_size)
    assert (height, width) == (int(height), int(width))
    crop = torch.from_numpy(logits[None, :, : int(height), : int(width)]).double()
    size = frame.window_size
    return torch.nn.functional.interpolate(crop, size, mode="bilinear", align_corners=False)[0].numpy()


@pytest.mark.parametrize(
    ("rule", "size", "side"),
    [
        ("resize_square", (128, 128), 32),
        ("resize_square", (300, 171), 32),
        ("resize_square", (40, 25), 64),
        ("longest_pad_br", (256, 192), 32),
        ("longest_pad_br", (90, 180), 64),
    ],
)
def test_a_label_map_is_the_argmax_of_torchs_interpolation(rule: str, size: tuple[int, int], side: int) -> None:
    frame = Preprocessing(128, rule=rule).frame(size)
    for seed in range(3):
        logits = blobs(5, side, seed)
        expected = torch_logits(logits, frame)
        labels = upsample_labels(logits, frame)
        assert (labels.shape, labels.dtype) == (size, np.uint8)
        ordered = np.sort(expected, axis=0)
        clear = ordered[-1] - ordered[-2] > 1e-4
        assert clear.mean() > 0.999
        np.testing.assert_array_equal(labels[clear], expected.argmax(axis=0)[clear])
        assert len(np.unique(labels)) == 5


def test_a_class_between_two_others_wins_where_it_is_nowhere_the_largest_in_a_cell() -> None:
    # Cell by cell the answer is 1, 2; half-way between them both have 0, and 3 has 4.
    logits = np.full((4, 2, 2), -9, np.float32)
    logits[1], logits[2], logits[3] = [[5, -5]] * 2, [[-5, 5]] * 2, 4
    frame = Preprocessing(2, rule="resize_square").frame((1, 64))
    labels = upsample_labels(logits, frame)
    assert labels[0, 0] == 1
    assert labels[0, -1] == 2
    assert set(labels[0, 28:36]) == {3}
    np.testing.assert_array_equal(labels, torch_logits(logits, frame).argmax(axis=0))


def test_of_equal_classes_the_lower_number_wins() -> None:
    frame = Preprocessing(8, rule="resize_square").frame((20, 30))
    assert not upsample_labels(np.zeros((4, 8, 8), np.float32), frame).any()
    logits = np.zeros((4, 8, 8), np.float32)
    logits[2:] = 1
    assert (upsample_labels(logits, frame) == 2).all()


def test_only_the_window_holds_classes() -> None:
    frame = Preprocessing(32, rule="resize_square").frame((60, 80), (10, 5, 74, 37))
    logits = blobs(4, 32, 1)
    labels = upsample_labels(logits, frame)
    inside = np.zeros((60, 80), bool)
    inside[5:37, 10:74] = True
    assert not labels[~inside].any()
    np.testing.assert_array_equal(labels[5:37, 10:74], upsample_logits(logits, frame).argmax(axis=0))


@pytest.fixture
def result() -> SemanticResult:
    """No kidney, so that one class is empty."""
    logits = blobs(4, 32, 3)
    logits[3] = -99
    timings = {"preprocess": 1.0, "encode": 2.0, "decode": 3.0}
    frame = Preprocessing(128, rule="resize_square").frame((70, 90))
    return name_pixels(logits, frame, CLASSES, timings, "CPUExecutionProvider", "organs@01")


def test_a_semantic_result_has_a_mask_for_each_class(result: SemanticResult) -> None:
    label_map = result.label_map
    assert (result.labels, result.scores.shape, result.low_res_logits.shape) == (FOREGROUND, (0,), (4, 32, 32))
    assert result.masks.shape == (3, 70, 90)
    for number, (mask, region) in enumerate(zip(result.masks, result.regions, strict=True), start=1):
        np.testing.assert_array_equal(mask, label_map == number)
        assert region.area == np.count_nonzero(mask)
    assert result.regions[0].area > 0 < result.regions[1].area
    assert (result.regions[2].area, result.regions[2].box) == (0, None)
    np.testing.assert_array_equal(result.mask, label_map > 0)
    assert result.area == np.count_nonzero(label_map)
    rows, columns = np.nonzero(label_map)
    assert result.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert list(result.timings) == ["preprocess", "encode", "decode", "postprocess"]
    with pytest.raises(AttributeError, match="a mask for each class and no scores"):
        _ = result.confidence
    with pytest.raises(AttributeError, match="a mask for each class and no scores"):
        _ = result.score


def test_codings_are_of_one_class_or_of_all(result: SemanticResult) -> None:
    for label in (2, "2", "spleen"):
        np.testing.assert_array_equal(coco.decode(result.rle(label)), result.label_map == 2)
        canvas = cv2.fillPoly(np.zeros((70, 90), np.uint8), result.polygons(label), 1).astype(bool)
        assert not ((result.label_map == 2) & ~canvas).any()
    np.testing.assert_array_equal(coco.decode(result.rle()), result.label_map > 0)
    assert result.polygons("kidney") == []
    with pytest.raises(ValueError, match=r"unknown class 'lung', expected one of: 1 \(liver\), 2 \(spleen\), 3"):
        result.rle("lung")
    with pytest.raises(ValueError, match="unknown class 0"):
        result.polygons(0)


def test_a_semantic_result_is_saved_as_numbers_of_classes(result: SemanticResult, tmp_path: Path) -> None:
    for name in ("out.png", "out.nii.gz", "out.npz", "out.json"):
        result.save(tmp_path / name)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED), result.label_map)
    volume = np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    assert volume.dtype == np.uint8
    np.testing.assert_array_equal(volume[:, :, 0].T, result.label_map)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        assert set(archive.files) == {"label_map", "masks", "low_res_logits"}
        np.testing.assert_array_equal(archive["label_map"], result.label_map)
        np.testing.assert_array_equal(archive["masks"], result.masks)
    data = json.loads((tmp_path / "out.json").read_text())
    assert data == result.to_dict()
    assert data["labels"] == FOREGROUND
    assert [(one["id"], one["name"], one["area"]) for one in data["classes"]] == [
        (number, name, np.count_nonzero(result.label_map == int(number))) for number, name in FOREGROUND.items()
    ]
    np.testing.assert_array_equal(coco.decode(data["classes"][0]["rle"]), result.label_map == 1)
    assert (data["classes"][2]["box"], data["size"]) == (None, [70, 90])
    assert "score" not in data


def test_an_overlay_has_a_colour_for_each_class(result: SemanticResult) -> None:
    drawn = result.overlay(np.zeros((70, 90), np.uint8), opacity=1.0)
    for number in (1, 2):
        assert (drawn[result.label_map == number] == PALETTE[number - 1]).all(axis=1).mean() > 0.9
    assert not drawn[result.label_map == 0].any()
    assert PALETTE[0] == OVERLAY_COLOUR
    # More classes than colours: the next round is darker, so that no two look the same.
    many = name_pixels(np.full((12, 4, 4), -1, np.float32), result.frame, {str(n): "" for n in range(12)}, {}, "", "")
    assert len({colour for _, colour in many._coloured()}) == 11


@pytest.fixture(scope="module")
def organs(semantic_bundle: Path) -> samsdk.Predictor:
    return samsdk.load(semantic_bundle, device="cpu")


def test_a_semantic_bundle_segments_without_a_prompt(organs: samsdk.Predictor, cell: NDArray[np.uint8]) -> None:
    result = organs.segment(cell)
    assert isinstance(result, SemanticResult)
    assert result.labels == dict(list(organs.manifest.classes.items())[1:])
    expected = upsample_logits(result.low_res_logits, result.frame).argmax(axis=0)
    np.testing.assert_array_equal(result.label_map, expected)
    assert len(np.unique(result.label_map)) >= 4
    again = organs.segment(cell)
    assert again.timings["encode"] == 0.0
    np.testing.assert_array_equal(again.label_map, result.label_map)
    decoded = organs.decode(organs.encode(cell))
    np.testing.assert_array_equal(decoded.mask, result.mask)
    organs.warm_up()
    parity = measure_parity(organs)
    assert (parity.passed, parity.cases, parity.max_iou_prediction_difference) == (True, 3, 0.0)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"box": (1, 2, 30, 40)}, "takes no prompt, got box: it finds the objects of its classes by itself"),
        ({"points": [(3, 4)], "mask": np.ones((660, 550), bool)}, "takes no prompt, got points and mask"),
        ({"labels": [1]}, "takes no prompt, got labels"),
        ({"multimask": True}, "no masks for ambiguous prompts; leave multimask out"),
        ({"zoom": True}, "leave zoom out"),
    ],
)
def test_a_semantic_bundle_takes_the_image_alone(
    organs: samsdk.Predictor, cell: NDArray[np.uint8], given: dict, text: str
) -> None:
    with pytest.raises(PromptError, match=text):
        organs.segment(cell, **given)


def test_a_promptable_bundle_says_before_it_encodes_that_it_needs_a_prompt(
    predictor: samsdk.Predictor, organs: samsdk.Predictor, cell: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = organs.segment(cell)
    with pytest.raises(PromptError, match="a semantic result holds a mask for each class: give one of its `masks`"):
        predictor.segment(cell, mask=named)
    assert predictor.segment(cell, mask=named.masks[0]).masks.shape == (1, 660, 550)
    monkeypatch.setattr(predictor, "encode", None)
    with pytest.raises(PromptError, match="got no prompt at all; expected at least one of: points, box, mask"):
        predictor.segment(cell[::2])


def test_golden_answers_of_classes_are_compared_by_class(organs: samsdk.Predictor) -> None:
    _, _, cases = read_golden(organs.bundle)
    assert [(case.image, case.prompt, case.iou_predictions.shape) for case in cases] == [
        (index, {}, (0,)) for index in range(3)
    ]
    assert {case.low_res_masks.shape for case in cases} == {(5, 32, 32)}


def test_the_command_line_segments_without_a_prompt(
    semantic_bundle: Path, cell: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "cell.png"), cell)
    how = ["segment", str(tmp_path / "cell.png"), "--model", str(semantic_bundle), "--device", "cpu"]
    assert cli.main([*how, "-o", str(tmp_path / "map.png"), "--overlay", str(tmp_path / "overlay.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    result = samsdk.segment(cell, model=semantic_bundle, device="cpu")
    assert lines[0] == f"1 liver: area {result.regions[0].area} px  box {result.regions[0].box}"
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "map.png"), cv2.IMREAD_UNCHANGED), result.label_map)
    drawn = cv2.imread(str(tmp_path / "overlay.png"))[..., ::-1]
    np.testing.assert_array_equal(drawn, result.overlay(cell))
    assert cli.main([*how, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in data["classes"]] == ["liver", "spleen", "left kidney", "aorta"]
    assert cli.main([*how, "--box", "1,2,30,40"]) == 1
    assert "PromptError: this bundle takes no prompt, got box" in capsys.readouterr().err
    assert cli.main(["info", str(semantic_bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("organs 1  semantic  organs@")
    assert lines[3] == "classes: 0 background, 1 liver, 2 spleen, 3 left kidney, 4 aorta"
