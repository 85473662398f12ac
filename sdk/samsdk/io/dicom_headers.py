"""What the header of a DICOM file says about its size, read before a pixel is decoded, as `headers` does for others."""

import io
import zlib
from typing import Final

from samsdk.backends.extras import is_importable
from samsdk.io.dicom import is_dicom
from samsdk.io.dicom_quiet import silence

_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
# The length of the file meta information, which is never compressed, and where that begins (PS3.10, 7.1).
_META_LENGTH: Final = slice(140, 144)
_META_END: Final = 144
_TAGS: Final = ["Rows", "Columns", "NumberOfFrames"]


def dicom_size(data: bytes) -> tuple[int, int, int] | None:
    """Read (width, height, number of frames) of a DICOM image from its header.

    A deflated file is inflated for that; see `inflates_beyond`.

    Args:
        data: the whole file.

    Returns:
        None where it is no DICOM file, has no image, is damaged, or pydicom is not installed.
    """
    if not is_dicom(data) or not is_importable("pydicom"):
        return None
    import pydicom

    try:
        with silence():
            header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=_TAGS)
            return int(header.Columns), int(header.Rows), max(1, int(header.get("NumberOfFrames") or 1))
    except Exception:  # pydicom raises nearly anything on damaged files; reading the image will say what is wrong
        return None


def inflates_beyond(data: bytes, most: int) -> bool:
    """Whether a DICOM file is a deflated one of more than so many bytes: deflating makes a thousandth of zeros.

    Args:
        data: the whole file; False if it is of another kind or damaged.
        most: bytes, uncompressed.
    """
    end = _META_END + int.from_bytes(data[_META_LENGTH], "little")
    if not is_dicom(data) or _DEFLATED not in data[_META_END:end]:
        return False
    try:
        return len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[end:], most + 1)) > most
    except zlib.error:
        return False
