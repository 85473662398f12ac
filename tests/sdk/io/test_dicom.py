"""DICOM in: each of pydicom's packaged files with pixels, and files made here for what those lack."""

import io
import sys
import traceback
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

import samsdk
from samsdk import ImageError, MissingExtraError, Scan, read_scan
from samsdk.io.dicom_headers import dicom_size

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
# (height, width) of the picture, or why there is none.
HEADER = "without DICOM's header"
NOTHING = "which holds none"
DAMAGED = "truncated or damaged"
PACKAGED: dict[str, tuple[int, int] | str] = {
    "693_J2KI.dcm": (512, 512),
    "CT_small.dcm": (128, 128),
    "ExplVR_BigEnd.dcm": (60, 80),
    "ExplVR_BigEndNoMeta.dcm": HEADER,
    "ExplVR_LitEndNoMeta.dcm": HEADER,
    "GDCMJ2K_TextGBR.dcm": (400, 400),
    "J2K_pixelrep_mismatch.dcm": (512, 512),
    "JPEG-lossy.dcm": "pip install pylibjpeg-libjpeg",
    "JPEG2000-embedded-sequence-delimiter.dcm": DAMAGED,
    "JPEG2000.dcm": (1024, 256),
    "JPEGLSNearLossless_08.dcm": (45, 10),
    "JPEGLSNearLossless_16.dcm": (50, 10),
    "JPGExtended.dcm": "pip install pylibjpeg-libjpeg",
    "MR_small.dcm": (64, 64),
    "MR_small_RLE.dcm": (64, 64),
    "MR_small_bigendian.dcm": (64, 64),
    "MR_small_expb.dcm": (64, 64),
    "MR_small_implicit.dcm": (64, 64),
    "MR_small_jp2klossless.dcm": (64, 64),
    "MR_small_jpeg_ls_lossless.dcm": (64, 64),
    "MR_small_padded.dcm": (64, 64),
    "MR_truncated.dcm": DAMAGED,
    "SC_jpeg_no_color_transform.dcm": (256, 256),
    "SC_jpeg_no_color_transform_2.dcm": (256, 256),
    "SC_rgb_dcmtk_+eb+cr.dcm": (100, 100),
    "SC_rgb_dcmtk_+eb+cy+n1.dcm": (100, 100),
    "SC_rgb_dcmtk_+eb+cy+n2.dcm": (100, 100),
    "SC_rgb_dcmtk_+eb+cy+np.dcm": (100, 100),
    "SC_rgb_dcmtk_+eb+cy+s2.dcm": (100, 100),
    "SC_rgb_dcmtk_+eb+cy+s4.dcm": (100, 100),
    "SC_rgb_gdcm_KY.dcm": (100, 100),
    "SC_rgb_jls_lossy_line.dcm": (100, 100),
    "SC_rgb_jls_lossy_sample.dcm": (100, 100),
    "SC_rgb_jpeg.dcm": (256, 256),
    "SC_rgb_jpeg_app14_dcmd.dcm": (256, 256),
    "SC_rgb_jpeg_dcmd.dcm": (256, 256),
    "SC_rgb_jpeg_dcmtk.dcm": (100, 100),
    "SC_rgb_jpeg_gdcm.dcm": (100, 100),
    "SC_rgb_jpeg_lossy_gdcm.dcm": (100, 100),
    "SC_rgb_rle.dcm": (100, 100),
    "SC_rgb_rle_16bit.dcm": (100, 100),
    "SC_rgb_rle_16bit_2frame.dcm": "it has 2 frames",
    "SC_rgb_rle_2frame.dcm": "it has 2 frames",
    "SC_rgb_rle_32bit.dcm": (100, 100),
    "SC_rgb_rle_32bit_2frame.dcm": "it has 2 frames",
    "SC_rgb_small_odd.dcm": (3, 3),
    "SC_rgb_small_odd_big_endian.dcm": (3, 3),
    "SC_rgb_small_odd_jpeg.dcm": (3, 3),
    "SC_ybr_full_422_uncompressed.dcm": (100, 100),
    "UN_sequence.dcm": NOTHING,
    "badVR.dcm": DAMAGED,
    "dicomdirtests/77654033/CR1/6154": (16, 16),
    "dicomdirtests/77654033/CT2/17106": (16, 16),
    "dicomdirtests/98892001/CT2N/6293": (16, 16),
    "dicomdirtests/98892001/CT5N/2062": (16, 16),
    "dicomdirtests/98892003/MR1/15820": (16, 16),
    "dicomdirtests/98892003/MR2/4950": (16, 16),
    "dicomdirtests/98892003/MR700/4467": (16, 16),
    "dicomdirtests/DICOMDIR": "'Media Storage Directory Storage', which holds none",
    "dicomdirtests/TINY_ALPHA/PT000000/ST000000/SE000000/IM000001": NOTHING,
    "empty_charset_LEI.dcm": NOTHING,
    "examples_jpeg2k.dcm": (480, 640),
    "examples_overlay.dcm": (300, 484),
    "examples_palette.dcm": (350, 800),
    "examples_rgb_color.dcm": (240, 320),
    "examples_ybr_color.dcm": "it has 30 frames",
    "image_dfl.dcm": (512, 512),
    "liver_1frame.dcm": "'Segmentation Storage' of 1 bit a pixel, which is a mask",
    "liver_expb_1frame.dcm": "of 1 bit a pixel, which is a mask",
    "meta_missing_tsyntax.dcm": NOTHING,
    "nested_priv_SQ.dcm": NOTHING,
    "no_meta.dcm": HEADER,
    "no_meta_group_length.dcm": "'RT Image Storage', which holds none",
    "priv_SQ.dcm": NOTHING,
    "reportsi.dcm": "'Basic Text SR Storage', which holds none",
    "reportsi_with_empty_number_tags.dcm": "'Basic Text SR Storage', which holds none",
    "rtdose.dcm": "it has 15 frames",
    "rtdose_1frame.dcm": (10, 10),
    "rtdose_expb.dcm": "it has 15 frames",
    "rtdose_expb_1frame.dcm": (10, 10),
    "rtdose_rle.dcm": "it has 15 frames",
    "rtdose_rle_1frame.dcm": (10, 10),
    "rtplan.dcm": "'RT Plan Storage', which holds none",
    "rtplan_truncated.dcm": "'RT Plan Storage', which holds none",
    "rtstruct.dcm": HEADER,
    "test-SR.dcm": "'Comprehensive SR Storage', which holds none",
    "waveform_ecg.dcm": "'12-lead ECG Waveform Storage', which holds none",
}
# (frames, height, width[, 3]) of the files of several frames.
FRAMED = {
    "SC_rgb_rle_16bit_2frame.dcm": (2, 100, 100, 3),
    "SC_rgb_rle_2frame.dcm": (2, 100, 100, 3),
    "SC_rgb_rle_32bit_2frame.dcm": (2, 100, 100, 3),
    "examples_ybr_color.dcm": (30, 240, 320, 3),
    "rtdose.dcm": (15, 10, 10),
    "rtdose_expb.dcm": (15, 10, 10),
    "rtdose_rle.dcm": (15, 10, 10),
}
PICTURES = sorted(name for name, found in PACKAGED.items() if not isinstance(found, str))


def full_scale(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    return np.rint((values - low) * (255 / max(high - low, 1e-8))).astype(np.uint8)


def by_hand(dataset: Dataset, index: int = 0) -> NDArray[np.uint8]:
    """What a viewer shows, by pydicom's own functions one after another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = pixel_array(dataset, index=index)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            return (apply_color_lut(stored, dataset) >> 8).astype(np.uint8)
        if stored.ndim == 3:
            return (stored >> (dataset.BitsStored - 8)).astype(np.uint8)
        meant = apply_modality_lut(stored, dataset)
        shown = apply_voi_lut(meant, dataset)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    ends = (0, 2**dataset.BitsStored - 1)
    if dataset.PixelRepresentation:
        ends = (-(2 ** (dataset.BitsStored - 1)), 2 ** (dataset.BitsStored - 1) - 1)
    low, high = (end * slope + intercept for end in ends)
    if "WindowCenter" in dataset:
        grey = np.rint((shown - low) / (high - low) * 255).astype(np.uint8)
    else:
        grey = stored if stored.dtype == np.uint8 else full_scale(meant)
    return 255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


@pytest.mark.parametrize("name", PICTURES)
def test_packaged_pictures_are_shown_as_by_hand(name: str) -> None:
    expected = by_hand(pydicom.dcmread(FILES / name))
    got = read_scan(FILES / name).pixels
    assert got.shape[:2] == PACKAGED[name]
    assert got.dtype == np.uint8
    # A half is rounded either way by the last bit of a float.
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert (got != expected).mean() < 0.01


@pytest.mark.parametrize("name", sorted(set(PACKAGED) - set(PICTURES)))
def test_packaged_files_without_a_picture_are_refused(name: str) -> None:
    with pytest.raises((ImageError, MissingExtraError)) as caught:
        read_scan(FILES / name)
    assert PACKAGED[name] in str(caught.value)


def test_the_list_is_of_all_packaged_files() -> None:
    # Of a series of the folder dicomdirtests one file stands for all: they differ in nothing that is read.
    found = {str(path.relative_to(FILES)) for path in FILES.glob("*.dcm")}
    assert found == {name for name in PACKAGED if "/" not in name}
    assert set(FRAMED) == {name for name, said in PACKAGED.items() if isinstance(said, str) and " frames" in said}


@pytest.mark.parametrize(("name", "shape"), FRAMED.items())
def test_a_frame_is_the_one_that_was_asked_for(name: str, shape: tuple[int, ...]) -> None:
    dataset, frames = pydicom.dcmread(FILES / name), shape[0]
    first, last = (read_scan(FILES / name, frame=index) for index in (0, frames - 1))
    for scan, index in ((first, 0), (last, frames - 1)):
        assert scan.pixels.shape == shape[1:]
        # A half is rounded either way by the last bit of a float.
        assert np.abs(scan.pixels.astype(int) - by_hand(dataset, index)).max() <= (scan.pixels.ndim == 2)
        # What is shown is no flat grey.
        assert scan.pixels.max() - scan.pixels.min() > 200
    assert (last.pixels != first.pixels).any()
    assert last.source is not None
    assert last.source.frame == frames
    for wrong in (-1, frames, True, 1.0):
        with pytest.raises(ImageError, match=rf"expected a frame of 0 to {frames - 1}, got {wrong!r}; it has {frames}"):
            read_scan(FILES / name, frame=wrong)


def made(pixels: NDArray[Any], **elements: Any) -> bytes:
    """A DICOM file of these stored numbers, MONOCHROME2 with all bits used unless it is said otherwise."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, "1.2.3.4"
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", "1.2.5", "1.2.6"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "SECRET^NAME", "SECRET-7", "19010203"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in elements.items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


RAMP = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)


def item(**elements: Any) -> Dataset:
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def table(data: list[int], first: int, bits: int) -> Dataset:
    entry = Dataset()
    entry.add_new(0x00283002, "SS" if first < 0 else "US", [len(data), first, bits])
    entry.add_new(0x00283006, "US", data)
    return entry


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("centre", "width"), [(40, 400), (-600.5, 1500), (100, 1)])
def test_windows_of_each_kind(function: str, photometric: str, centre: float, width: float) -> None:
    data = made(
        RAMP,
        PhotometricInterpretation=photometric,
        RescaleSlope=2,
        RescaleIntercept=-1024,
        WindowCenter=[centre, 0],
        WindowWidth=[width, 80],
        VOILUTFunction=function,
        BitsStored=12,
        HighBit=11,
    )
    got = read_scan(data).pixels
    expected = by_hand(pydicom.dcmread(io.BytesIO(data)))
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert {got.min(), got.max()} == {0, 255}
    assert (got[0, 0] == 255) == (photometric == "MONOCHROME1")


def test_a_window_of_the_callers_wins() -> None:
    data = made(RAMP, RescaleSlope=1, RescaleIntercept=0, WindowCenter=0, WindowWidth=4000)
    got = read_scan(data, window=(40, 400)).pixels.ravel()
    # PS3.3 C.11.2.1.2.1: from centre - 0.5 - (width - 1) / 2 on, over width - 1 numbers.
    expected = np.clip((RAMP.ravel() - 39.5) / 399 + 0.5, 0, 1) * 255
    np.testing.assert_array_equal(got, np.rint(expected))
    for wrong in ((40,), (40, 0), (float("nan"), 400), "wide", 7):
        with pytest.raises(ImageError, match=r"expected a window \(centre, width\)"):
            read_scan(data, window=wrong)


def test_tables_of_values() -> None:
    curve = [round(4095 * (index / 4095) ** 0.5) for index in range(4096)]
    data = made(RAMP, VOILUTSequence=[table(curve, -2048, 12)], WindowCenter=0, WindowWidth=10)
    np.testing.assert_array_equal(read_scan(data).pixels.ravel(), np.rint(np.array(curve) * (255 / 4095)))
    # 4096 entries of 8 bits, of which the first 1024 and the last 1024 numbers of the ramp lie outside.
    short = [255 - index // 8 for index in range(2048)]
    data = made(RAMP, VOILUTSequence=[table(short, -1024, 8)])
    expected = np.concatenate([np.full(1024, 255), short, np.full(1024, 0)])
    np.testing.assert_array_equal(read_scan(data).pixels.ravel(), expected)
    modality = made(RAMP, ModalityLUTSequence=[table([3 * index for index in range(4096)], -2048, 16)])
    np.testing.assert_array_equal(read_scan(modality).pixels.ravel(), full_scale(np.arange(4096.0)))


@pytest.mark.parametrize(
    ("padding", "limit", "low"),
    [(-2000, None, -1000), (63536, None, -1000), (-2000, -1990, -1000), (-1500, None, -2000)],
)
def test_without_a_window_the_range_is_stretched_without_padding(padding: int, limit: int | None, low: int) -> None:
    pixels = np.full((40, 40), -1000, np.int16)
    pixels[:5] = -2000
    pixels[10:20] = 500
    pixels[30:] = 2000
    elements = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    data = made(pixels, RescaleSlope=1, RescaleIntercept=-24, **elements)
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.add_new(0x00280120, "US" if padding > 0 else "SS", padding)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset)
    expected = np.rint(np.clip((pixels.astype(float) - low) / (2000 - low), 0, 1) * 255)
    np.testing.assert_array_equal(read_scan(file.getvalue()).pixels, expected)


@pytest.mark.parametrize("width", [0, -1, None])
def test_a_window_that_is_none_is_left_out(width: float | None) -> None:
    data = made(RAMP, WindowCenter=0, WindowWidth=width)
    np.testing.assert_array_equal(read_scan(data).pixels, full_scale(RAMP.astype(float)))


def test_plain_8_bits_stay_and_other_depths_are_stretched() -> None:
    grey = np.arange(40, 140, dtype=np.uint8).reshape(10, 10)
    np.testing.assert_array_equal(read_scan(made(grey)).pixels, grey)
    np.testing.assert_array_equal(read_scan(made(grey, RescaleSlope=1, RescaleIntercept=0)).pixels, grey)
    inverted = read_scan(made(grey, PhotometricInterpretation="MONOCHROME1")).pixels
    np.testing.assert_array_equal(inverted, 255 - grey)
    np.testing.assert_array_equal(read_scan(made(grey.astype(np.uint16))).pixels, full_scale(grey.astype(float)))
    np.testing.assert_array_equal(read_scan(made(grey.astype(np.uint32) * 1000)).pixels, full_scale(grey.astype(float)))
    assert (read_scan(made(np.full((4, 4), 700, np.int16))).pixels == 0).all()


def test_colours_keep_their_upper_bits() -> None:
    deep = np.random.default_rng(0).integers(0, 2**12, (6, 5, 3)).astype(np.uint16)
    np.testing.assert_array_equal(read_scan(made(deep, BitsStored=12, HighBit=11)).pixels, deep >> 4)
    # PS3.3 C.7.6.3.1.2: grey is Y, with both colour differences in their middle.
    ybr = np.full((4, 4, 3), 128, np.uint8)
    ybr[..., 0] = 77
    np.testing.assert_array_equal(
        read_scan(made(ybr, PhotometricInterpretation="YBR_FULL")).pixels, np.full((4, 4, 3), 77)
    )


def test_a_large_image_is_not_made_floats() -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (3000, 2000)).astype(np.uint16)
    data = made(pixels, WindowCenter=2000, WindowWidth=3000)
    tracemalloc.start()
    got = read_scan(data).pixels
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.nbytes == pixels.size
    # The file once more, its pixels, and what is shown; 8 bytes a pixel would be 48 MB of floats alone.
    assert peak < 8 * pixels.size
    np.testing.assert_array_equal(got, by_hand(pydicom.dcmread(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"PixelSpacing": [0.7, 0.5]}, (0.5, 0.7)),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.1, 0.2)),
        ({"NominalScannedPixelSpacing": [0.3, 0.4]}, (0.4, 0.3)),
        ({"PixelSpacing": [0.7, 0.5], "ImagerPixelSpacing": [0.2, 0.1]}, (0.5, 0.7)),
        ({"PixelSpacing": [0, 0.5]}, None),
        ({"PixelSpacing": [-0.7, 0.5]}, None),
        ({"PixelSpacing": [float("nan"), 0.5]}, None),
        ({"PixelSpacing": []}, None),
        ({"PixelAspectRatio": [1, 1]}, None),
        ({}, None),
    ],
)
def test_spacing(elements: dict[str, Any], expected: tuple[float, float] | None) -> None:
    assert read_scan(made(RAMP, **elements)).spacing == expected


def region(delta: tuple[float, float] = (0.02, 0.03), **other: Any) -> Dataset:
    return item(
        **{
            "RegionSpatialFormat": 1,
            "RegionLocationMinX0": 0,
            "RegionLocationMinY0": 0,
            "RegionLocationMaxX1": 63,
            "RegionLocationMaxY1": 63,
            "PhysicalUnitsXDirection": 3,
            "PhysicalUnitsYDirection": 3,
            "PhysicalDeltaX": delta[0],
            "PhysicalDeltaY": delta[1],
            **other,
        }
    )


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ([region()], (0.2, 0.3)),
        ([region(), region((0.020001, 0.03))], (0.2, 0.3)),
        ([region(), region((0.04, 0.06))], None),
        ([region(), region((7.0, 8.0), RegionSpatialFormat=3)], (0.2, 0.3)),
        ([region(), region((7.0, 8.0), PhysicalUnitsYDirection=4)], (0.2, 0.3)),
        ([region(RegionLocationMaxX1=65)], None),
        ([region((0.0, 0.03))], None),
        ([region((0.02, -0.03))], None),
        ([], None),
    ],
)
def test_spacing_of_ultrasound_regions(regions: list[Dataset], expected: tuple[float, float] | None) -> None:
    got = read_scan(made(RAMP, SequenceOfUltrasoundRegions=regions)).spacing
    assert got == (pytest.approx(expected) if expected else None)


def test_ultrasound_that_was_cut_or_shrunk_after_its_regions_were_written_has_no_spacing() -> None:
    for name in ("examples_palette.dcm", "examples_ybr_color.dcm"):
        assert "SequenceOfUltrasoundRegions" in pydicom.dcmread(FILES / name)
        assert read_scan(FILES / name, frame=0).spacing is None


def test_functional_groups_of_an_enhanced_file() -> None:
    frames = np.stack([RAMP, RAMP[::-1]])
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.7, 0.5])],
        PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=-1000, RescaleType="HU")],
        FrameVOILUTSequence=[item(WindowCenter=0, WindowWidth=2000)],
    )
    own = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.9, 0.8])],
        FrameVOILUTSequence=[item(WindowCenter=-500, WindowWidth=100)],
    )
    data = made(
        RAMP,
        NumberOfFrames=2,
        PixelData=frames.tobytes(),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[Dataset(), own],
    )
    first, second = read_scan(data, frame=0), read_scan(data, frame=1)
    assert (first.spacing, second.spacing) == ((0.5, 0.7), (0.8, 0.9))
    for scan, stored, centre, width in ((first, RAMP, 0, 2000), (second, RAMP[::-1], -500, 100)):
        grey = np.clip((stored.astype(float) - 1000 - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
        np.testing.assert_array_equal(scan.pixels, np.rint(grey))
    assert [scan.source.frame for scan in (first, second) if scan.source] == [1, 2]


def test_the_source_is_what_an_object_refers_to() -> None:
    source = read_scan(made(RAMP)).source
    assert source == samsdk.Source(CTImageStorage, "1.2.3.4", "1.2.3", "1.2.5", "1.2.6", None)


@pytest.mark.parametrize(
    ("elements", "text"),
    [
        ({"PhotometricInterpretation": "CMYK"}, "or a palette, got signed CMYK; convert it to RGB first"),
        ({"PhotometricInterpretation": "CMYK", "PixelRepresentation": 0}, "got CMYK; convert it to RGB first"),
        ({"Rows": 30000, "Columns": 30000}, "expected at most 400000000 pixels, got 30000 x 30000"),
        ({"Rows": 0}, "expected at least 1 pixel"),
        ({"Rows": 65}, "truncated or damaged"),
        ({"BitsAllocated": 7}, "truncated or damaged"),
    ],
)
def test_what_is_no_picture_is_refused(elements: dict[str, Any], text: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_scan(made(RAMP, **elements))
    assert text in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_floating_point_pixels_and_objects_without_pixels_are_refused() -> None:
    dataset = pydicom.dcmread(io.BytesIO(made(RAMP)))
    del dataset.PixelData
    bare = io.BytesIO()
    pydicom.dcmwrite(bare, dataset)
    with pytest.raises(ImageError, match="expected a DICOM file with pixels, got a DICOM 'CT Image Storage', which"):
        read_scan(bare.getvalue())
    dataset.FloatPixelData = RAMP.astype(np.float32).tobytes()
    dataset.BitsAllocated = 32
    floats = io.BytesIO()
    pydicom.dcmwrite(floats, dataset)
    with pytest.raises(ImageError, match="of floating point numbers; read it with pydicom and pass the array"):
        read_scan(floats.getvalue())


@pytest.mark.parametrize("kept", [140, 400, 0.5, 0.99])
def test_cut_files_are_refused_and_say_nothing_of_the_patient(kept: float) -> None:
    data = made(RAMP)
    with pytest.raises(ImageError) as caught:
        read_scan(data[: int(kept if kept > 1 else kept * len(data))])
    told = f"{caught.value} {caught.value.__cause__}"
    assert "SECRET" not in told
    assert "19010203" not in told


# Tag, VR: what this package or pydicom makes a number, a UID or a word of.
BROKEN = {
    "slope": (0x00281053, "DS"),
    "frames": (0x00280008, "IS"),
    "window": (0x00281050, "DS"),
    "spacing": (0x00280030, "DS"),
    "photometric": (0x00280004, "CS"),
    "character set": (0x00080005, "CS"),
    "class": (0x00080016, "UI"),
    "instance": (0x00080018, "UI"),
    "study": (0x0020000D, "UI"),
    "rows": (0x00280010, "US"),
}


@pytest.mark.parametrize("broken", [*BROKEN, "transfer syntax"])
def test_a_name_in_a_broken_element_is_told_nowhere(broken: str, caplog: pytest.LogCaptureFixture) -> None:
    name = b"SECRET^NAME."
    if broken == "transfer syntax":
        data = made(RAMP).replace(f"{ExplicitVRLittleEndian}\0".encode(), name.ljust(20, b"1"))
    else:
        tag, vr = BROKEN[broken]
        dataset, file = pydicom.dcmread(io.BytesIO(made(RAMP))), io.BytesIO()
        dataset._dict[Tag(tag)] = RawDataElement(Tag(tag), vr, len(name), name, 0, False, True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pydicom.dcmwrite(file, dataset)
        data = file.getvalue()
    caplog.clear()
    assert name in data
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            said = repr(read_scan(data))
        except ImageError as error:
            said = "".join(traceback.format_exception(error))
        dicom_size(data)
    assert "SECRET" not in f"{said} {caplog.text} {[str(one.message) for one in warned]}"


def test_no_patient_in_what_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(made(RAMP, PixelSpacing=[0.7, 0.5]))
    scan = read_scan(path)
    result = samsdk.segment(path, points_mm=[(10, 10)], device="cpu")
    result.save(tmp_path / "mask.json")
    told = f"{scan} {result} {result.to_dict()} {caplog.text} {(tmp_path / 'mask.json').read_text()}"
    assert "SECRET" not in told
    assert "19010203" not in told
    assert result.spacing == (0.5, 0.7)
    assert result.source == scan.source


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pydicom", None)
        with pytest.raises(MissingExtraError, match=r"reading DICOM needs pydicom: pip install 'samsdk\[medical\]'"):
            read_scan(made(RAMP))
    decoder = pydicom.pixels.get_decoder(RLELossless)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(MissingExtraError, match=r"compressed as RLE Lossless; pip install 'samsdk\[medical\]'"):
        read_scan(FILES / "MR_small_RLE.dcm")


def test_a_file_is_known_by_its_content_not_its_name(tmp_path: Path) -> None:
    bare = tmp_path / "IM000001"
    bare.write_bytes(made(RAMP))
    assert read_scan(bare).pixels.shape == (64, 64)
    picture = tmp_path / "photo.DCM"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 200)
    with pytest.raises(ImageError, match="expected a DICOM file, got one without DICOM's header"):
        read_scan(picture)


def test_a_scan_goes_wherever_an_image_goes() -> None:
    path = FILES / "MR_small.dcm"
    scan = read_scan(path)
    assert isinstance(scan, Scan)
    by_path, by_scan = (samsdk.segment(image, points=[(30, 30)], device="cpu") for image in (path, scan))
    np.testing.assert_array_equal(by_path.mask, by_scan.mask)
    assert by_path.mask.shape == (64, 64)
    np.testing.assert_array_equal(by_path.overlay(path), by_path.overlay(scan))
    other = samsdk.segment(Scan(scan.pixels, spacing=(2.0, 1.0)), points=[(30, 30)], device="cpu")
    assert (other.spacing, other.source) == ((2.0, 1.0), None)
