"""Images in: files, encoded bytes, numpy arrays and PIL images become one kind of array, or an `ImageError`."""

import hashlib
import os
from dataclasses import replace
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.errors import ImageError, OutputError
from samsdk.io.atomic import atomic_write
from samsdk.io.encoded import MAX_PIXELS, VOLUME_HINT, check_pixels, read_encoded
from samsdk.io.scans import Scan, read_scan
from samsdk.volumes.volume import Volume

__all__ = ["MAX_PIXELS", "as_array", "as_scan", "image_key", "read_image", "write_png"]

_ACCEPTED: Final = "H x W, H x W x 1, H x W x 3 (RGB) or H x W x 4 (RGBA)"
# The modes of PIL whose array is already grey, RGB or RGBA; CMYK and LAB have as many channels but mean other things.
_PLAIN_MODES: Final = frozenset({"L", "RGB", "RGBA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})


def read_image(source: str | os.PathLike[str] | bytes) -> NDArray[Any]:
    """Read an image file, its pixels as they are in the file.

    Args:
        source: Path of a PNG, JPEG, BMP, TIFF, WebP, PGM, PPM or DICOM file, or the bytes of one. Of a TIFF with
            several pages the first is read; for other pages and frames see `read_scan`, also for how DICOM is shown.

    Returns:
        (H, W) grey or (H, W, 3) RGB array, C-contiguous, of the file's own dtype (uint8, uint16, or, from a TIFF,
        also float32 and others; of DICOM uint8) and range; turned as the EXIF orientation says; an alpha channel is
        dropped.

    Raises:
        ImageError: The file is missing, empty, truncated, not an image of these formats, or larger than `MAX_PIXELS`.
        MissingExtraError: DICOM needs the extra `medical`.
    """
    return read_scan(source).pixels


def as_scan(image: object) -> Scan:
    """Turn whatever users call an image into a scan: its pixels by `as_array`, with what a file says about them.

    Args:
        image: See `as_array`.

    Raises:
        ImageError, MissingExtraError: As `as_array`.
    """
    if isinstance(image, (str, os.PathLike, bytes, bytearray)):
        scan = read_scan(image)  # type: ignore[arg-type]
        return replace(scan, pixels=_checked(scan.pixels))
    if isinstance(image, Scan):
        return replace(image, pixels=_checked(_from_object(image.pixels)))
    return Scan(_checked(_from_object(image)))


def as_array(image: object) -> NDArray[Any]:
    """Turn whatever users call an image into an array. Values are never rescaled.

    Args:
        image: A path or encoded bytes (see `read_image`); an array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA
            of bool, any integer or float16/32/64; a PIL image of any mode; a `Scan`; or anything with `__array__` or
            `__array_interface__`.

    Returns:
        (H, W) or (H, W, 3) RGB, C-contiguous, in native byte order, of the dtype that was given. It may share memory
        with `image`.

    Raises:
        ImageError: Another shape or dtype, 0 pixels, more than `MAX_PIXELS`, NaN or infinite values, or anything that
            `read_image` refuses.
        MissingExtraError: DICOM needs the extra `medical`.
    """
    return as_scan(image).pixels


def _checked(array: NDArray[Any]) -> NDArray[Any]:
    _check_shape(array.shape)
    if array.dtype.kind == "f":
        broken = int(np.count_nonzero(~np.isfinite(array)))
        if broken:
            raise ImageError(
                f"the image contains {broken} non-finite values (NaN or infinity) of {array.size}; expected finite "
                "numbers; replace them first, e.g. with numpy.nan_to_num"
            )
    if array.ndim == 3:
        array = array[..., 0] if array.shape[2] == 1 else array[..., :3]
    return np.ascontiguousarray(array)


def image_key(image: object) -> str:
    """Hash an image's content, to recognise it when it comes again.

    Args:
        image: As for `as_array`. A file is hashed as it is stored, an array by dtype, shape and values, a scan by
            what is known about it, too.

    Returns:
        32 hexadecimal digits (BLAKE2b, 16 bytes).

    Raises:
        ImageError: The file cannot be read, or the object is not an array of numbers.
    """
    if isinstance(image, (str, os.PathLike, bytes, bytearray)):
        data, _ = read_encoded(image)
        return hashlib.blake2b(data, digest_size=16, person=b"samsdk-file").hexdigest()
    about = repr((image.spacing, image.source)) if isinstance(image, Scan) else ""
    array = np.ascontiguousarray(_from_object(image.pixels if isinstance(image, Scan) else image))
    heading = f"{array.dtype.str}{array.shape}{about}".encode()
    digest = hashlib.blake2b(heading, digest_size=16, person=b"samsdk-array")
    digest.update(array.data)
    return digest.hexdigest()


def write_png(path: str | os.PathLike[str], array: NDArray[Any]) -> None:
    """Write a mask or an overlay as PNG; the file is whole or not there.

    Args:
        path: File to create or replace; its folder must exist.
        array: (H, W) bool, written as 0 and 255; or (H, W) or (H, W, 3) RGB of uint8 or uint16, written as it is.

    Raises:
        OutputError: The array is of another shape or dtype, or the file cannot be written.
    """
    pixels = array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array
    plain = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if not plain or pixels.dtype not in (np.uint8, np.uint16) or pixels.size == 0:
        raise OutputError(
            f"cannot write {os.fspath(path)!r}: expected an H x W or H x W x 3 array of bool, uint8 or uint16, "
            f"got shape {array.shape}, dtype {array.dtype}"
        )
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]  # OpenCV's order is BGR
    try:
        done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels))
    except cv2.error as error:
        raise OutputError(f"cannot write {os.fspath(path)!r}: PNG encoding failed: {error}") from error
    if not done:
        raise OutputError(f"cannot write {os.fspath(path)!r}: PNG encoding failed for shape {array.shape}")
    with atomic_write(path) as file:
        file.write(encoded.tobytes())


def _from_object(image: object) -> NDArray[Any]:
    """Return any array-like as a numpy array of numbers in native byte order."""
    if isinstance(image, Volume):
        raise ImageError(f"expected an image, got a volume {image.shape} [D, H, W]; {VOLUME_HINT}")
    if hasattr(image, "convert") and hasattr(image, "mode") and hasattr(image, "size"):
        image = _plain_pil(image)
    kind = type(image).__name__
    try:
        # Inside, because asking a PIL image for its interface already decodes it.
        known = hasattr(image, "__array__") or hasattr(image, "__array_interface__")
        array = np.asarray(image) if known else None
    except (TypeError, ValueError, RuntimeError, OSError, SyntaxError) as error:
        raise ImageError(f"cannot turn this {kind} into an array: {error}; pass a numpy array") from error
    if array is None:
        raise ImageError(
            f"expected a path, encoded bytes, a numpy array or a PIL image, got {kind}; convert it with numpy.asarray"
        )
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise ImageError(
            f"expected an array of bool, integers, float16, float32 or float64, got dtype {array.dtype}; "
            "convert it first"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _plain_pil(image: Any) -> object:
    check_pixels(int(image.size[1]), int(image.size[0]), "")
    if image.mode in _PLAIN_MODES:
        return image
    wanted = "L" if image.mode == "LA" else "RGB"
    try:
        converted: object = image.convert(wanted)
    except (ValueError, OSError, SyntaxError) as error:
        raise ImageError(f"cannot convert a PIL image of mode {image.mode!r} to {wanted}: {error}") from error
    return converted


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        hint = "pass one slice or frame of it" if len(shape) > 3 else "convert it first"
        if len(shape) == 3 and shape[0] in (1, 3, 4) and min(shape[1:]) > 4:
            hint = "move its channels last, e.g. with numpy.moveaxis(image, 0, -1)"
        raise ImageError(f"expected an image of shape {_ACCEPTED}, got shape {shape}; {hint}")
    check_pixels(shape[0], shape[1], "")
