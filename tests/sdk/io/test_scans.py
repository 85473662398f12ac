"""Scans: what files other than DICOM know of their pixels, pages of TIFF stacks, and prompts in millimetres."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import samsdk
from samsdk import ImageError, PromptError, Scan, Source, read_scan
from samsdk.embedding import Embedding
from samsdk.io.images import as_array, as_scan, image_key
from samsdk.millimetres import prompt_pixels

GREY = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)
STACK = np.random.default_rng(1).integers(0, 2**16, (5, 40, 56), dtype=np.uint16)
SOURCE = Source("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.4", "1.2.5", "1.2.6", 3)


def tiff(array: NDArray[np.generic], **options: object) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, imagej=bool(options.pop("imagej", False))) as writer:
        writer.write(array, **options)
    return file.getvalue()


@pytest.mark.parametrize("page", [None, 0, 1, 4])
def test_pages_of_a_stack(page: int | None) -> None:
    data = tiff(STACK, photometric="minisblack")
    scan = read_scan(data, frame=page)
    np.testing.assert_array_equal(scan.pixels, STACK[page or 0])
    assert (scan.spacing, scan.source) == (None, None)


def test_pages_of_their_own_size_and_kind() -> None:
    file = io.BytesIO()
    colour = np.stack([GREY[:20, :30], GREY[20:, :30], GREY[:20, 20:50]], axis=-1)
    with tifffile.TiffWriter(file) as writer:
        writer.write(STACK[0])
        writer.write(colour, photometric="rgb")
        writer.write(STACK[1], photometric="miniswhite")
    np.testing.assert_array_equal(read_scan(file.getvalue(), frame=1).pixels, colour)
    with pytest.raises(ImageError, match="expected a TIFF whose zero is black, got one of 16 bits"):
        read_scan(file.getvalue(), frame=2)


def test_a_page_that_is_not_there() -> None:
    with pytest.raises(ImageError, match=r"expected a frame of 0 to 4, got 5; it has 5 pages"):
        read_scan(tiff(STACK, photometric="minisblack"), frame=5)
    png = io.BytesIO()
    Image.fromarray(GREY).save(png, "PNG")
    assert read_scan(png.getvalue(), frame=0).pixels.shape == GREY.shape
    with pytest.raises(ImageError, match=r"expected a frame of 0 to 0, got 1; it has 1 images"):
        read_scan(png.getvalue(), frame=1)
    with pytest.raises(ImageError, match="a window is for DICOM files; leave it out"):
        read_scan(png.getvalue(), window=(40, 400))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (5000, 2500), "resolutionunit": "CENTIMETER"}, (0.002, 0.004)),
        ({"resolution": (5000, 2500), "resolutionunit": "INCH"}, None),
        ({"resolution": (5000, 2500), "resolutionunit": "NONE"}, None),
        # 72 and 300 dots per inch.
        ({"resolution": (28.346, 28.346), "resolutionunit": "CENTIMETER"}, None),
        ({"resolution": (118.11, 118.11), "resolutionunit": "CENTIMETER"}, None),
        ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "um"}}, (0.00025, 0.0005)),
        ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "mm"}}, (0.25, 0.5)),
        ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "pixel"}}, None),
        ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "inch"}}, None),
        ({}, None),
    ],
)
def test_spacing_of_a_tiff(options: dict[str, object], expected: tuple[float, float] | None) -> None:
    got = read_scan(tiff(GREY, **options)).spacing
    assert got == (pytest.approx(expected, rel=1e-6) if expected else None)


def test_exif_orientation_and_no_spacing() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # its top is the right side
    Image.fromarray(np.repeat(GREY[:8, :8], 8, axis=0).repeat(8, axis=1)).save(
        file, "JPEG", quality=95, exif=exif, dpi=(300, 300)
    )
    scan = read_scan(file.getvalue())
    upright = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("L"))
    assert np.abs(scan.pixels.astype(int) - np.rot90(upright, -1)).max() <= 2
    assert scan.spacing is None


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (float("inf"), 1.0), (1.0,)])
def test_a_spacing_has_to_be_two_positive_numbers(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ImageError, match="expected a spacing of two positive numbers"):
        Scan(GREY, spacing=spacing)


def test_a_scan_is_an_image_like_any_other() -> None:
    scan = Scan(GREY, spacing=(0.5, 0.25), source=SOURCE)
    assert as_array(scan) is GREY
    assert (as_scan(scan).spacing, as_scan(scan).source) == ((0.5, 0.25), SOURCE)
    np.testing.assert_array_equal(as_array(Scan(np.stack([GREY] * 4, axis=-1))), np.stack([GREY] * 3, axis=-1))
    with pytest.raises(ImageError, match="1 non-finite values"):
        as_scan(Scan(np.array([[1.0, np.nan]])))
    assert image_key(scan) == image_key(Scan(GREY.copy(), spacing=(0.5, 0.25), source=SOURCE))
    others = (
        Scan(GREY, source=SOURCE),
        Scan(GREY, spacing=(0.25, 0.5), source=SOURCE),
        Scan(GREY, spacing=(0.5, 0.25)),
    )
    assert len({image_key(image) for image in (scan, *others)}) == 4


@pytest.mark.parametrize(
    ("length", "pixel"),
    [([0.0, 0.0], [0, 0]), ([0.49, 0.24], [0, 0]), ([0.5, 0.25], [1, 1]), ([1.3, 1.3], [2, 5]), ([2.1, 0.7], [4, 2])],
)
def test_a_point_in_millimetres_is_the_pixel_that_it_lies_in(length: list[float], pixel: list[int]) -> None:
    points, box = prompt_pixels((0.5, 0.25), None, None, [length], None)
    np.testing.assert_array_equal(points, [pixel])
    assert box is None


@pytest.mark.parametrize("spacing", [0.1, 0.3, 0.661468, 0.0293])
def test_pixels_and_back(spacing: float) -> None:
    index = np.arange(512)
    corners, _ = prompt_pixels((spacing, spacing), None, None, np.stack([index, index], axis=1) * spacing, None)
    np.testing.assert_array_equal(corners[:, 0], index)
    centres, _ = prompt_pixels((spacing, spacing), None, None, (np.stack([index, index], axis=1) + 0.5) * spacing, None)
    np.testing.assert_array_equal(centres[:, 1], index)
    _, box = prompt_pixels((spacing, spacing), None, None, None, [0, 0, 512 * spacing, 512 * spacing])
    np.testing.assert_array_equal(box, [0, 0, 512, 512])


def test_a_box_in_millimetres_keeps_where_its_corners_are() -> None:
    _, box = prompt_pixels((0.5, 0.25), None, None, None, (1.1, 0.3, 5.25, 2.0))
    np.testing.assert_allclose(box, (2.2, 1.2, 10.5, 8.0), rtol=1e-12)


def test_millimetres_that_make_no_sense() -> None:
    image = Scan(GREY, spacing=(0.5, 0.25))
    with pytest.raises(PromptError, match=r"points_mm needs an image whose pixel size is known"):
        samsdk.segment(GREY, points_mm=[(3, 3)], device="cpu")
    with pytest.raises(PromptError, match=r"got box and box_mm: give the box in pixels or in millimetres"):
        samsdk.segment(image, box=(1, 1, 9, 9), box_mm=(1, 1, 9, 9), device="cpu")
    with pytest.raises(PromptError, match=r"points must lie inside the image.* got \(x, y\) = \(56.0, 8.0\)"):
        samsdk.segment(image, points_mm=[(28, 2)], device="cpu")
    for wrong in ([], [1, 2, 3], "ab"):
        with pytest.raises(PromptError, match="points_mm must be"):
            samsdk.segment(image, points_mm=wrong, device="cpu")


def test_results_know_their_scan(tmp_path: Path) -> None:
    image = Scan(GREY, spacing=(0.5, 0.25), source=SOURCE)
    by_mm = samsdk.segment(image, points_mm=[(14.2, 5.1)], box_mm=(2, 1, 26, 9.5), device="cpu")
    by_pixels = samsdk.segment(image, points=[(28, 20)], box=(4, 4, 52, 38), device="cpu")
    np.testing.assert_array_equal(by_mm.low_res_logits, by_pixels.low_res_logits)
    assert (by_mm.spacing, by_mm.source) == ((0.5, 0.25), SOURCE)
    assert by_mm.to_dict()["spacing"] == [0.5, 0.25]
    plain = samsdk.segment(GREY, points=[(28, 20)], device="cpu")
    assert (plain.spacing, plain.source, plain.to_dict()["spacing"]) == (None, None, None)
    nibabel = pytest.importorskip("nibabel")
    by_mm.save(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(nibabel.load(tmp_path / "mask.nii.gz").affine, np.diag([0.5, 0.25, 1, 1]))


def test_embeddings_keep_their_scan(tmp_path: Path) -> None:
    predictor = samsdk.load(device="cpu")
    for number, scan in enumerate((Scan(GREY, spacing=(0.5, 0.25), source=SOURCE), Scan(GREY))):
        embedding = predictor.encode(scan)
        embedding.save(tmp_path / f"{number}.npz")
        again = Embedding.load(tmp_path / f"{number}.npz")
        for one in (embedding, again):
            assert (one.spacing, one.source) == (scan.spacing, scan.source)
    kept = Embedding.load(tmp_path / "0.npz")
    by_mm, by_pixels = predictor.decode(kept, points_mm=[14.2, 5.1]), predictor.decode(kept, points=[28, 20])
    np.testing.assert_array_equal(by_mm.mask, by_pixels.mask)
    assert by_mm.source == SOURCE
