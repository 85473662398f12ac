import json
import re
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco

from samsdk import ImageError, MissingExtraError, OutputError, Predictor, Result, SamsdkError
from samsdk.masks import Region
from samsdk.measuring import Calibration
from samsdk.results import OVERLAY_COLOUR
from samsdk.transforms import Preprocessing

# pycocotools' own arrays lack an argument that numpy 2 asks for.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

SIZE = (50, 70)


def disc(radius: float, row: int = 20, column: int = 30, size: tuple[int, int] = SIZE) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return np.asarray(np.hypot(rows - row, columns - column) < radius)


def make(*masks: NDArray[np.bool_], scores: list[float] | None = None) -> Result:
    values = scores or [0.5] * len(masks)
    return Result(
        regions=tuple(Region(mask.shape, 0, 0, mask) for mask in masks),
        scores=np.array(values, np.float32),
        low_res_logits=np.random.default_rng(0).normal(size=(len(masks), 16, 16)).astype(np.float32),
        frame=Preprocessing(16).frame(masks[0].shape, (10, 0, 60, 50) if masks[0].shape == SIZE else None),
        labels={"1": "spleen"},
        timings={"preprocess": 1.23456, "encode": 20.0, "decode": 3.0, "postprocess": 0.5},
        provider="CPUExecutionProvider",
        bundle="tiny@0123456789abcdef",
    )


@pytest.fixture
def result() -> Result:
    """Three masks; the second has the highest score, touches no border and has no hole."""
    return make(disc(5), disc(12), disc(2), scores=[0.25, 0.75, 0.5])


@pytest.fixture
def empty() -> Result:
    return make(np.zeros(SIZE, bool))


@pytest.fixture(scope="module")
def real(predictor: Predictor, cell: NDArray[np.uint8]) -> Result:
    return predictor.decode(predictor.encode(cell), box=(150, 200, 420, 500), multimask=True)


def test_the_best_mask_is_that_of_the_highest_score(result: Result) -> None:
    assert result.best == 1
    assert result.score == 0.75
    np.testing.assert_array_equal(result.mask, disc(12))
    np.testing.assert_array_equal(result.masks, [disc(5), disc(12), disc(2)])
    assert result.area == np.count_nonzero(disc(12))
    # Radius below 12 around (30, 20).
    assert result.box == (19, 9, 42, 32)


def test_confidence_is_what_the_table_says_of_the_best_score(result: Result) -> None:
    table = Calibration((0.5, 1.0), (0.3, 0.9), 10)
    assert replace(result, calibration=table).confidence == pytest.approx(0.6)
    assert replace(result, calibration=table).to_dict()["confidence"] == pytest.approx(0.6)


@pytest.mark.parametrize(("score", "expected"), [(0.75, 0.75), (1.25, 1.0), (-0.5, 0.0)])
def test_without_a_table_confidence_is_the_score_cut_to_0_to_1(score: float, expected: float) -> None:
    made = make(disc(5), scores=[score])
    assert (made.score, made.confidence) == (score, expected)


def test_the_parts_of_a_real_result_belong_together(real: Result) -> None:
    assert real.masks.shape == (len(real.scores), 660, 550)
    assert real.best == int(np.argmax(real.scores))
    np.testing.assert_array_equal(real.masks[real.best], real.mask)
    assert real.area == np.count_nonzero(real.mask)
    np.testing.assert_array_equal(coco.decode(real.rle()), real.mask)
    canvas = cv2.fillPoly(np.zeros(real.mask.shape, np.uint8), real.polygons(), 1).astype(bool)
    # Filled holes may add to the mask; test_masks.py says exactly what.
    assert not (real.mask & ~canvas).any()


def test_an_empty_result(empty: Result) -> None:
    assert (empty.area, empty.box, empty.polygons()) == (0, None, [])
    assert empty.to_dict()["box"] is None
    np.testing.assert_array_equal(coco.decode(empty.rle()), np.zeros(SIZE, bool))
    image = np.full((*SIZE, 3), 90, np.uint8)
    np.testing.assert_array_equal(empty.overlay(image), image)


def test_a_result_cannot_be_changed(result: Result) -> None:
    with pytest.raises(FrozenInstanceError):
        result.provider = "another"  # type: ignore[misc]


# Saving


def test_png_holds_0_and_255(result: Result, tmp_path: Path) -> None:
    for name in ("mask.png", "MASK2.PNG"):
        result.save(tmp_path / name)
        pixels = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.where(disc(12), 255, 0))


def test_npz_holds_everything_that_was_computed_and_nothing_else(result: Result, tmp_path: Path) -> None:
    result.save(str(tmp_path / "masks.npz"))
    with np.load(tmp_path / "masks.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["low_res_logits", "masks", "scores"]
        for name in archive.files:
            assert archive[name].dtype == getattr(result, name).dtype
            np.testing.assert_array_equal(archive[name], getattr(result, name))


def test_json_holds_the_mask_as_coco_reads_it(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "mask.json")
    read = json.loads((tmp_path / "mask.json").read_text())
    np.testing.assert_array_equal(coco.decode(read["rle"]), disc(12))
    assert read == result.to_dict()


def test_nifti_is_the_mask_with_x_first(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "mask.nii.gz")
    volume = nibabel.load(tmp_path / "mask.nii.gz")
    assert volume.shape == (70, 50, 1)
    assert volume.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(volume.affine, np.eye(4))
    np.testing.assert_array_equal(np.asarray(volume.dataobj)[:, :, 0], disc(12).T)


@pytest.mark.parametrize("name", ["mask.json", "mask.nii.gz", "mask.png", "mask.npz"])
def test_the_same_result_is_the_same_file(result: Result, tmp_path: Path, name: str) -> None:
    # No time stamp; whoever keeps results under version control or hashes them relies on it.
    result.save(tmp_path / name)
    first = (tmp_path / name).read_bytes()
    result.save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["mask.png", "mask.npz", "mask.json", "mask.nii.gz"])
def test_an_empty_mask_can_be_saved(empty: Result, tmp_path: Path, name: str) -> None:
    empty.save(tmp_path / name)
    assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize("name", ["mask.jpg", "mask", "mask.nii", "mask.tar.gz", "png"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(result: Result, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(
        OutputError,
        match=re.escape(f"cannot write {path}: expected a name that ends in .png, .npz, .nii.gz, .coco.json, .json"),
    ):
        result.save(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".npz", ".json", ".nii.gz"])
def test_a_folder_that_is_missing_or_not_writable(result: Result, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(OutputError, match=r"the folder '.*missing' does not exist; create it first"):
        result.save(tmp_path / "missing" / f"mask{suffix}")
    # A file in place of a folder refuses writes even to root, whom permissions do not stop.
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="cannot write"):
        result.save(tmp_path / "file" / f"mask{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_a_save_that_fails_half_way_keeps_the_former_file(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"mask{suffix}"
    result.save(path)
    former = path.read_bytes()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", fail)
    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OutputError, match="No space left on device"):
        result.save(path)
    assert path.read_bytes() == former
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_nifti_without_nibabel_names_the_command(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'samsdk[medical]'")) as caught:
        result.save(tmp_path / "mask.nii.gz")
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, SamsdkError)
    assert list(tmp_path.iterdir()) == []
    # The other formats do without it.
    result.save(tmp_path / "mask.png")


def test_to_dict_is_complete_and_json_can_hold_it(result: Result) -> None:
    read = json.loads(json.dumps(result.to_dict()))
    np.testing.assert_array_equal(coco.decode(read.pop("rle")), disc(12))
    assert read == {
        "size": [50, 70],
        "score": 0.75,
        "scores": [0.25, 0.75, 0.5],
        "confidence": 0.75,
        "area": np.count_nonzero(disc(12)),
        "box": [19, 9, 42, 32],
        "window": [10, 0, 60, 50],
        "spacing": None,
        "labels": {"1": "spleen"},
        "timings": {"preprocess": 1.235, "encode": 20.0, "decode": 3.0, "postprocess": 0.5},
        "provider": "CPUExecutionProvider",
        "bundle": "tiny@0123456789abcdef",
    }


def test_to_dict_of_a_real_result(real: Result) -> None:
    read = json.loads(json.dumps(real.to_dict()))
    assert read["scores"] == [float(score) for score in real.scores]
    np.testing.assert_array_equal(coco.decode(read["rle"]), real.mask)
    assert set(read["timings"]) == {"preprocess", "encode", "decode", "postprocess"}


# Overlay


@pytest.mark.parametrize("opacity", [0.0, 0.45, 1.0])
def test_overlay_blends_inside_and_keeps_the_outside(result: Result, opacity: float) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    given = image.copy()
    drawn = result.overlay(image, opacity=opacity)
    np.testing.assert_array_equal(image, given)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (*SIZE, 3)
    # An image of this size has an outline of one pixel, on the mask's own border.
    border = disc(12) & ~cv2.erode(disc(12).astype(np.uint8), np.ones((3, 3))).astype(bool)
    outline = np.zeros(SIZE, bool)
    for contour in result.polygons():
        outline[contour[:, 1], contour[:, 0]] = True
    assert not (outline & ~border).any()
    np.testing.assert_array_equal(drawn[~disc(12)], image[~disc(12)])
    np.testing.assert_array_equal(drawn[outline], np.broadcast_to(OVERLAY_COLOUR, drawn[outline].shape))
    inner = disc(12) & ~outline
    expected = image[inner].astype(np.float64) * (1 - opacity) + np.array(OVERLAY_COLOUR) * opacity
    assert np.abs(drawn[inner] - expected).max() < 0.501


def test_overlay_of_a_large_image_has_an_outline_that_can_be_seen() -> None:
    size = (900, 1300)
    mask = disc(200, 450, 600, size)
    image = np.zeros((*size, 3), np.uint8)
    drawn = make(mask).overlay(image, opacity=0)
    coloured = drawn.any(axis=2)
    # 1300 // 400 = 3 pixels, of which not all lie inside: at most the outline's thickness around the mask's border.
    border = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)
    near = cv2.dilate(border.astype(np.uint8), np.ones((5, 5))).astype(bool)
    assert coloured[border].all()
    assert not coloured[~near].any()
    assert np.count_nonzero(coloured) > 2 * np.count_nonzero(border)
    np.testing.assert_array_equal(np.unique(drawn[coloured], axis=0), [OVERLAY_COLOUR])


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda grey: grey, id="uint8"),
        pytest.param(lambda grey: grey[..., None], id="one channel"),
        pytest.param(lambda grey: grey / 255, id="float"),
        pytest.param(lambda grey: grey.astype(np.uint16), id="uint16"),
        pytest.param(lambda grey: np.dstack([grey] * 4), id="RGBA"),
        pytest.param(lambda grey: cv2.imencode(".png", grey)[1].tobytes(), id="bytes of a file"),
    ],
)
def test_overlay_takes_every_form_of_an_image(result: Result, form: Any) -> None:
    grey = np.random.default_rng(2).integers(0, 256, SIZE).astype(np.uint8)
    np.testing.assert_array_equal(result.overlay(form(grey)), result.overlay(np.dstack([grey] * 3)))


@pytest.mark.parametrize("shape", [(70, 50), (50, 71, 3), (25, 35)])
def test_overlay_refuses_another_size(result: Result, shape: tuple[int, ...]) -> None:
    text = f"overlay needs the image that was segmented, (50, 70) (H, W), got {shape[:2]}"
    with pytest.raises(ImageError, match=re.escape(text)):
        result.overlay(np.zeros(shape, np.uint8))


def test_overlay_draws_the_best_mask_only(result: Result) -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    one = replace(result, regions=result.regions[1:2], scores=result.scores[1:2])
    np.testing.assert_array_equal(result.overlay(image), one.overlay(image))
