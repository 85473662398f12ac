import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk.errors import ImageError, OutputError
from samsdk.io import encoded
from samsdk.io.images import MAX_PIXELS, as_array, image_key, read_image, write_png

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (40, 57), dtype=np.uint8)
RGB = RNG.integers(0, 256, (40, 57, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (40, 57, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (40, 57), dtype=np.uint16)
SMOOTH = cv2.GaussianBlur(RGB, (0, 0), 3)


def pil_bytes(array: NDArray[Any], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff_bytes(array: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


LOSSLESS = {
    "png grey": (pil_bytes(GREY, "PNG"), GREY),
    "png rgb": (pil_bytes(RGB, "PNG"), RGB),
    "png rgba": (pil_bytes(RGBA, "PNG"), RGBA[..., :3]),
    "png 16": (pil_bytes(DEEP, "PNG"), DEEP),
    "bmp grey": (pil_bytes(GREY, "BMP"), GREY),
    "bmp rgb": (pil_bytes(RGB, "BMP"), RGB),
    "webp rgb": (pil_bytes(RGB, "WEBP", lossless=True), RGB),
    "webp rgba": (pil_bytes(RGBA, "WEBP", lossless=True, exact=True), RGBA[..., :3]),
    "ppm": (pil_bytes(RGB, "PPM"), RGB),
    "pgm": (pil_bytes(GREY, "PPM"), GREY),
    "tiff rgb": (tiff_bytes(RGB, photometric="rgb"), RGB),
    "tiff big endian 16": (tiff_bytes(DEEP, byteorder=">"), DEEP),
    "tiff big": (tiff_bytes(GREY, bigtiff=True), GREY),
    "tiff 16 rgb": (tiff_bytes(RGB.astype(np.uint16) * 257, photometric="rgb"), RGB.astype(np.uint16) * 257),
    "tiff int16": (tiff_bytes(DEEP.view(np.int16)), DEEP.view(np.int16)),
    "tiff float": (tiff_bytes(DEEP.astype(np.float32) / 7), DEEP.astype(np.float32) / 7),
    "tiff float rgb": (tiff_bytes(RGB.astype(np.float32) / 7, photometric="rgb"), RGB.astype(np.float32) / 7),
    "tiff white is zero": (tiff_bytes(GREY, photometric="miniswhite"), 255 - GREY),
    "tiff first page": (tiff_bytes(np.stack([GREY, GREY[::-1]]), photometric="minisblack"), GREY),
    "tiff opaque rgba": (
        tiff_bytes(np.dstack([RGB, np.full_like(GREY, 255)]), photometric="rgb", extrasamples=["unassalpha"]),
        RGB,
    ),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_pixels_dtype_and_channel_order_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    data, expected = LOSSLESS[name]
    got = read_image(data)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
    assert got.flags.c_contiguous
    # The suffix does not matter, the content does.
    path = tmp_path / "scan.img"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(as_array(str(path)), expected)


def test_a_palette_becomes_rgb() -> None:
    palette = Image.fromarray(RGB).quantize(32)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=3)
    np.testing.assert_array_equal(read_image(buffer.getvalue()), np.asarray(palette.convert("RGB")))


def test_jpeg_is_rgb_and_close() -> None:
    flat = np.zeros((32, 32, 3), np.uint8)
    flat[..., 0], flat[..., 2] = 200, 40
    got = read_image(pil_bytes(flat, "JPEG", quality=95, subsampling=0))
    assert np.abs(got.astype(int) - flat).max() <= 3
    assert read_image(pil_bytes(flat[..., 0], "JPEG")).shape == (32, 32)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks = np.kron(RNG.integers(0, 256, (3, 4), dtype=np.uint8), np.ones((16, 16), np.uint8))
    data = pil_bytes(np.dstack([blocks] * 3), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    got = read_image(data)
    assert got.shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))
    assert np.abs(got.astype(int) - expected).max() <= 2


TRUNCATABLE = {
    "png": pil_bytes(SMOOTH, "PNG"),
    "png 16": pil_bytes(DEEP, "PNG"),
    "jpeg": pil_bytes(SMOOTH, "JPEG"),
    "jpeg progressive": pil_bytes(SMOOTH, "JPEG", progressive=True),
    "jpeg restarts": pil_bytes(SMOOTH, "JPEG", restart_marker_rows=1),
    "bmp": pil_bytes(SMOOTH, "BMP"),
    "tiff": pil_bytes(SMOOTH, "TIFF"),
    "tiff directory first": tiff_bytes(SMOOTH, rowsperstrip=8),
    "tiff deflate": tiff_bytes(SMOOTH, rowsperstrip=8, compression="zlib"),
    "tiff 16": tiff_bytes(DEEP, rowsperstrip=8),
    "tiff float deflate": tiff_bytes(DEEP.astype(np.float32), rowsperstrip=8, compression="zlib"),
    "tiff lzw": cv2.imencode(".tif", SMOOTH)[1].tobytes(),
    "webp": pil_bytes(SMOOTH, "WEBP"),
    "webp lossless": pil_bytes(SMOOTH, "WEBP", lossless=True),
    "pgm": pil_bytes(GREY, "PPM"),
}


@pytest.mark.parametrize("kept", [0.999, 0.9, 0.5, 0.05])
@pytest.mark.parametrize("name", TRUNCATABLE)
def test_truncated_files_are_refused(name: str, kept: float) -> None:
    data = TRUNCATABLE[name]
    assert read_image(data).shape[:2] == (40, 57)
    with pytest.raises(ImageError) as caught:
        read_image(data[: min(max(int(len(data) * kept), 16), len(data) - 1)])
    assert "expected a whole" in str(caught.value) or "header is damaged" in str(caught.value)
    assert "get a whole copy" in str(caught.value)


def test_a_thumbnail_does_not_hide_that_the_jpeg_is_truncated() -> None:
    thumbnail = b"Exif\0\0" + pil_bytes(SMOOTH[:8, :8], "JPEG")
    whole = TRUNCATABLE["jpeg"]
    data = whole[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + whole[2:]
    assert read_image(data).shape == (40, 57, 3)
    with pytest.raises(ImageError, match="expected a whole JPEG file, got one that is truncated"):
        read_image(data[: int(len(data) * 0.9)])


def test_a_truncated_jpeg_is_refused_even_where_the_decoder_fills_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # OpenCV 4 paints the missing part grey and reports success.
    monkeypatch.setattr(encoded, "_imdecode", lambda data, flags, page: RGB)
    with pytest.raises(ImageError, match="truncated"):
        read_image(TRUNCATABLE["jpeg"][:-2])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "got 0 bytes; the file is empty"),
        (b"hello, world", "got something that is none of them; convert it"),
        (b"\0" * 128 + b"DICM" + b"\0" * 64, "got a DICOM object, which holds none"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 8, "expected a whole PNG file"),
        (b"II*\0\xff\xff\xff\x7f", "its TIFF header is damaged"),
    ],
)
def test_bytes_that_are_no_image(data: bytes, text: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(data)
    assert text in str(caught.value)
    assert f"image of {len(data)} bytes" in str(caught.value)


def test_paths_that_are_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none.png': expected an image file, found none there; check the path"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="expected an image file, got a folder; name one file in it"):
        read_image(str(tmp_path))
    with pytest.raises(ImageError, match="check the path and its permissions"):
        read_image("a\0b.png")
    with pytest.raises(ImageError, match="check the path and its permissions"):
        read_image("n" * 5000)
    if Path("/dev/zero").exists():
        with pytest.raises(ImageError, match=r"^cannot read '/dev/zero': .* got a device or a pipe$"):
            read_image("/dev/zero")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty.png': expected an encoded image, got 0 bytes"):
        read_image(tmp_path / "empty.png")


@pytest.mark.parametrize("name", ["a.nii", "a.B.NII.GZ"])
def test_volumes_are_sent_to_what_segments_them(name: str) -> None:
    with pytest.raises(ImageError, match=r"got a NIfTI volume; .*samsdk\.propagation\.propagate.* bundle for volumes"):
        read_image(name)


def bomb(width: int, height: int) -> bytes:
    data = bytearray(pil_bytes(GREY, "BMP"))
    data[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return bytes(data)


def png_of_size(width: int, height: int) -> bytes:
    data = bytearray(pil_bytes(GREY, "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(data)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        pytest.fail("the image was decoded")

    monkeypatch.setattr(encoded.cv2, "imdecode", never)
    with pytest.raises(ImageError) as caught:
        read_image(png_of_size(20_001, 20_000))
    assert f"expected at most {MAX_PIXELS} pixels, got 20000 x 20001 (height x width)" in str(caught.value)
    with pytest.raises(ImageError, match="expected at least 1 pixel, got an image of 5 x 0"):
        read_image(png_of_size(0, 5))


def test_a_size_in_the_header_that_the_data_does_not_fill() -> None:
    with pytest.raises(ImageError, match="truncated or damaged"):
        read_image(png_of_size(58, 40))
    with pytest.raises(ImageError, match="truncated or damaged"):
        read_image(bomb(57, 4000))


def test_tiffs_that_opencv_would_read_wrongly() -> None:
    with pytest.raises(ImageError, match="got one of 16 bits whose zero is white; read it with tifffile, invert it"):
        read_image(tiff_bytes(DEEP, photometric="miniswhite"))
    with pytest.raises(ImageError, match="expected an opaque TIFF, got one with transparent pixels"):
        read_image(tiff_bytes(RGBA, photometric="rgb", extrasamples=["unassalpha"]))


@pytest.mark.parametrize(
    "dtype",
    [bool, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64, np.float16, np.float32, float],
)
def test_arrays_keep_dtype_and_values(dtype: Any) -> None:
    for array in (GREY.astype(dtype), RGB.astype(dtype)):
        got = as_array(array)
        assert got.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(got, array)


def test_channels_are_normalised() -> None:
    np.testing.assert_array_equal(as_array(GREY[..., None]), GREY)
    dropped = as_array(RGBA)
    np.testing.assert_array_equal(dropped, RGBA[..., :3])
    assert dropped.flags.c_contiguous
    turned = as_array(RGB[::-1, ::2])
    np.testing.assert_array_equal(turned, RGB[::-1, ::2])
    assert turned.flags.c_contiguous
    swapped = as_array(DEEP.astype(">u2"))
    assert swapped.dtype == np.dtype("=u2")
    np.testing.assert_array_equal(swapped, DEEP)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros(5), "got shape (5,)"),
        (np.zeros((4, 4, 5)), "H x W, H x W x 1, H x W x 3 (RGB) or H x W x 4 (RGBA), got shape (4, 4, 5); convert it"),
        (np.zeros((4, 4, 2)), "got shape (4, 4, 2)"),
        (np.zeros((3, 40, 50)), "move its channels last, e.g. with numpy.moveaxis(image, 0, -1)"),
        (np.zeros((2, 40, 50, 3)), "pass one slice or frame of it"),
        (np.zeros((0, 5)), "expected at least 1 pixel, got an image of 0 x 5"),
        (np.zeros((0, 5, 3)), "expected at least 1 pixel"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_001)), f"expected at most {MAX_PIXELS} pixels"),
        (np.array([[1.0, np.nan], [np.inf, 0.0]]), "contains 2 non-finite values (NaN or infinity) of 4"),
        (np.zeros((4, 4), complex), "got dtype complex128"),
        (np.zeros((4, 4), object), "got dtype object"),
        (np.zeros((4, 4), "M8[s]"), "got dtype datetime64[s]"),
        ([[1, 2], [3, 4]], "got list; convert it with numpy.asarray"),
        (None, "got NoneType"),
        (7, "got int"),
    ],
)
def test_what_is_no_image_is_refused(array: object, text: str) -> None:
    with pytest.raises(ImageError) as caught:
        as_array(array)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "mode", ["1", "P", "PA", "LA", "CMYK", "YCbCr", "HSV", "RGBX", "L", "RGB", "RGBA", "I;16", "I", "F"]
)
def test_pil_images_of_every_mode(mode: str) -> None:
    source = Image.fromarray(DEEP if mode == "I;16" else RGBA if mode in ("RGBA", "RGBX") else RGB)
    image = source if mode in ("I;16", "RGBA") else source.convert("L").convert("LA") if mode == "LA" else None
    if image is None:
        image = source.convert("P").convert("PA") if mode == "PA" else source.convert(mode)
    assert image.mode == mode
    expected = {"LA": "L", "L": "L", "I;16": "I;16", "I": "I", "F": "F"}.get(mode, "RGB")
    np.testing.assert_array_equal(as_array(image), np.asarray(image.convert(expected)))


def test_a_truncated_pil_image_is_an_image_error() -> None:
    data = pil_bytes(SMOOTH, "PNG")
    with pytest.raises(ImageError, match=r"cannot turn this PngImageFile into an array: .*; pass a numpy array"):
        as_array(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_objects_with_the_array_protocols() -> None:
    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
            return RGB

    class OnTheGpu:
        def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

    class Interface:
        __array_interface__ = GREY.__array_interface__

    np.testing.assert_array_equal(as_array(Tensor()), RGB)
    np.testing.assert_array_equal(as_array(Interface()), GREY)
    with pytest.raises(ImageError, match="cannot turn this OnTheGpu into an array: can't convert cuda:0"):
        as_array(OnTheGpu())


def test_keys_follow_content(tmp_path: Path) -> None:
    data = pil_bytes(RGB, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    key = image_key(path)
    assert len(key) == 32
    assert int(key, 16) >= 0
    assert key == image_key(str(path)) == image_key(data) == image_key(bytearray(data))
    path.write_bytes(pil_bytes(RGB[::-1], "PNG"))
    assert image_key(path) != key
    with pytest.raises(ImageError, match="found none there"):
        image_key(tmp_path / "missing.png")


def test_keys_of_arrays_see_dtype_shape_and_values_but_not_layout() -> None:
    keys = {
        image_key(array)
        for array in (
            GREY,
            GREY.T,
            GREY.reshape(57, 40),
            GREY.view(np.int8),
            GREY.astype(np.float32),
            RGB,
            GREY.tobytes(),
        )
    }
    assert len(keys) == 7
    assert image_key(np.asfortranarray(GREY)) == image_key(GREY)
    assert image_key(DEEP.astype(">u2")) == image_key(DEEP)
    assert image_key(Image.fromarray(RGB)) == image_key(RGB)
    changed = GREY.copy()
    changed[-1, -1] ^= 1
    assert image_key(changed) != image_key(GREY)
    assert len(image_key(GREY > 5)) == 32
    with pytest.raises(ImageError, match="got dtype object"):
        image_key(np.array([None]))


@pytest.mark.parametrize("array", [GREY, RGB, DEEP, RGB.astype(np.uint16) * 3, RGB[:, ::-1]])
def test_png_round_trip(array: NDArray[Any], tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", array)
    got = read_image(tmp_path / "a.png")
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_mask_is_written_as_0_and_255_and_colours_are_rgb(tmp_path: Path) -> None:
    write_png(tmp_path / "mask.png", GREY > 100)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), np.where(GREY > 100, 255, 0))
    write_png(tmp_path / "overlay.png", RGB)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "overlay.png")), RGB)


def test_what_cannot_be_written_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(OutputError, match=r"bool, uint8 or uint16, got shape \(40, 57\), dtype float32"):
        write_png(path, GREY.astype(np.float32))
    with pytest.raises(OutputError, match=r"got shape \(40, 57, 4\), dtype uint8"):
        write_png(path, RGBA)
    with pytest.raises(OutputError, match=r"got shape \(0, 4\)"):
        write_png(path, np.zeros((0, 4), bool))
    with pytest.raises(OutputError, match="does not exist; create it first"):
        write_png(tmp_path / "nowhere" / "a.png", GREY)
    monkeypatch.setattr(encoded.cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(OutputError, match="PNG encoding failed"):
        write_png(path, GREY)
    assert list(tmp_path.iterdir()) == []
