"""The DICOM images that objects were found in, as what is made of them refers to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from samsdk.errors import ImageError
from samsdk.io.objects import ObjectMask


@dataclass(frozen=True, eq=False)
class SourceImages:
    """The images that masks can lie on.

    Attributes:
        headers: of the files.
        frames: number of frames of each.
        positioned: whether it is known where they lie in the patient.
    """

    headers: Sequence[Any]
    frames: Sequence[int]
    positioned: bool

    @classmethod
    def of(cls, headers: Sequence[Any], highdicom: Any) -> "SourceImages":
        """Of the headers of one file or of the slices of one series.

        Raises:
            ImageError: they are no images of a patient, or do not belong together.
        """
        system = highdicom.spatial.get_image_coordinate_system(headers[0])
        if system is not None and system.value != "PATIENT":
            raise ImageError("expected images of a patient, got a slide in tiles; write its objects as COCO")
        if len({(str(header.SeriesInstanceUID), int(header.Rows), int(header.Columns)) for header in headers}) > 1:
            raise ImageError("expected the slices of one series, all of one size, got several series or sizes")
        frames = [int(header.get("NumberOfFrames") or 1) for header in headers]
        if len(headers) > 1 and max(frames) > 1:
            raise ImageError("expected one file of several frames or several files of one, got several of several")
        return cls(headers, frames, system is not None)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of all of them."""
        return int(self.headers[0].Rows), int(self.headers[0].Columns)

    @property
    def planes(self) -> int:
        """Number of frames of all of them together."""
        return sum(self.frames)

    def place(self, mask: ObjectMask) -> int:
        """The plane that a mask lies on.

        Raises:
            ImageError: there is none, or it is of another size.
        """
        if mask.region.size != self.size:
            raise ImageError(f"the DICOM image is {self.size} (H, W), a mask of it {mask.region.size}")
        if mask.source is None:
            if self.planes > 1:
                raise ImageError(
                    "a mask does not know which slice or frame it is of: segment what samsdk.read_scan returns, or set "
                    "ObjectMask.source"
                )
            return 0
        for index, header in enumerate(self.headers):
            if str(header.SOPInstanceUID) == mask.source.sop_instance:
                # One of the two is 0: files are many or frames are.
                plane = index + (mask.source.frame or 1) - 1
                if plane < self.planes:
                    return plane
        raise ImageError("a mask is of another DICOM object than those given: give the file that was segmented")
