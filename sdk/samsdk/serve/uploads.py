"""An uploaded file becomes an image."""

from dataclasses import dataclass, replace
from typing import Final

from samsdk.errors import ImageError
from samsdk.io.dicom import is_dicom
from samsdk.io.dicom_headers import dicom_size, inflates_beyond
from samsdk.io.dicom_pixels import ModalityFrame
from samsdk.io.dicom_spacing import Spacing
from samsdk.io.headers import frame_sizes
from samsdk.io.images import as_scan
from samsdk.io.scans import Scan, read_scan, read_scan_to_view
from samsdk.serve.limits import Limits
from samsdk.serve.problems import Refused
from samsdk.serve.screen import Shown, shown, shown_modality

# Of a deflated file: colours of 16 bits, and some frames.
_BYTES_A_PIXEL: Final = 16
_LARGEST_SPACING: Final = 1000.0


@dataclass(frozen=True)
class Choice:
    """What part of a file is wanted, and what its user knows about it.

    Attributes:
        frame: of a file of several, from 0 on.
        window: (centre, width) of a DICOM file's greyscale; None does as the file says.
        spacing: (x, y) mm of a pixel, where the file does not say.
    """

    frame: int | None = None
    window: tuple[float, float] | None = None
    spacing: Spacing | None = None


@dataclass(frozen=True, eq=False)
class Upload:
    """An image that was sent.

    Attributes:
        scan: what the model sees, its pixels read-only.
        frames: that the file has; of a TIFF its pages.
        frame: which of them this is, from 0 on.
        modality: what a screen may window anew, of greyscale DICOM alone: the scan's pixels are windowed already.
    """

    scan: Scan
    frames: int = 1
    frame: int = 0
    modality: Shown | None = None

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.scan.pixels.nbytes + (self.modality.levels.nbytes if self.modality else 0)

    def shown(self) -> Shown:
        """What a screen needs of it."""
        return self.modality or shown(self.scan.pixels)


def read_upload(data: bytes, choice: Choice, limits: Limits) -> Upload:
    """Read an image file. This is the only place where the service looks into what it was sent.

    Args:
        data: the file.
        choice: of its frame, its greyscale, and its spacing if it has none.
        limits: of the service.

    Returns:
        The image.

    Raises:
        ImageError: it is no image that samsdk reads.
        MissingExtraError: reading it needs an extra that is not installed.
        Refused: it has more pixels than the service takes; or several frames, of which none was named.
    """
    frames = check_size(data, limits, choice.frame or 0)
    try:
        read, modality = _read(data, choice)
        scan, view = as_scan(read), shown_modality(modality) if modality else None
    except MemoryError as error:
        raise ImageError("the image is larger than the memory of this machine; make it smaller first") from error
    _check_pixels(scan.pixels.shape[0] * scan.pixels.shape[1], limits)
    scan.pixels.setflags(write=False)
    return Upload(replace(scan, spacing=scan.spacing or choice.spacing), frames, choice.frame or 0, view)


def check_size(data: bytes, limits: Limits, frame: int = 0) -> int:
    """Look into a file's header before anything is decoded: a few kilobytes can hold gigabytes of pixels.

    Args:
        data: the file.
        limits: of the service.
        frame: that will be decoded, from 0 on.

    Returns:
        How many frames or pages it has; 1 where its header cannot be understood.

    Raises:
        Refused: the frame has more pixels than the service takes, or the file is deflated and grows beyond what they
            take.
    """
    most = _BYTES_A_PIXEL * limits.pixels
    if inflates_beyond(data, most):
        raise Refused(413, "too_large", f"expected at most {most} bytes in a deflated file; send a part of it")
    # As it will be read: a DICOM file may begin like a picture of another format.
    if is_dicom(data):
        width, height, frames = dicom_size(data) or (0, 0, 1)
    else:
        sizes = frame_sizes(data)
        width, height = sizes[frame] if frame < len(sizes) else (0, 0)
        frames = max(1, len(sizes))
    _check_pixels(width * height, limits)
    return frames


def _read(data: bytes, choice: Choice) -> tuple[Scan, ModalityFrame | None]:
    try:
        return read_scan_to_view(data, frame=choice.frame, window=choice.window)
    except ImageError as error:
        if choice.frame is not None:
            raise
        try:
            read_scan(data, frame=0, window=choice.window)
        except ImageError:
            raise error from None
        # It can be read once a frame is named.
        raise Refused(422, "frame", f"{error}; here: ?frame=0") from error


def _check_pixels(count: int, limits: Limits) -> None:
    if count > limits.pixels:
        raise Refused(
            413, "too_large", f"expected at most {limits.pixels} pixels, got {count}; crop the image or make it smaller"
        )


def check_spacing(values: list[float]) -> Spacing:
    """The (x, y) sides of a pixel out of one number, for squares, or of two.

    Raises:
        Refused: they are none.
    """
    if len(values) not in (1, 2) or not all(0 < value <= _LARGEST_SPACING for value in values):
        raise Refused(
            422,
            "spacing",
            f"expected one or two lengths in mm (x, y), above 0 and up to {_LARGEST_SPACING:g}",
        )
    return values[0], values[-1]
