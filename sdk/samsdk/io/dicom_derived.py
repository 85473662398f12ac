"""What DICOM objects that are made of an image have in common: the image's header, and who made them.

Such an object belongs to the patient and the study of its image, so the image's file is read once more when it is
written. What identifies the patient goes from the one file into the other, and nowhere else: neither errors nor logs
nor warnings hold it.
"""

import io
import os
import re
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from samsdk.errors import ImageError, MissingExtraError, SamsdkError
from samsdk.io.dicom import is_dicom
from samsdk.io.dicom_quiet import silence
from samsdk.io.encoded import read_encoded

File = str | os.PathLike[str] | bytes

MAKER: Final = "samsdk"
# What an object that is made of an image has to say of it.
_NEEDED: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# An object has to have these, though they may be empty; files that were made anonymous often lack them.
_MAY_BE_EMPTY: Final = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_DATE: Final = re.compile(r"\d{8}")
_TIME: Final = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")
_TIMES: Final = (("PatientBirthDate", _DATE, "."), ("StudyDate", _DATE, "."), ("StudyTime", _TIME, ":"))
_SEXES: Final = ("", "M", "F", "O")
# What pydicom and highdicom raise on headers that they do not understand.
_REFUSALS: Final = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, eq=False)
class Concept:
    """A word of a coding scheme, as DICOM has it.

    Attributes:
        value: its code.
        meaning: in words.
        scheme: the coding scheme: `SCT` for SNOMED CT, `DCM` for DICOM's own, `99...` for a private one.
    """

    value: str
    meaning: str
    scheme: str = "SCT"


def read_header(file: File) -> Any:
    """Read the header of a DICOM image, as a pydicom data set without its pixels.

    Args:
        file: path or bytes.

    Raises:
        ImageError: the file is missing, damaged or no DICOM file, has no pixels, or lacks what refers to it.
        MissingExtraError: highdicom is not installed.
    """
    highdicom_library()
    import pydicom

    data, name = read_encoded(file)
    if not is_dicom(data):
        raise ImageError(
            f"cannot read {name}: expected a DICOM file, got one without DICOM's header (DICM at byte 128)"
        )
    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        has_pixels = any(tag in dataset for tag in _PIXELS) and "Rows" in dataset and "Columns" in dataset
        for tag in _PIXELS:
            dataset.pop(tag, None)
        # Elements are decoded now: those that are not would be written in the byte order of this file.
        for _ in dataset.iterall():
            pass
        missing = [tag for tag in _NEEDED if not dataset.get(tag)]
    except (*_REFUSALS, pydicom.errors.InvalidDicomError):
        # What pydicom says is not repeated, nor kept as the cause: it may quote the file.
        raise ImageError(f"cannot read {name}: expected a whole DICOM file, got one that is damaged") from None
    if not has_pixels:
        raise ImageError(f"cannot read {name}: expected a DICOM image, got an object without pixels")
    if missing:
        raise ImageError(f"nothing can refer to {name}: its header lacks {', '.join(missing)}; get the original file")
    _fill(dataset)
    return dataset


def read_headers(files: File | Sequence[File]) -> list[Any]:
    """Read the headers of one image or of several ones of the same study.

    Raises:
        ImageError: as `read_header`; or there is none, one is given twice, or they are of several studies.
        MissingExtraError: highdicom is not installed.
    """
    headers = [read_header(file) for file in ([files] if isinstance(files, (str, os.PathLike, bytes)) else files)]
    if not headers:
        raise ImageError("expected the DICOM file that was segmented, got none")
    if len({str(header.SOPInstanceUID) for header in headers}) < len(headers):
        raise ImageError("expected each DICOM file once, got one of them twice")
    if len({str(header.StudyInstanceUID) for header in headers}) > 1:
        raise ImageError("expected DICOM files of one study, got several studies; write a file for each")
    return headers


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what pydicom and highdicom say of a file to themselves, and their errors general: they quote values.

    Raises:
        ImageError: pydicom or highdicom did not understand the header.
    """
    with silence():
        try:
            yield
        except SamsdkError:
            raise
        except _REFUSALS:
            raise ImageError(
                "highdicom cannot make an object of this DICOM file: it does not know where images of its kind lie, or "
                "the header is not as the standard demands; check it with a validator, or get the original file"
            ) from None


def equipment() -> dict[str, Any]:
    """Who made an object, as the constructors of highdicom's objects take it."""
    return {
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": version("samsdk"),
        # It has to have one; copies of a program have none.
        "device_serial_number": version("samsdk"),
    }


def highdicom_library() -> types.ModuleType:
    """Import highdicom.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import highdicom
        import highdicom.seg
        import highdicom.sr
    except ImportError as error:
        raise MissingExtraError("writing DICOM needs highdicom: pip install 'samsdk[medical]'") from error
    module: types.ModuleType = highdicom
    return module


def _fill(dataset: Any) -> None:
    """Make empty what has to be there, and what is there but not valid: nobody could read it anyway."""
    for tag in _MAY_BE_EMPTY:
        if dataset.get(tag) is None:
            setattr(dataset, tag, "")
    for tag, valid, separator in _TIMES:
        # ACR-NEMA, DICOM's predecessor, wrote 1997.04.24.
        text = str(dataset[tag].value or "").replace(separator, "")
        setattr(dataset, tag, text if valid.fullmatch(text) else "")
    if dataset.PatientSex not in _SEXES:
        dataset.PatientSex = ""
    if not dataset.get("Modality"):
        dataset.Modality = "OT"
