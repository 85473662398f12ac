import struct
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samsdk.io.headers import FORMATS, frame_sizes, image_format, image_size, is_truncated
from samsdk.io.tiff import tiff_pages, tiff_spacing

HEIGHT, WIDTH = 43, 61
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".webp": "WebP", ".pgm": "PGM", ".ppm": "PPM"}


def encoded(suffix: str, *parameters: int) -> bytes:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    done, data = cv2.imencode(suffix, image[..., 0] if suffix == ".pgm" else image, parameters)
    assert done
    return data.tobytes()


def tiff(order: str, entries: dict[int, tuple[int, int, int]], *, big: bool = False) -> bytes:
    """A TIFF that is nothing but one directory: tag -> (type, count, value)."""
    mark = b"II" if order == "<" else b"MM"
    pointer = "Q" if big else "I"
    if big:
        data = mark + struct.pack(order + "HHHQ", 43, 8, 0, 16) + struct.pack(order + "Q", len(entries))
    else:
        data = mark + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", len(entries))
    for tag, (kind, count, value) in entries.items():
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}[kind]
        field = struct.pack(order + code, value).ljust(8 if big else 4, b"\0")
        data += struct.pack(order + "HH" + pointer, tag, kind, count) + field
    return data


def jpeg_segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_size_of_what_opencv_writes(suffix: str) -> None:
    data = encoded(suffix)
    assert image_format(data) == SUFFIXES[suffix]
    assert image_size(data) == (WIDTH, HEIGHT)
    assert image_size(data[:700]) == (WIDTH, HEIGHT) or suffix == ".tif"
    assert not is_truncated(data)
    assert set(SUFFIXES.values()) == set(FORMATS)


def test_size_of_lossy_webp_and_progressive_jpeg() -> None:
    assert image_size(encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 50)) == (WIDTH, HEIGHT)
    progressive = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert image_size(progressive) == (WIDTH, HEIGHT)
    assert not is_truncated(progressive)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_tiff_in_both_byte_orders_and_sizes(order: str, big: bool) -> None:
    data = tiff(order, {256: (3, 1, 700), 257: (4, 1, 90000), 262: (3, 1, 0), 338: (3, 1, 2)}, big=big)
    assert image_size(data) == (700, 90000)
    assert tiff_pages(data) == [{256: 700, 257: 90000, 262: 0, 338: 2}]


def test_every_page_of_a_tiff_has_a_size() -> None:
    pages = [np.zeros(size, np.uint8) for size in ((4, 6), (50, 70), (3, 3))]
    done, data = cv2.imencodemulti(".tif", pages)
    assert done
    assert frame_sizes(data.tobytes()) == [(6, 4), (70, 50), (3, 3)]
    assert frame_sizes(tiff("<", {256: (3, 1, 5)})) == [(5, 0)], "its height is not said"
    assert frame_sizes(encoded(".png")) == [(WIDTH, HEIGHT)]
    assert frame_sizes(b"no image") == []


def test_tiff_values_that_do_not_fit_in_the_entry_are_followed() -> None:
    data = tiff("<", {256: (3, 1, 5), 257: (3, 1, 6), 258: (3, 3, 0)})
    data = data[:-4] + struct.pack("<I", len(data)) + struct.pack("<HHH", 16, 16, 16)
    assert tiff_pages(data)[0][258] == 16


def test_bmp_with_rows_from_the_top_and_with_the_oldest_header() -> None:
    new = (b"BM" + struct.pack("<IIIIiiHHI", 0, 0, 54, 40, 30, -20, 1, 24, 0)).ljust(54, b"\0")
    assert image_size(new) == (30, 20)
    assert is_truncated(new)
    assert not is_truncated(new + bytes(92 * 20))
    assert is_truncated(new + bytes(92 * 20 - 1))
    assert image_size(b"BM" + struct.pack("<IIIIHHHH", 0, 0, 26, 12, 30, 20, 1, 24)) == (30, 20)


def test_webp_extended_header() -> None:
    body = b"WEBPVP8X" + struct.pack("<IB3x", 10, 0) + (16383).to_bytes(3, "little") + (8191).to_bytes(3, "little")
    assert image_size(b"RIFF" + struct.pack("<I", len(body)) + body) == (16384, 8192)


def test_pnm_header_with_comments_and_16_bits() -> None:
    data = b"P5 # made by hand\n# 9 9\n4 3\n65535\n"
    assert image_size(data) == (4, 3)
    assert is_truncated(data + bytes(23))
    assert not is_truncated(data + bytes(24))


def test_pnm_header_of_blanks_costs_no_time() -> None:
    started = time.perf_counter()
    assert image_size(b"P5" + b" " * 100_000) is None
    assert image_size(b"P5" + b"#\n" * 100_000) is None
    assert time.perf_counter() - started < 1


def test_a_thumbnail_is_neither_the_image_nor_its_end() -> None:
    thumbnail = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    whole = encoded(".jpg")
    with_thumbnail = whole[:2] + jpeg_segment(0xE1, b"Exif\0\0" + thumbnail) + whole[2:]
    assert image_size(with_thumbnail) == (WIDTH, HEIGHT)
    assert not is_truncated(with_thumbnail)
    for kept in (0.999, 0.9, 0.5):
        assert is_truncated(with_thumbnail[: int(len(with_thumbnail) * kept)])


def test_a_jpeg_end_without_any_scan_is_no_end() -> None:
    assert is_truncated(b"\xff\xd8" + jpeg_segment(0xE0, b"JFIF") + b"\xff\xd9")


def test_bytes_after_the_end_do_no_harm() -> None:
    for suffix in SUFFIXES:
        assert not is_truncated(encoded(suffix) + b"trailer")


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".tif"])
def test_every_cut_is_seen(suffix: str) -> None:
    data = encoded(suffix)
    seen = [is_truncated(data[:length]) for length in range(16, len(data))]
    # A PNG ends with the 4 bytes of a checksum; all 12 bytes of its last chunk are asked for.
    assert all(seen)


@pytest.mark.parametrize("data", [b"", b"\xff", b"GIF89a", b"hello", b"\0" * 64])
def test_unknown_bytes_have_no_format_and_no_size(data: bytes) -> None:
    assert image_format(data) is None
    assert image_size(data) is None
    assert not is_truncated(data)
    assert tiff_pages(data) == []
    assert tiff_spacing(data, 0) is None


@settings(max_examples=400, deadline=None)
@given(
    start=st.sampled_from([b"", *(encoded(suffix)[:40] for suffix in SUFFIXES), b"MM\0*", b"II+\0\x08\0\0\0", b"RIFF"]),
    kept=st.integers(0, 40),
    rest=st.binary(max_size=400),
)
def test_garbage_never_raises(start: bytes, kept: int, rest: bytes) -> None:
    data = start[:kept] + rest
    size = image_size(data)
    assert size is None or (size[0] >= 0 and size[1] >= 0)
    assert is_truncated(data) in (True, False)
    assert all(value >= 0 for page in tiff_pages(data) for value in page.values())
    tiff_spacing(data, 0)


@settings(max_examples=300, deadline=None)
@given(suffix=st.sampled_from(sorted(SUFFIXES)), seed=st.integers(0, 2**32 - 1), flips=st.integers(1, 20))
def test_damage_never_raises(suffix: str, seed: int, flips: int) -> None:
    data = bytearray(encoded(suffix))
    rng = np.random.default_rng(seed)
    for position in rng.integers(0, min(len(data), 400), flips):
        data[position] = rng.integers(0, 256)
    image_size(bytes(data))
    is_truncated(bytes(data))
    tiff_pages(bytes(data))
    tiff_spacing(bytes(data), 0)
