import json
import shutil
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
from skimage import data

from samsdk_training.data import DataError
from samsdk_training.data_check import check_set
from samsdk_training.set_report import TITLES, SetReport
from samsdk_training.survey import has_haze


def write(folder: Path, part: str, file: str, pixels: np.ndarray) -> None:
    (folder / part).mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / part / file), pixels)


def mask() -> np.ndarray:
    """12 x 40: two blocks of class 1 (36 pixels each), one of class 3 (20 pixels)."""
    label = np.zeros((12, 40), np.uint8)
    label[2:8, 2:8] = label[2:8, 20:26] = 1
    label[2:7, 30:34] = 3
    return label


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of three patients, split by patient, without any problem."""
    for index in range(6):
        write(tmp_path / "set", "images", f"p{index // 2}_{index}.png", np.full((12, 40), 10 + index, np.uint8))
        write(tmp_path / "set", "masks", f"p{index // 2}_{index}.png", mask())
    (tmp_path / "set" / "labels.json").write_text('{"1": "kidney", "3": "cyst"}')
    (tmp_path / "set" / "patients.csv").write_text(
        "id,patient\n" + "".join(f"p{index // 2}_{index},p{index // 2}\n" for index in range(6))
    )
    (tmp_path / "set" / "train.txt").write_text("p0_0\np0_1\np1_2\np1_3\n")
    (tmp_path / "set" / "val.txt").write_text("p2_4\np2_5\n")
    return tmp_path / "set"


def kinds(report: SetReport) -> list[str]:
    return [problem.kind for problem in report.problems]


def test_a_set_without_problems_is_counted(folder: Path) -> None:
    report = check_set(folder)
    assert not report.problems
    assert (report.images, report.slices, report.unlabelled, report.patients) == (6, 6, 0, 3)
    assert (report.sizes, report.depths, report.channels) == ({"12x40": 6}, {"uint8": 6}, {"grey": 6})
    assert (report.values, report.spacing, report.instances) == ((10, 15), None, False)
    assert report.classes == {
        1: {"name": "kidney", "images": 6, "objects": 12, "pixels": 72 / 480},
        3: {"name": "cyst", "images": 6, "objects": 6, "pixels": 20 / 480},
    }
    assert report.objects == {"total": 18, "least": 3, "median": 3, "most": 3}
    assert report.lists == {"val.txt": {"images": 2, "patients": 1}, "train.txt": {"images": 4, "patients": 2}}
    assert list(report.notes) == ["the masks show classes 1, 3, not 1 to 2"]
    text = report.text().splitlines()
    assert "3 patients" in text
    assert any(line.split() == ["1", "kidney", "6", "12", "15.000%"] for line in text)
    assert text[-1] == "no problems"
    assert json.loads(json.dumps(report.to_dict()))["classes"]["3"]["name"] == "cyst"


def test_volumes_are_counted_by_slices_and_spacing(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for name, depth, spacing in (("a", 5, 1.0), ("b", 7, 1.5)):
        labels = np.zeros((20, 30, depth), np.int16)
        labels[4:8, 5:9, 2] = 1
        affine = np.diag([0.5, spacing, 3, 1])
        values = np.full(labels.shape, depth, np.int16)
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "images" / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, affine), tmp_path / "masks" / f"{name}.nii.gz")
    report = check_set(tmp_path)
    assert not report.problems
    assert (report.images, report.slices, report.unlabelled) == (2, 12, 10)
    assert (report.sizes, report.depths) == ({"30x20": 12}, {"int16": 2})
    assert report.spacing == ((1.0, 0.5), (1.5, 0.5))
    assert report.classes[1] == {"name": "", "images": 2, "objects": 2, "pixels": 32 / (600 * 12)}
    assert "mm per pixel: 1 to 1.5 down, 0.5 across" in report.text()
    nibabel.save(nibabel.Nifti1Image(np.ones((20, 30, 5)), None), tmp_path / "images" / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones((20, 30, 5)), None), tmp_path / "masks" / "a.nii.gz")
    assert any("do not say how the patient lies" in note for note in check_set(tmp_path).notes)


def test_instances_colours_and_depths(tmp_path: Path) -> None:
    label = np.zeros((12, 40), np.uint16)
    for number in range(1, 7):
        label[3:6, 5 * number : 5 * number + 3] = 300 * number
    images = {
        "grey": np.arange(480, dtype=np.uint16).reshape(12, 40),
        "colour": np.arange(1440).reshape(12, 40, 3).astype(np.uint8),
        "colourless": np.full((12, 40, 3), 9, np.uint8),
    }
    for name, pixels in images.items():
        write(tmp_path, "images", f"{name}.png", pixels)
        write(tmp_path, "masks", f"{name}.png", label)
    (tmp_path / "labels.json").write_text('{"*": "nucleus"}')
    report = check_set(tmp_path)
    assert not report.problems
    assert (report.depths, report.values) == ({"uint8": 2, "uint16": 1}, (0, 479))
    assert report.channels == {"grey": 1, "RGB": 1, "RGB without colour": 1}
    assert report.classes == {1: {"name": "instances", "images": 3, "objects": 18, "pixels": 54 / 480}}
    assert report.instances


def hazy(label: np.ndarray, quality: int) -> np.ndarray:
    encoded = cv2.imencode(".jpg", label, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("scale", [255, 60, 20])
def test_masks_that_were_jpegs_are_told_from_true_ones(scale: int) -> None:
    cells = (cv2.medianBlur(data.immunohistochemistry()[:256, :256, 0], 9) < 120).astype(np.uint8)
    assert 0.05 < cells.mean() < 0.5
    rows, columns = np.mgrid[:256, :256]
    disc = ((rows - 120) ** 2 + (columns - 100) ** 2 < 60**2).astype(np.uint8)
    for label in (cells, disc):
        assert not has_haze(label * scale)
        for quality in (50, 75, 95):
            assert has_haze(hazy(label * scale, quality)), quality
    smooth = cv2.resize(disc * scale, (200, 150), interpolation=cv2.INTER_LINEAR)
    assert has_haze(smooth)
    assert not has_haze(cv2.resize(disc * scale, (200, 150), interpolation=cv2.INTER_NEAREST))


def test_thin_vessels_and_many_classes_are_no_haze() -> None:
    label = np.zeros((100, 100), np.uint8)
    label[50, :] = 1
    label[:, 20:22] = 2
    np.fill_diagonal(label, 3)
    for number in range(4, 24):
        row, column = divmod(number, 6)
        label[row * 15 : row * 15 + 9, column * 15 : column * 15 + 9] = number
    assert not has_haze(label)


def no_images(folder: Path) -> None:
    shutil.rmtree(folder / "images")
    shutil.rmtree(folder / "masks")


def nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def one_image(folder: Path) -> None:
    nothing(folder)
    write(folder, "images", "a.png", np.zeros((12, 40), np.uint8))
    write(folder, "masks", "a.png", mask())


def other_size(folder: Path) -> None:
    write(folder, "masks", "p0_0.png", mask()[:, 1:])


def cut_off(folder: Path) -> None:
    path = folder / "images" / "p0_0.png"
    path.write_bytes(path.read_bytes()[:30])


def float_labels(folder: Path) -> None:
    (folder / "masks" / "p0_0.png").unlink()
    write(folder, "masks", "p0_0.tif", mask().astype(np.float32) / 2)


def negative_labels(folder: Path) -> None:
    (folder / "masks" / "p0_0.png").unlink()
    write(folder, "masks", "p0_0.tif", mask().astype(np.int16) - 1)


def not_finite(folder: Path) -> None:
    (folder / "images" / "p0_0.png").unlink()
    write(folder, "images", "p0_0.tif", np.full((12, 40), np.inf, np.float32))


def high_label(folder: Path) -> None:
    write(folder, "masks", "p0_0.png", mask() * 3)


def empty_masks(folder: Path) -> None:
    for path in (folder / "masks").iterdir():
        write(folder, "masks", path.name, mask() * 0)


def jpeg_masks(folder: Path) -> None:
    (folder / "masks" / "p0_0.png").unlink()
    (folder / "labels.json").unlink()
    write(folder, "masks", "p0_0.jpg", mask() * 80)


def same_pixels(folder: Path) -> None:
    shutil.copy(folder / "images" / "p0_0.png", folder / "images" / "p2_4.png")


def same_patient(folder: Path) -> None:
    (folder / "val.txt").write_text("p2_4\np2_5\np1_3\n")
    (folder / "train.txt").write_text("p0_0\np0_1\np1_2\n")


def line(name: str, file: str, text: str):
    def add(folder: Path) -> None:
        with (folder / file).open("a") as opened:
            opened.write(text)

    add.__name__ = name
    return add


@pytest.mark.parametrize(
    ("spoil", "expected", "words"),
    [
        (no_images, ["empty", "lists"], "no images: expected images/"),
        (nothing, ["empty"], "no images: expected images/"),
        (one_image, ["one image"], "one image only"),
        (lambda folder: (folder / "masks" / "p0_1.png").unlink(), ["no mask"], "images without mask: 1 (p0_1)"),
        (
            lambda folder: (folder / "images" / "p0_1.png").unlink(),
            ["no image", "lists"],
            "masks without image: 1 (p0_1)",
        ),
        (lambda folder: write(folder, "masks", "p0_1.tif", mask()), ["files"], "p0_1.png, p0_1.tif"),
        (
            other_size,
            ["sizes"],
            "1 (p0_0); first: the mask must hold integers of the image's size (12, 40), got (12, 39)",
        ),
        (cut_off, ["unreadable"], "truncated"),
        (float_labels, ["labels"], "got fractions (float32)"),
        (negative_labels, ["labels"], "got -1 to 2"),
        (not_finite, ["not finite"], "NaN or infinite"),
        (high_label, ["unnamed"], "number of classes: 1 (9); first: in p0_0"),
        (empty_masks, ["no objects"], "every mask is empty"),
        (jpeg_masks, ["haze"], "1 (p0_0)"),
        (same_pixels, ["duplicates"], "1 (p0_0 = p2_4)"),
        (same_patient, ["patients"], "1 (p1)"),
        (line("twice", "val.txt", "p2_4\n"), ["lists"], "p2_4 (val.txt)"),
        (line("both", "val.txt", "p0_0\n"), ["in both", "patients"], "p0_0"),
        (line("stranger", "train.txt", "p9_9\n"), ["lists"], "p9_9 (train.txt)); first: without image"),
        (line("broken", "labels.json", "}"), ["malformed"], "expected names of classes"),
        (line("patient", "patients.csv", "p0_0,p1\n"), ["malformed"], "each id with one patient"),
    ],
)
def test_each_problem_is_told(folder: Path, spoil, expected: list[str], words: str) -> None:
    spoil(folder)
    report = check_set(folder)
    assert kinds(report) == expected
    assert words in report.text()
    assert set(kinds(report)) <= TITLES.keys()


def test_all_problems_are_told_at_once_and_briefly(folder: Path) -> None:
    for index in range(300):
        write(folder, "images", f"extra_{index}.png", np.full((12, 40), index % 200, np.uint8))
        write(folder, "masks", f"lonely_{index}.png", mask())
    other_size(folder)
    (folder / "images" / "p0_1.png").write_bytes(b"no image")
    write(folder, "masks", "p1_2.png", mask() * 40)
    report = check_set(folder)
    assert kinds(report) == ["no mask", "no image", "unreadable", "sizes", "unnamed", "malformed"]
    assert [problem.count for problem in report.problems][:2] == [300, 300]
    assert all(len(problem.names) <= 20 for problem in report.problems)
    assert len(report.text()) < 3000
    assert len(json.dumps(report.to_dict())) < 10000


def test_copies_within_one_part_are_only_noted(folder: Path) -> None:
    shutil.copy(folder / "images" / "p0_0.png", folder / "images" / "p1_2.png")
    report = check_set(folder)
    assert not report.problems
    assert report.duplicates == [["p0_0", "p1_2"]]
    assert "groups of images with the same pixels: 1 (p0_0 = p1_2)" in report.notes


def test_a_pattern_and_what_is_worth_a_look(folder: Path) -> None:
    (folder / "val.txt").write_text("")
    write(folder, "masks", "p2_4.png", mask() * 0)
    report = check_set(folder, patients="^(p)")
    assert (report.patients, report.unlabelled) == (1, 1)
    assert report.notes[:2] == ["images in no list: 2 (p2_4, p2_5)", "val.txt is empty"]
    assert kinds(check_set(folder, patients="^x")) == ["malformed"]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        check_set(tmp_path / "nowhere")
