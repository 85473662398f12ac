"""What the first bytes of an image file say about it, read without decoding a pixel.

Nothing here raises on garbage: whatever cannot be understood is `None` or `False`.
"""

import re
import struct
from collections.abc import Iterator
from typing import Final

from samsdk.io.tiff import HEIGHT, SIGNATURES, UNREADABLE, WIDTH, tiff_pages

FORMATS: Final = ("PNG", "JPEG", "BMP", "TIFF", "WebP", "PGM", "PPM")
"""The formats that `image_format` knows."""

# In entropy-coded data FF00 is an escaped FF, FFD0-FFD7 are restarts and FFFF is padding; any other FFxx ends it.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# TEM, SOI and EOI stand alone; every other marker is followed by a length.
_JPEG_BARE = frozenset({0x01, 0xD8, 0xD9})
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SOS, _JPEG_EOI = 0xDA, 0xD9
_PNM_GAP = rb"(?:\s|#[^\n]*\n)++"
_PNM = re.compile(rb"P([56])" + _PNM_GAP + rb"(\d{1,9})" + _PNM_GAP + rb"(\d{1,9})" + _PNM_GAP + rb"(\d{1,5})\s")
# A whole PNM header, comments included, fits in this; it also bounds what the pattern may look at.
_PNM_HEADER = 1024


def image_format(data: bytes) -> str | None:
    """Name the format of an encoded image from its signature: one of `FORMATS`, or None."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"BM"):
        return "BMP"
    if data[:4] in SIGNATURES:
        return "TIFF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    return {b"P5": "PGM", b"P6": "PPM"}.get(bytes(data[:2]))


def image_size(data: bytes) -> tuple[int, int] | None:
    """Read the size of an encoded image from its header alone.

    Args:
        data: The file's bytes, or enough of its beginning to hold the header.

    Returns:
        (width, height) in pixels as stored, before any EXIF orientation; for a TIFF with several pages that of the
        first. None where the format is not one of `FORMATS` or the header is damaged. A damaged file may say 0.
    """
    read = {
        "PNG": _png_size,
        "JPEG": _jpeg_size,
        "BMP": _bmp_size,
        "TIFF": _tiff_size,
        "WebP": _webp_size,
        "PGM": _pnm_size,
        "PPM": _pnm_size,
    }.get(image_format(data) or "")
    try:
        return read(data) if read else None
    except UNREADABLE:
        return None


def frame_sizes(data: bytes) -> list[tuple[int, int]]:
    """Read the size of each image of a file from its header alone: of all pages of a TIFF, else of the one that it has.

    Args:
        data: The whole file.

    Returns:
        (width, height) of each, as `image_size` gives it; a page that does not say its own has 0 pixels. Empty where
        `image_size` gives None.
    """
    if image_format(data) == "TIFF":
        return [(tags.get(WIDTH, 0), tags.get(HEIGHT, 0)) for tags in tiff_pages(data)]
    size = image_size(data)
    return [] if size is None else [size]


def is_truncated(data: bytes) -> bool:
    """Say whether an encoded image visibly stops before its end.

    Decoders fill what is missing with grey and report success, so this looks for the end itself: PNG's last chunk, the
    JPEG marker that ends the image (not the one that ends a thumbnail inside its EXIF block), the length that a BMP,
    WebP, PGM or PPM header promises. TIFF has no end to look for: its decoder fails on strips that are not there.

    Args:
        data: The whole file.

    Returns:
        True if the end is missing; False if it is there or the format has none.
    """
    check = {
        "PNG": _png_truncated,
        "JPEG": _jpeg_truncated,
        "BMP": _bmp_truncated,
        "WebP": _webp_truncated,
        "PGM": _pnm_truncated,
        "PPM": _pnm_truncated,
    }.get(image_format(data) or "")
    try:
        return check(data) if check else False
    except UNREADABLE:
        # A header that stops half-way is an end that is missing.
        return True


def _png_size(data: bytes) -> tuple[int, int] | None:
    if data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _png_truncated(data: bytes) -> bool:
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if data[position + 4 : position + 8] == b"IEND":
            return False
        position += 12 + length
    return True


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker and where its payload starts; a thumbnail inside an EXIF segment is stepped over."""
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        marker, position = data[match.start() + 1], match.end()
        yield marker, position + 2
        if marker not in _JPEG_BARE:
            (length,) = struct.unpack_from(">H", data, position)
            position += max(length, 2)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    for marker, payload in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, payload + 1)
            return width, height
        if marker in (_JPEG_SOS, _JPEG_EOI):
            return None
    return None


def _jpeg_truncated(data: bytes) -> bool:
    scans = 0
    for marker, _ in _jpeg_segments(data):
        if marker == _JPEG_EOI:
            return scans == 0
        scans += marker == _JPEG_SOS
    return True


def _bmp_header(data: bytes) -> tuple[int, int, int, int]:
    """Return width, signed height, bits per pixel and compression."""
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        return width, height, bits, 0
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    return width, height, bits, compression


def _bmp_size(data: bytes) -> tuple[int, int] | None:
    width, height, _, _ = _bmp_header(data)
    # A negative height means that the rows are stored from the top.
    return (width, abs(height)) if width >= 0 else None


def _bmp_truncated(data: bytes) -> bool:
    width, height, bits, compression = _bmp_header(data)
    offset = int.from_bytes(data[10:14], "little")
    run_length_coded = compression in (1, 2)
    row = (width * bits + 31) // 32 * 4
    return len(data) < offset + (0 if run_length_coded else row * abs(height))


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _webp_truncated(data: bytes) -> bool:
    return len(data) < 8 + int.from_bytes(data[4:8], "little")


def _pnm_header(data: bytes) -> tuple[int, int, int, int]:
    """Return width, height, the number of bytes a pixel takes, and where the pixels start."""
    match = _PNM.match(data[:_PNM_HEADER])
    if match is None:
        raise ValueError("not a PGM or PPM header")
    kind, width, height, maximum = (int(text) for text in match.groups())
    return width, height, (1 if kind == 5 else 3) * (1 if maximum < 256 else 2), match.end()


def _pnm_size(data: bytes) -> tuple[int, int] | None:
    return _pnm_header(data)[:2]


def _pnm_truncated(data: bytes) -> bool:
    width, height, pixel, start = _pnm_header(data)
    return len(data) < start + width * height * pixel


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    pages = tiff_pages(data)
    return (pages[0][WIDTH], pages[0][HEIGHT]) if pages else None
