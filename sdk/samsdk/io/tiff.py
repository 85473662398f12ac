"""What a TIFF's directories say about its pages, read without decoding a pixel.

Nothing here raises on garbage: whatever cannot be understood is left out.
"""

import re
import struct
from typing import Final

WIDTH: Final = 256
HEIGHT: Final = 257
BITS: Final = 258
PHOTOMETRIC: Final = 262
EXTRA_SAMPLES: Final = 338
_DESCRIPTION: Final = 270
_RESOLUTIONS: Final = (282, 283)
_RESOLUTION_UNIT: Final = 296
_CENTIMETRES: Final = 3

SIGNATURES: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""A TIFF's first four bytes: of both byte orders, and with 32 or 64 bits."""

# Whole numbers of all sizes; text and ratios are read where they are wanted.
_INTEGERS: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}
_TEXT: Final = 2
_RATIO: Final = 5
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 16: 8}
# Real directories have tens of entries; a damaged count must not cost time. Nor must a chain of pages without end.
_MAX_ENTRIES: Final = 512
_MAX_PAGES: Final = 10_000
_MAX_TEXT: Final = 2**16
UNREADABLE: Final = (struct.error, IndexError, KeyError, ValueError, OverflowError)

# Programs that know no scale write the dots per inch of a screen or a printer, some of them in centimetres.
_PRINT_DPI: Final = (72, 75, 96, 100, 120, 144, 150, 180, 192, 200, 240, 300, 360, 400, 600, 720, 1200, 2400, 4800)
_IMAGEJ_UNIT: Final = re.compile(r"^ImageJ=.*?^unit=([^\n]+)$", re.MULTILINE | re.DOTALL)
# ImageJ writes the Greek letter as an escape; a word stands for it in files of old versions.
_MILLIMETRES: Final = {
    "nm": 1e-6,
    "um": 1e-3,
    "µm": 1e-3,
    "μm": 1e-3,
    "\\u00b5m": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "mm": 1.0,
    "cm": 10.0,
}


def tiff_pages(data: bytes) -> list[dict[int, int]]:
    """Read the whole-number tags of each page: tag -> its first value; empty if it is not a TIFF."""
    return [_whole_numbers(entries) for entries in _directories(data)]


def tiff_spacing(data: bytes, page: int) -> tuple[float, float] | None:
    """Read how large a pixel is.

    It is known where ImageJ's description names a unit of length, or where the resolution is given per centimetre; not
    where it is given per inch, and not where it is a printer's or a screen's dots per inch put into centimetres: those
    are written without anybody having measured.

    Args:
        data: The whole file.
        page: Index of the page.

    Returns:
        (x, y) millimetres a pixel, or None.
    """
    directories = _directories(data)
    if page >= len(directories):
        return None
    entries = directories[page]
    ratios = [entries.get(tag) for tag in _RESOLUTIONS]
    # ImageJ describes the first page alone.
    text = directories[0].get(_DESCRIPTION)
    named = _IMAGEJ_UNIT.search(text) if isinstance(text, str) else None
    if named:
        length = _MILLIMETRES.get(named[1].strip().lower())
    else:
        length = 10.0 if entries.get(_RESOLUTION_UNIT) == _CENTIMETRES else None
    x, y = (ratio if isinstance(ratio, float) and ratio > 0 else None for ratio in ratios)
    if length is None or x is None or y is None:
        return None
    if not named and any(abs(x * 2.54 / dpi - 1) < 0.005 for dpi in _PRINT_DPI):
        return None
    return length / x, length / y


Entries = dict[int, int | float | str]


def _directories(data: bytes) -> list[Entries]:
    found: list[Entries] = []
    if data[:4] not in SIGNATURES:
        return found
    order = "<" if data.startswith(b"II") else ">"
    big = b"+" in data[2:4]
    pointer = "Q" if big else "I"
    seen: set[int] = set()
    try:
        (start,) = struct.unpack_from(order + pointer, data, 8 if big else 4)
        while start and start not in seen and len(found) < _MAX_PAGES:
            seen.add(start)
            entries, start = _directory(data, start, order, big)
            found.append(entries)
    except UNREADABLE:
        # The pages before the damage are there.
        pass
    return found


def _directory(data: bytes, start: int, order: str, big: bool) -> tuple[Entries, int]:
    """The entries of one page, and where the next page's are; 0 after the last."""
    # BigTIFF has 8-byte offsets and counts where TIFF has 4-byte offsets and 2- and 4-byte counts.
    pointer, number, entry, inline = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    (count,) = struct.unpack_from(order + number, data, start)
    first = start + struct.calcsize(number)
    found: Entries = {}
    for position in range(first, first + entry * min(count, _MAX_ENTRIES), entry):
        tag, kind, length = struct.unpack_from(f"{order}HH{pointer}", data, position)
        if kind not in _SIZES:
            continue
        value = position + entry - inline
        if length * _SIZES[kind] > inline:
            (value,) = struct.unpack_from(order + pointer, data, value)
        found.setdefault(tag, _value(data, order, kind, length, value))
    after = first + entry * count
    last = after + struct.calcsize(pointer) > len(data)
    (following,) = (0,) if last else struct.unpack_from(order + pointer, data, after)
    return found, following


def _value(data: bytes, order: str, kind: int, length: int, position: int) -> int | float | str:
    if kind == _TEXT:
        return data[position : position + min(length, _MAX_TEXT)].decode("utf-8", "replace").rstrip("\0")
    if kind == _RATIO:
        # A size that cannot be read is no reason to refuse the pixels.
        above, below = struct.unpack_from(order + "II", data, position) if position + 8 <= len(data) else (0, 0)
        return above / below if below else 0.0
    (value,) = struct.unpack_from(order + _INTEGERS[kind], data, position)
    return int(value)


def _whole_numbers(entries: Entries) -> dict[int, int]:
    return {tag: value for tag, value in entries.items() if isinstance(value, int)}
