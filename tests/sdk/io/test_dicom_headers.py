"""Sizes of DICOM files, read before anything is decoded."""

import io
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from samsdk.io.dicom_headers import dicom_size, inflates_beyond
from samsdk.io.scans import read_scan


def packaged(name: str) -> bytes:
    return Path(str(pydicom.data.get_testdata_file(name, download=False))).read_bytes()


@pytest.mark.parametrize("name", ["CT_small.dcm", "SC_rgb_rle_2frame.dcm", "JPEG2000.dcm", "image_dfl.dcm"])
def test_the_header_says_the_size_that_the_pixels_have(name: str) -> None:
    data = packaged(name)
    frame = 0 if "2frame" in name else None
    height, width = read_scan(data, frame=frame).pixels.shape[:2]
    frames = 2 if frame is not None else 1
    assert dicom_size(data) == (width, height, frames)
    # Without its pixels it says the same, so that none was needed.
    if name == "CT_small.dcm":
        assert dicom_size(data[: -width * height * 2]) == (width, height, frames)


@pytest.mark.parametrize("data", [b"", b"no DICOM", bytes(200), b"\x89PNG\r\n\x1a\n" + bytes(300)])
def test_what_is_no_dicom_has_no_such_size(data: bytes) -> None:
    assert dicom_size(data) is None
    assert not inflates_beyond(data, 0)


def test_damaged_headers_have_none() -> None:
    data = packaged("CT_small.dcm")
    rng = np.random.default_rng(0)
    for _ in range(50):
        broken = bytearray(data[: rng.integers(140, 2000)])
        for place in rng.integers(130, len(broken), 5):
            broken[place] = rng.integers(256)
        assert dicom_size(bytes(broken)) is None or len(dicom_size(bytes(broken)) or ()) == 3


def deflated(zeros: int) -> bytes:
    """A deflated CT image with so many bytes of nothing in it."""
    dataset = pydicom.dcmread(io.BytesIO(packaged("CT_small.dcm")))
    dataset.PixelData = bytes(zeros)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    held = io.BytesIO()
    dataset.save_as(held, enforce_file_format=True)
    return held.getvalue()


def test_a_deflated_file_is_as_large_as_what_is_in_it() -> None:
    data = deflated(2_000_000)
    assert len(data) < 20_000
    body = 144 + int.from_bytes(data[140:144], "little")
    true = len(zlib.decompress(data[body:], -zlib.MAX_WBITS))
    assert true > 2_000_000
    assert inflates_beyond(data, true - 1)
    assert not inflates_beyond(data, true)
    assert not inflates_beyond(packaged("CT_small.dcm"), 0)
    assert not inflates_beyond(data[: body + 5] + b"\xff" * 50, true)
