"""The kernel that makes the encoder's input, held bit for bit against `samsdk.transforms`; on the host, so no GPU."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk.transforms import Preprocessing, Window
from samsdk_kernels.compiler import _NVCC_OPTIONS, PROGRAMS, SOURCES, TARGETS, compile_ahead, find_nvcc
from samsdk_kernels.launch import Kernels, Statistics

needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="no CUDA compiler (nvcc)")

# (height, width), for an input of 64: enlarged, equal, whole factors, other factors; odd, thin, upright, lying.
SIZES = [
    *((1, 1), (2, 1), (1, 63), (5, 7), (63, 63), (33, 64), (63, 21), (31, 32), (40, 3), (3, 50)),
    *((64, 64), (64, 1), (17, 64)),
    *((128, 128), (128, 65), (2, 128), (192, 192), (320, 5), (1, 640), (640, 64)),
    *((65, 65), (65, 64), (66, 127), (97, 101), (1, 97), (301, 2), (480, 640), (639, 479), (1000, 3), (127, 128)),
]
IMAGENET = Statistics((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def noise(size: tuple[int, ...], seed: int, low: int = 0, high: int = 256) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(low, high, size, dtype=np.uint8)


def check(
    kernels: Kernels, image: NDArray[np.uint8], preprocessing: Preprocessing, window: Window | None = None
) -> None:
    expected, frame = preprocessing.apply_image(image, window)
    for dtype in (np.float32, np.float16):
        output, own_frame = kernels.preprocess(image, preprocessing, window=window, dtype=dtype)
        assert own_frame == frame
        np.testing.assert_array_equal(output.numpy(), expected.astype(dtype), strict=True)


@pytest.mark.parametrize("interpolation", ["area", "linear"])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "colour"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_equals_the_runtime_s_geometry(
    host_kernels: Kernels, size: tuple[int, int], channels: tuple[int, ...], interpolation: str
) -> None:
    image = noise((*size, *channels), seed=sum(size))
    check(host_kernels, image, Preprocessing(64, interpolation=interpolation))


@pytest.mark.parametrize("interpolation", ["area", "linear"])
@pytest.mark.parametrize("seed", range(40))
def test_equals_the_runtime_s_geometry_for_random_sizes(host_kernels: Kernels, seed: int, interpolation: str) -> None:
    rng = np.random.default_rng(seed)
    side = int(rng.integers(16, 130))
    size = tuple(rng.integers(1, int(rng.choice([side, 3 * side, 500])), 2).tolist())
    channels = (3,) if seed % 2 else ()
    low, high = sorted(rng.integers(0, 256, 2).tolist())
    image = noise((*size, *channels), seed, low, high + 1)
    check(host_kernels, image, Preprocessing(side, interpolation=interpolation))


@pytest.mark.parametrize("size", [(3, 20_000), (20_000, 2), (1, 19_999)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_equals_the_runtime_s_geometry_up_to_the_longest_side(host_kernels: Kernels, size: tuple[int, int]) -> None:
    check(host_kernels, noise((*size, 3), seed=1), Preprocessing(256))


def test_equals_the_runtime_on_real_images(
    host_kernels: Kernels, cell: NDArray[np.uint8], tissue: NDArray[np.uint8]
) -> None:
    for image in (cell, tissue):
        check(host_kernels, image, Preprocessing(256))
        check(host_kernels, image[:200, :150], Preprocessing(256))


def test_drops_small_shares_as_the_runtime_does(host_kernels: Kernels) -> None:
    check(host_kernels, noise((200, 2049), seed=3), Preprocessing(1024))  # shares under 1/1000 of a pixel


def test_takes_the_inverse_of_the_inverse_for_the_scale(host_kernels: Kernels) -> None:
    assert 1 / (1 / 98) != 98
    image = np.tile(np.array([[101], [102]], np.uint8), (98 * 32, 98 * 2))  # 101.5 on average
    image[:98], image[-98:] = 0, 255
    check(host_kernels, image, Preprocessing(64))


@pytest.mark.parametrize("window", [(0, 0, 512, 512), (37, 5, 512, 300), (100, 200, 356, 456), (511, 0, 512, 512)])
def test_a_window_equals_the_runtime_s(host_kernels: Kernels, tissue: NDArray[np.uint8], window: Window) -> None:
    check(host_kernels, tissue, Preprocessing(128), window)
    check(host_kernels, np.ascontiguousarray(tissue[..., 0]), Preprocessing(128), window)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_constant_image_becomes_zero(host_kernels: Kernels, value: int) -> None:
    image = np.full((30, 50), value, np.uint8)
    check(host_kernels, image, Preprocessing(64))
    assert not host_kernels.preprocess(image, Preprocessing(64))[0].numpy().any()


@pytest.mark.parametrize(
    "statistics",
    [
        IMAGENET,
        Statistics((0.0, 0.0, 0.0), (255.0, 1.0, 0.001)),  # 0.001: beyond half's range
        Statistics((128.0, 1.5, -3.0), (3e7, 4.5e6, 1.7e9)),  # half's subnormal numbers and what rounds to 0
        Statistics((1 / 16, 0.0, 0.0), (1.0, 2.0**25, 2.0**26)),  # half way between two halves
    ],
    ids=["imagenet", "large", "small", "ties"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_normalises_by_given_statistics(
    host_kernels: Kernels, tissue: NDArray[np.uint8], statistics: Statistics, dtype: type[np.floating]
) -> None:
    preprocessing = Preprocessing(100)
    image = tissue[:300, :411]
    # The range of a noisy image is 0 to 255: min-max times 255 gives the resized pixels back.
    image = np.where(noise(image.shape, seed=2) < 6, 0, np.where(noise(image.shape, seed=3) < 6, 255, image))
    image = np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)[:200, :200].astype(np.uint8)
    resized = np.rint(preprocessing.apply_image(image)[0] * np.float32(255)).astype(np.uint8)  # [1, 3, 100, 100]
    assert (resized.min(), resized.max()) == (0, 255)
    mean, deviation = (np.array(each, np.float32)[:, None, None] for each in (statistics.mean, statistics.deviation))
    with np.errstate(over="ignore"):
        expected = ((resized.astype(np.float32) - mean) / deviation).astype(dtype)
    output, _ = host_kernels.preprocess(image, preprocessing, dtype=dtype, statistics=statistics)
    np.testing.assert_array_equal(output.numpy(), expected, strict=True)


def test_padding_is_zero_whatever_the_statistics(host_kernels: Kernels) -> None:
    output, frame = host_kernels.preprocess(noise((20, 80, 3), seed=4), Preprocessing(64), statistics=IMAGENET)
    values = output.numpy()
    assert frame.resized_size == (16, 64)
    assert values[:, :, :16].all()
    assert not values[:, :, 16:].any()


def test_reads_an_array_that_is_on_the_device(host_kernels: Kernels, tissue: NDArray[np.uint8]) -> None:
    class Foreign:
        __cuda_array_interface__ = {**tissue.__array_interface__, "stream": 5}  # noqa: RUF012

    expected, _ = Preprocessing(128).apply_image(tissue)
    output, _ = host_kernels.preprocess(Foreign(), Preprocessing(128), dtype=np.float32)
    np.testing.assert_array_equal(output.numpy(), expected)


@needs_nvcc
def test_compiles_for_every_target(tmp_path: Path) -> None:
    files = [compile_ahead("preprocess", target, tmp_path) for target in TARGETS]
    contents = [file.read_bytes() for file in files]
    assert len(set(contents)) == len(TARGETS)
    for content in contents:
        assert content.startswith(b"\x7fELF")
        assert all(kernel.encode() in content for kernel in PROGRAMS["preprocess"])


@needs_nvcc
@pytest.mark.parametrize("program", PROGRAMS)
def test_no_product_is_fused_with_a_sum(tmp_path: Path, program: str) -> None:
    def ptx(*options: str) -> str:
        place = tmp_path / "kernels.ptx"
        command = [find_nvcc() or "", "-ptx", "-arch=sm_80", *options, "-o", str(place), str(SOURCES / f"{program}.cu")]
        subprocess.run(command, check=True)
        return place.read_text()

    assert "fma.rn" not in ptx(*_NVCC_OPTIONS)
    assert "fma.rn" in ptx()
