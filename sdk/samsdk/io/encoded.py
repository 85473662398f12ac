"""Encoded images: the bytes of PNG, JPEG, BMP, TIFF, WebP, PGM and PPM files become pixels, or an `ImageError`."""

import os
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.errors import ImageError
from samsdk.io import tiff
from samsdk.io.headers import FORMATS, image_format, image_size, is_truncated
from samsdk.io.nifti import is_nifti

MAX_PIXELS: Final = 20_000**2
"""Larger images are refused: 400 million pixels, a square of 20,000."""

READABLE: Final = ", ".join((*FORMATS, "DICOM"))
VOLUME_HINT: Final = (
    "this bundle segments images: give a slice of it, follow an object through its slices with "
    "samsdk.propagation.propagate, or load a bundle for volumes"
)


def read_encoded(source: str | os.PathLike[str] | bytes | bytearray) -> tuple[bytes, str]:
    """Read an image file's bytes.

    Args:
        source: Path of the file, or its bytes.

    Returns:
        The bytes, and what to call the file in an error.

    Raises:
        ImageError: There is no such file, it cannot be read, or its name is that of a volume.
    """
    if isinstance(source, (bytes, bytearray)):
        return bytes(source), f"image of {len(source)} bytes"
    path = Path(source)
    name = repr(str(path))
    if is_nifti(path):
        raise ImageError(f"cannot read {name}: expected {READABLE}, got a NIfTI volume; {VOLUME_HINT}")
    try:
        if path.is_dir():
            raise ImageError(f"cannot read {name}: expected an image file, got a folder; name one file in it")
        if path.exists() and not path.is_file():
            raise ImageError(f"cannot read {name}: expected an image file, got a device or a pipe")
        return path.read_bytes(), name
    except ImageError:
        # It is a ValueError too, and already says what happened.
        raise
    except FileNotFoundError as error:
        raise ImageError(f"cannot read {name}: expected an image file, found none there; check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"cannot read {name}: {reason}; check the path and its permissions") from error


def decode_image(data: bytes, name: str, frame: int | None = None) -> NDArray[Any]:
    """Decode an encoded image, its pixels as they are in the file.

    Args:
        data: The whole file.
        name: What to call it in an error.
        frame: Which page of a TIFF, from 0 on; None is the first. Other formats have one.

    Returns:
        (H, W) grey or (H, W, 3) RGB array, see `samsdk.io.images.read_image`.

    Raises:
        ImageError: It is empty, truncated, of another format, has no such page, or is larger than `MAX_PIXELS`.
    """
    kind = _check_header(data, name)
    pages = tiff.tiff_pages(data) if kind == "TIFF" else []
    count = max(len(pages), 1)
    check_frame(frame, count, name, "pages" if kind == "TIFF" else "images")
    page = frame or 0
    if pages:
        _check_page(pages[page], name)
    # Not IMREAD_UNCHANGED, which ignores the EXIF orientation; these two keep depth and colour and drop alpha.
    array = _imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR, page)
    if array is None:
        raise _truncated(name, kind)
    if array.ndim == 3 and array.shape[2] >= 3:
        if pages and array.dtype == np.uint8 and pages[page].get(tiff.EXTRA_SAMPLES) == 2:
            _check_opaque(data, name, page)
        array = array[..., 2::-1]  # OpenCV's order is BGR
    return np.ascontiguousarray(array)


def check_frame(frame: int | None, count: int, name: str, what: str) -> None:
    """Check that a file has the frame that was asked for.

    Raises:
        ImageError: It has not.
    """
    if frame is not None and (isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < count):
        raise ImageError(
            f"cannot read {name}: expected a frame of 0 to {count - 1}, got {frame!r}; it has {count} {what}"
        )


def check_pixels(height: int, width: int, prefix: str) -> None:
    """Check an image's size, before anything is decoded or copied.

    Raises:
        ImageError: It has no pixel, or more than `MAX_PIXELS`.
    """
    pixels = height * width
    if pixels == 0:
        raise ImageError(f"{prefix}expected at least 1 pixel, got an image of {height} x {width} (height x width)")
    if pixels > MAX_PIXELS:
        raise ImageError(
            f"{prefix}expected at most {MAX_PIXELS} pixels, got {height} x {width} (height x width), {pixels} in all; "
            "crop it or make it smaller first"
        )


def _check_header(data: bytes, name: str) -> str:
    """Return the format."""
    if not data:
        raise ImageError(f"cannot read {name}: expected an encoded image, got 0 bytes; the file is empty")
    kind = image_format(data)
    if kind is None:
        raise ImageError(
            f"cannot read {name}: expected {READABLE}, got something that is none of them; convert it, or read it "
            "yourself and pass the array"
        )
    # First, because a file that was cut inside its header has no size either.
    if is_truncated(data):
        raise _truncated(name, kind)
    size = image_size(data)
    if size is None:
        raise ImageError(f"cannot read {name}: its {kind} header is damaged; get a whole copy of the file")
    # Before decoding: a few kilobytes can ask for gigabytes of pixels.
    check_pixels(size[1], size[0], f"cannot read {name}: ")
    return kind


def _check_page(tags: dict[int, int], name: str) -> None:
    check_pixels(tags.get(tiff.HEIGHT, 0), tags.get(tiff.WIDTH, 0), f"cannot read {name}: ")
    if tags.get(tiff.PHOTOMETRIC) == 0 and tags.get(tiff.BITS, 1) > 8:
        # OpenCV inverts white-is-zero images of 8 bits but not deeper ones.
        raise ImageError(
            f"cannot read {name}: expected a TIFF whose zero is black, got one of {tags[tiff.BITS]} bits whose zero is "
            "white; read it with tifffile, invert it and pass the array"
        )


def _truncated(name: str, kind: str) -> ImageError:
    return ImageError(
        f"cannot read {name}: expected a whole {kind} file, got one that is truncated or damaged; get a whole copy"
    )


def _check_opaque(data: bytes, name: str, page: int) -> None:
    # libtiff multiplies 8-bit colours by their alpha; dropping the alpha afterwards would darken the image unseen.
    layers = _imdecode(data, cv2.IMREAD_UNCHANGED, page)
    if layers is not None and layers.ndim == 3 and layers.shape[2] == 4 and int(layers[..., 3].min()) < 255:
        raise ImageError(
            f"cannot read {name}: expected an opaque TIFF, got one with transparent pixels; save it without its alpha "
            "channel, or read it yourself and pass the array"
        )


def _imdecode(data: bytes, flags: int, page: int) -> NDArray[Any] | None:
    encoded = np.frombuffer(data, np.uint8)
    try:
        if page == 0:
            decoded: NDArray[Any] | None = cv2.imdecode(encoded, flags)
            return decoded
        done, pages = cv2.imdecodemulti(encoded, flags, range=(page, page + 1))
    except cv2.error:
        return None
    return pages[0] if done and pages else None
