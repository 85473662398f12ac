"""Images in: files, encoded bytes, numpy arrays and PIL images become one kind of array, or an `ImageError`."""

import hashlib
import os
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.errors import ImageError, OutputError
from samsdk.io.atomic import atomic_write
from samsdk.io.headers import (
    FORMATS,
    TIFF_BITS,
    TIFF_EXTRA_SAMPLES,
    TIFF_PHOTOMETRIC,
    image_format,
    image_size,
    is_truncated,
    tiff_tags,
)
from samsdk.io.nifti import is_nifti
from samsdk.volumes.volume import Volume

MAX_PIXELS: Final = 2**28
"""Larger images are refused: 268 million pixels, a square of 16,384."""

_ACCEPTED: Final = "H x W, H x W x 1, H x W x 3 (RGB) or H x W x 4 (RGBA)"
_READABLE: Final = ", ".join(FORMATS)
_VOLUME_HINT: Final = (
    "this bundle segments images: give a slice of it, follow an object through its slices with "
    "samsdk.propagation.propagate, or load a bundle for volumes"
)
# The modes of PIL whose array is already grey, RGB or RGBA; CMYK and LAB have as many channels but mean other things.
_PLAIN_MODES: Final = frozenset({"L", "RGB", "RGBA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})


def read_image(source: str | os.PathLike[str] | bytes) -> NDArray[Any]:
    """Read an encoded image, its pixels as they are in the file.

    Args:
        source: Path of a PNG, JPEG, BMP, TIFF, WebP, PGM or PPM file, or the bytes of one. Of a TIFF with several
            pages the first is read.

    Returns:
        (H, W) grey or (H, W, 3) RGB array, C-contiguous, of the file's own dtype (uint8, uint16, or, from a TIFF,
        also float32 and others) and range; turned as the EXIF orientation says; an alpha channel is dropped.

    Raises:
        ImageError: The file is missing, empty, truncated, not an image of these formats, or larger than `MAX_PIXELS`.
    """
    data, name = _encoded(source)
    _check_header(data, name)
    return _decode(data, name)


def as_array(image: object) -> NDArray[Any]:
    """Turn whatever users call an image into an array. Values are never rescaled.

    Args:
        image: A path or encoded bytes (see `read_image`); an array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA
            of bool, any integer or float16/32/64; a PIL image of any mode; or anything with `__array__` or
            `__array_interface__`.

    Returns:
        (H, W) or (H, W, 3) RGB, C-contiguous, in native byte order, of the dtype that was given. It may share memory
        with `image`.

    Raises:
        ImageError: Another shape or dtype, 0 pixels, more than `MAX_PIXELS`, NaN or infinite values, or anything that
            `read_image` refuses.
    """
    encoded = isinstance(image, (str, os.PathLike, bytes, bytearray))
    array = read_image(image) if encoded else _from_object(image)  # type: ignore[arg-type]
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
        image: As for `as_array`. A file is hashed as it is stored, an array by dtype, shape and values.

    Returns:
        32 hexadecimal digits (BLAKE2b, 16 bytes).

    Raises:
        ImageError: The file cannot be read, or the object is not an array of numbers.
    """
    if isinstance(image, (str, os.PathLike, bytes, bytearray)):
        data, _ = _encoded(image)
        return hashlib.blake2b(data, digest_size=16, person=b"samsdk-file").hexdigest()
    array = np.ascontiguousarray(_from_object(image))
    digest = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16, person=b"samsdk-array")
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


def _encoded(source: str | os.PathLike[str] | bytes | bytearray) -> tuple[bytes, str]:
    """Return the file's bytes and what to call it in an error."""
    if isinstance(source, (bytes, bytearray)):
        return bytes(source), f"image of {len(source)} bytes"
    path = Path(source)
    name = repr(str(path))
    if path.name.lower().endswith(".dcm"):
        raise _other_format(name, ".dcm", "pydicom")
    if is_nifti(path):
        raise ImageError(f"cannot read {name}: expected {_READABLE}, got a NIfTI volume; {_VOLUME_HINT}")
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


def _other_format(name: str, kind: str, reader: str) -> ImageError:
    return ImageError(
        f"cannot read {name}: expected {_READABLE}, got {kind}, which this version does not read; "
        f"read it with {reader} and pass the array"
    )


def _check_header(data: bytes, name: str) -> None:
    if not data:
        raise ImageError(f"cannot read {name}: expected an encoded image, got 0 bytes; the file is empty")
    if data[128:132] == b"DICM":
        raise _other_format(name, "DICOM", "pydicom")
    kind = image_format(data)
    if kind is None:
        raise ImageError(
            f"cannot read {name}: expected {_READABLE}, got something that is none of them (it starts with "
            f"{data[:8]!r}); convert it, or read it yourself and pass the array"
        )
    # First, because a file that was cut inside its header has no size either.
    if is_truncated(data):
        raise _truncated(name, kind)
    size = image_size(data)
    if size is None:
        raise ImageError(f"cannot read {name}: its {kind} header is damaged; get a whole copy of the file")
    # Before decoding: a few kilobytes can ask for gigabytes of pixels.
    _check_pixels(size[1], size[0], f"cannot read {name}: ")
    tags = tiff_tags(data)
    if tags.get(TIFF_PHOTOMETRIC) == 0 and tags.get(TIFF_BITS, 1) > 8:
        # OpenCV inverts white-is-zero images of 8 bits but not deeper ones.
        raise ImageError(
            f"cannot read {name}: expected a TIFF whose zero is black, got one of {tags[TIFF_BITS]} bits whose zero is "
            "white; read it with tifffile, invert it and pass the array"
        )


def _truncated(name: str, kind: str) -> ImageError:
    return ImageError(
        f"cannot read {name}: expected a whole {kind} file, got one that is truncated or damaged; get a whole copy"
    )


def _decode(data: bytes, name: str) -> NDArray[Any]:
    # Not IMREAD_UNCHANGED, which ignores the EXIF orientation; these two keep depth and colour and drop alpha.
    array = _imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    kind = image_format(data)
    if array is None:
        raise _truncated(name, kind or "image")
    if array.ndim == 3 and array.shape[2] >= 3:
        if kind == "TIFF" and array.dtype == np.uint8 and tiff_tags(data).get(TIFF_EXTRA_SAMPLES) == 2:
            _check_opaque(data, name)
        array = array[..., 2::-1]  # OpenCV's order is BGR
    return np.ascontiguousarray(array)


def _check_opaque(data: bytes, name: str) -> None:
    # libtiff multiplies 8-bit colours by their alpha; dropping the alpha afterwards would darken the image unseen.
    layers = _imdecode(data, cv2.IMREAD_UNCHANGED)
    if layers is not None and layers.ndim == 3 and layers.shape[2] == 4 and int(layers[..., 3].min()) < 255:
        raise ImageError(
            f"cannot read {name}: expected an opaque TIFF, got one with transparent pixels; save it without its alpha "
            "channel, or read it yourself and pass the array"
        )


def _imdecode(data: bytes, flags: int) -> NDArray[Any] | None:
    try:
        decoded: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return decoded


def _from_object(image: object) -> NDArray[Any]:
    """Return any array-like as a numpy array of numbers in native byte order."""
    if isinstance(image, Volume):
        raise ImageError(f"expected an image, got a volume {image.shape} [D, H, W]; {_VOLUME_HINT}")
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
    _check_pixels(int(image.size[1]), int(image.size[0]), "")
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
    _check_pixels(shape[0], shape[1], "")


def _check_pixels(height: int, width: int, prefix: str) -> None:
    pixels = height * width
    if pixels == 0:
        raise ImageError(f"{prefix}expected at least 1 pixel, got an image of {height} x {width} (height x width)")
    if pixels > MAX_PIXELS:
        raise ImageError(
            f"{prefix}expected at most {MAX_PIXELS} pixels, got {height} x {width} (height x width), {pixels} in all; "
            "crop it or make it smaller first"
        )
