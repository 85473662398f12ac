"""Scans: an image with what its file knows about it: how large a pixel is, and what a DICOM object refers to."""

import os
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from samsdk.errors import ImageError
from samsdk.io.dicom import Source, has_dicom_name, is_dicom, read_dicom
from samsdk.io.dicom_pixels import Greyscale, ModalityFrame
from samsdk.io.dicom_spacing import Spacing, checked_spacing
from samsdk.io.encoded import decode_image, read_encoded
from samsdk.io.tiff import tiff_spacing

__all__ = ["Scan", "Source", "read_scan", "read_scan_to_view"]


@dataclass(frozen=True, eq=False)
class Scan:
    """An image and what is known about it. Whatever takes an image takes a scan too.

    Attributes:
        pixels: (H, W) grey or (H, W, 3) RGB, of any dtype that an image may have.
        spacing: (x, y) millimetres a pixel, None if unknown.
        source: the DICOM object that it comes from, None if it comes from another file.
    """

    pixels: NDArray[Any]
    spacing: Spacing | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        if self.spacing is not None and (len(self.spacing) != 2 or checked_spacing(*self.spacing) is None):
            raise ImageError(f"expected a spacing of two positive numbers, (x, y) mm a pixel, got {self.spacing}")


def read_scan(
    source: str | os.PathLike[str] | bytes, *, frame: int | None = None, window: Greyscale | None = None
) -> Scan:
    """Read an image file and what it says about itself.

    DICOM comes as a viewer shows it, in 8 bits: rescaled, by its table of values of interest or its first window, else
    stretched from its least to its greatest number; 0 is black, colours are RGB. Its spacing is `PixelSpacing`; else
    `ImagerPixelSpacing`, which is that at the detector, where an object appears larger than it is; else
    `NominalScannedPixelSpacing`; else that on which all ultrasound regions of tissue agree.

    A TIFF has a spacing where ImageJ wrote a unit of length or where its resolution is per centimetre; one per inch is
    a printer's or a screen's, and means nothing.

    Args:
        source: path of a DICOM, PNG, JPEG, BMP, TIFF, WebP, PGM or PPM file, or the bytes of one. A DICOM file needs
            no suffix.
        frame: which frame of a DICOM file or page of a TIFF, from 0 on. A DICOM file of several has to be told; of a
            TIFF None is the first page.
        window: centre and width of the greyscale of a DICOM file, in the numbers of its modality, as (40, 400) of CT;
            None does as the file says.

    Returns:
        The scan; of other files than DICOM the pixels as they are in the file, see `samsdk.io.images.read_image`.

    Raises:
        ImageError: the file is missing, empty, truncated, of another format, or larger than `MAX_PIXELS`; it has no
            such frame, or several of which none was named; or no picture in it.
        MissingExtraError: DICOM, or its compression, needs the extra `medical`.
    """
    data, name = read_encoded(source)
    if window is not None:
        window = _checked_window(window)
    if is_dicom(data):
        found = read_dicom(data, name, frame, window)
        return Scan(found.pixels, found.spacing, found.source)
    if window is not None:
        raise ImageError(f"cannot read {name}: a window is for DICOM files; leave it out")
    if data and has_dicom_name(source):
        raise ImageError(
            f"cannot read {name}: expected a DICOM file, got one without DICOM's header (DICM at byte 128); get a "
            "whole copy, or export it again"
        )
    return Scan(decode_image(data, name, frame), tiff_spacing(data, frame or 0))


def read_scan_to_view(
    data: bytes, *, frame: int | None = None, window: Greyscale | None = None
) -> tuple[Scan, ModalityFrame | None]:
    """Read an image file for a viewer that has a window of its own.

    Args:
        data: the bytes of the file; else as `read_scan`.
        frame: see `read_scan`.
        window: see `read_scan`.

    Returns:
        What `read_scan` returns; and of a greyscale DICOM file the modality's numbers, of which its pixels show those
        within the window.

    Raises:
        ImageError, MissingExtraError: as `read_scan`.
    """
    if not is_dicom(data):
        return read_scan(data, frame=frame, window=window), None
    checked = None if window is None else _checked_window(window)
    found = read_dicom(*read_encoded(data), frame, checked, modality=True)
    return Scan(found.pixels, found.spacing, found.source), found.modality


def _checked_window(window: Greyscale) -> Greyscale:
    try:
        centre, width = (float(number) for number in window)
    except (TypeError, ValueError) as error:
        raise ImageError(f"expected a window (centre, width), got {window!r}") from error
    if not (abs(centre) < float("inf") and 1 <= width < float("inf")):
        raise ImageError(f"expected a window (centre, width) with a width of at least 1, got {window!r}")
    return centre, width
