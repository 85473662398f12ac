"""DICOM files that a session gives: the objects as a segmentation, and their measurements as a report.

They belong to the patient and the study of the image, so who asks for one sends the image's file once more: sessions
keep pixels, and nothing of a patient.
"""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from samsdk.io.dicom_report import encode_report
from samsdk.io.dicom_seg import encode_segmentation, segment_each
from samsdk.io.objects import ObjectMask, object_masks
from samsdk.serve.downloads import Found
from samsdk.serve.problems import Refused

# A label takes 64 characters, of which several objects of one name need a few for their numbers.
_LONGEST_NAME: Final = 58


@dataclass(frozen=True)
class DicomFormat:
    """A format of DICOM files.

    Attributes:
        suffix: of the file's name.
        media: its type.
        write: makes the file of objects and of the bytes of the DICOM file that they were found in.
    """

    suffix: str
    media: str
    write: Callable[[Sequence[ObjectMask], bytes], bytes]


def found_masks(found: Sequence[Found]) -> list[ObjectMask]:
    """What DICOM files hold of objects.

    Raises:
        Refused: none of them has a pixel.
    """
    masks = []
    for one in found:
        # A backslash parts values.
        name = one.name.replace("\\", "/")[:_LONGEST_NAME].strip() or f"Object {one.number}"
        masks += object_masks(one.answer.result, name)
    if not masks:
        raise Refused(409, "nothing", "no object has a pixel, and a DICOM segmentation holds what was found")
    return masks


def _segmentation(masks: Sequence[ObjectMask], source: bytes) -> bytes:
    return encode_segmentation(segment_each(masks), source)


def _report(masks: Sequence[ObjectMask], source: bytes) -> bytes:
    """Both files, for the report refers to the segmentation that was written with it."""
    segmentation, held = _segmentation(masks, source), io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("segmentation.dcm", segmentation)
        archive.writestr("report.dcm", encode_report(segmentation, source))
    return held.getvalue()


DICOM_FORMATS: Final[Mapping[str, DicomFormat]] = {
    "segmentation": DicomFormat("dcm", "application/dicom", _segmentation),
    "report": DicomFormat("zip", "application/zip", _report),
}
