"""DICOM files, through pydicom (extra `medical`).

Of a file only those elements are parsed that `_TAGS` names. None of them says who the patient is, so that no name,
number or date of a patient can reach a result, a log or an error.
"""

import io
import os
import re
import struct
import types
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import ImageError, MissingExtraError, SamsdkError
from samsdk.io.dicom_pixels import (
    PIXEL_TAGS,
    Greyscale,
    ModalityFrame,
    modality_frame,
    show_colour,
    show_grey,
)
from samsdk.io.dicom_quiet import silence
from samsdk.io.dicom_spacing import SPACING_TAGS, Spacing, pixel_spacing
from samsdk.io.encoded import check_frame, check_pixels

SUFFIXES: Final = (".dcm", ".dicom")
_PREFIX: Final = slice(128, 132)
_UID: Final = re.compile(r"[0-9.]{1,64}")
# Which element each field of `Source` is read from.
_SOURCE_TAGS: Final = {
    "sop_class": "SOPClassUID",
    "sop_instance": "SOPInstanceUID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "frame_of_reference": "FrameOfReferenceUID",
}
_FLOATS: Final = ("FloatPixelData", "DoubleFloatPixelData")
_GROUPS: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_MACROS: Final = ("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence")
_TAGS: Final = (
    *_SOURCE_TAGS.values(),
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "BitsAllocated",
    "HighBit",
    "NumberOfFrames",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
    *_FLOATS,
    *_GROUPS,
    *PIXEL_TAGS,
    *SPACING_TAGS,
)
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
_PALETTE: Final = "PALETTE COLOR"
# pydicom hands all of these over as RGB.
_COLOURS: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_OTHER_COLOURS: Final = ("ARGB", "CMYK", "HSV", "XYB", "YBR_PARTIAL_420", "YBR_PARTIAL_422")
# What pydicom and its plugins raise on files that are damaged.
_DAMAGE: Final = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"


@dataclass(frozen=True)
class Source:
    """What an object that is made of a DICOM image has to refer to. It does not say who the patient is.

    Attributes:
        sop_class: UID of the kind of object.
        sop_instance: UID of the object.
        study: UID of the study.
        series: UID of the series.
        frame_of_reference: UID of the space that positions are in, if there is one.
        frame: number of the frame, counted from 1 as DICOM does; None where the object is one image.
    """

    sop_class: str
    sop_instance: str
    study: str | None = None
    series: str | None = None
    frame_of_reference: str | None = None
    frame: int | None = None


def is_dicom(data: bytes) -> bool:
    """Whether a file that begins with these bytes is a DICOM file."""
    return data[_PREFIX] == b"DICM"


def has_dicom_name(source: object) -> bool:
    """Whether it is a path with a DICOM file's suffix."""
    return isinstance(source, (str, os.PathLike)) and os.fspath(source).lower().endswith(SUFFIXES)


@dataclass(frozen=True, eq=False)
class DicomFrame:
    """One frame of a DICOM file.

    Attributes:
        pixels: the frame as a viewer shows it, [H, W] or [H, W, 3] RGB.
        spacing: millimetres a pixel (x, y), None if unknown.
        source: what an object made of it has to refer to.
        modality: the same in the modality's numbers; None of colours, and where it was not asked for.
    """

    pixels: NDArray[np.uint8]
    spacing: Spacing | None
    source: Source
    modality: ModalityFrame | None


def read_dicom(
    data: bytes, name: str, frame: int | None = None, window: Greyscale | None = None, *, modality: bool = False
) -> DicomFrame:
    """Read one frame of a DICOM file.

    Args:
        data: the whole file.
        name: what to call it in an error.
        frame: which frame, from 0 on; None where the file has one.
        window: centre and width of the greyscale, in the modality's numbers; None takes the file's.
        modality: whether the modality's numbers are wanted, too.

    Raises:
        ImageError: it has no pixels, none that are a picture, several frames of which none was named, or is damaged.
        MissingExtraError: pydicom is not installed, or what its compression needs.
    """
    pydicom = _pydicom()
    try:
        with silence():
            dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=list(_TAGS))
            kind = _check_kind(dataset, name, pydicom)
            frames = _count_frames(dataset, name, frame)
            _merge_groups(dataset, frame or 0)
            _check_syntax(dataset, name, pydicom)
        stored: NDArray[Any] = pydicom.pixels.pixel_array(dataset, index=frame or 0)
        stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        with silence():
            grey = kind in _GREY
            shown = show_grey(stored, dataset, window) if grey else show_colour(stored, dataset, pydicom)
            numbers = modality_frame(stored, dataset, window) if grey and modality else None
            return DicomFrame(shown, pixel_spacing(dataset), _source(dataset, frame or 0, frames), numbers)
    except SamsdkError:
        # Some of them are ValueErrors too, and already say what happened.
        raise
    except (*_DAMAGE, pydicom.errors.InvalidDicomError):
        # What pydicom says is not repeated, nor kept as the cause: it may quote the file.
        raise ImageError(
            f"cannot read {name}: expected a whole DICOM file, got one that is truncated or damaged; get a whole copy"
        ) from None


def _count_frames(dataset: Any, name: str, frame: int | None) -> int:
    """Return how many frames there are; refuse one that is not there, and none where it has to be said which."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    check_frame(frame, frames, name, "frames")
    if frame is None and frames > 1:
        raise ImageError(
            f"cannot read {name}: it has {frames} frames, say which: samsdk.read_scan(..., frame=0) to "
            f"frame={frames - 1}, or --frame in the command line"
        )
    return frames


def _check_kind(dataset: Any, name: str, pydicom: types.ModuleType) -> str:
    """Return the photometric interpretation of what is a picture; refuse what is none."""
    kind = _kind(dataset, pydicom)
    if any(tag in dataset for tag in _FLOATS):
        raise ImageError(
            f"cannot read {name}: expected a picture, got {kind} of floating point numbers; read it with pydicom and "
            "pass the array"
        )
    if "PixelData" not in dataset or "Rows" not in dataset:
        raise ImageError(f"cannot read {name}: expected a DICOM file with pixels, got {kind}, which holds none")
    check_pixels(int(dataset.Rows), int(dataset.Columns), f"cannot read {name}: ")
    if int(dataset.BitsAllocated) == 1:
        raise ImageError(
            f"cannot read {name}: expected a picture, got {kind} of 1 bit a pixel, which is a mask; read it with "
            "pydicom and pass the array"
        )
    photometric = str(dataset.PhotometricInterpretation)
    signed_colour = photometric not in _GREY and int(dataset.PixelRepresentation)
    if photometric not in (*_GREY, *_COLOURS, _PALETTE) or signed_colour:
        # Only what the standard knows: the file's own text is not repeated.
        known = photometric if photometric in (*_COLOURS, _PALETTE, *_OTHER_COLOURS) else "something unknown"
        raise ImageError(
            f"cannot read {name}: expected greyscale, RGB, YBR or a palette, got {'signed ' if signed_colour else ''}"
            f"{known}; convert it to RGB first"
        )
    return photometric


def _kind(dataset: Any, pydicom: types.ModuleType) -> str:
    known = _known_name(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "", pydicom)
    return f"a DICOM {known!r}" if known else "a DICOM object"


def _known_name(uid: str, pydicom: types.ModuleType) -> str | None:
    """What the dictionary calls a UID; None if it does not know it: the file's own text is not repeated."""
    name = str(pydicom.uid.UID(uid).name) if uid else uid
    return None if name == uid else name


def _merge_groups(dataset: Any, frame: int) -> None:
    """Put what the functional groups of an enhanced file say of a frame where other files have it."""
    for name, index in zip(_GROUPS, (0, frame), strict=True):
        groups = dataset.get(name) or []
        if index >= len(groups):
            continue
        for macro in _MACROS:
            for item in (groups[index].get(macro) or [])[:1]:
                dataset.update({element.tag: element for element in item})


def _check_syntax(dataset: Any, name: str, pydicom: types.ModuleType) -> None:
    """Refuse pixels that are encoded as nobody here decodes them."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise ImageError(f"cannot read {name}: its header does not say how its pixels are encoded; get a whole copy")
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        known = _known_name(syntax, pydicom) or "something unknown"
        raise ImageError(
            f"cannot read {name}: its pixels are encoded as {known}, which no reader of pydicom's knows; convert it "
            "first"
        ) from None
    if not decoder.is_available:
        raise MissingExtraError(
            f"cannot read {name}: its pixels are compressed as {syntax.name}; pip install 'samsdk[medical]'"
        )
    if syntax == _JPEG_EXTENDED and int(dataset.BitsStored) > 8 and "pylibjpeg" not in decoder.available_plugins:
        raise MissingExtraError(
            f"cannot read {name}: its pixels are compressed as {syntax.name} with more than 8 bits, which only "
            "software under the GPL decodes: pip install pylibjpeg-libjpeg"
        )


def _source(dataset: Any, frame: int, frames: int) -> Source:
    found = {field: _uid(dataset.get(tag)) for field, tag in _SOURCE_TAGS.items()}
    sop_class, sop_instance = found.pop("sop_class") or "", found.pop("sop_instance") or ""
    return Source(sop_class, sop_instance, **found, frame=frame + 1 if frames > 1 else None)


def _uid(value: Any) -> str | None:
    """A UID; None where there is none, or another text in its place, which may name somebody."""
    text = str(value or "")
    return text if _UID.fullmatch(text) else None


def _pydicom() -> types.ModuleType:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise MissingExtraError("reading DICOM needs pydicom: pip install 'samsdk[medical]'") from error
    module: types.ModuleType = pydicom
    return module
