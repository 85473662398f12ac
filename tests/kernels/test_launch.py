"""What `launch` refuses, and how it launches; no GPU."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from samsdk.errors import BackendError, ImageError, MissingExtraError
from samsdk.transforms import Preprocessing
from samsdk_kernels import launch
from samsdk_kernels.launch import CudaLauncher, Kernels, Statistics

SQUARE = Preprocessing(64)
IMAGE = np.zeros((8, 9, 3), np.uint8)


def foreign(shape: tuple[int, ...], typestr: str, strides: tuple[int, ...] | None = None) -> Any:
    """An array that claims to lie on a device, at an address where nothing is."""
    interface = {"shape": shape, "typestr": typestr, "data": (64, False), "version": 3, "strides": strides}
    return SimpleNamespace(__cuda_array_interface__=interface)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (IMAGE.astype(np.float32), "uint8, got float32; .*to_uint8"),
        (foreign((8, 9), "<u2"), "uint8, got uint16"),
        (np.zeros((4, 8, 9, 3), np.uint8), r"got \(4, 8, 9, 3\)"),
        (np.zeros((8, 9, 4), np.uint8), r"\[H, W, 3\], got \(8, 9, 4\)"),
        (np.zeros(9, np.uint8), r"got \(9,\)"),
        (foreign((20_001, 5, 3), "|u1"), r"1 to 20000 pixels, got \(20001, 5\)"),
        (foreign((0, 5), "|u1"), r"got \(0, 5\)"),
        ("scan.png", "must be uint8"),
    ],
)
def test_refuses_an_image(host_kernels: Kernels, image: object, text: str) -> None:
    with pytest.raises(ImageError, match=text):
        host_kernels.preprocess(image, SQUARE)


@pytest.mark.parametrize("strides", [(64, 3, 1), (27, 1, 9), (27, -3, 1)])
def test_refuses_an_image_that_is_not_contiguous(host_kernels: Kernels, strides: tuple[int, ...]) -> None:
    with pytest.raises(BackendError, match="image must be C-contiguous on the device"):
        host_kernels.preprocess(foreign((8, 9, 3), "|u1", strides), SQUARE)


@pytest.mark.parametrize(
    ("preprocessing", "options", "text"),
    [
        (SQUARE, {"dtype": np.float64}, "float16 or float32, got float64"),
        (SQUARE, {"window": (0, 0, 10, 8)}, "inside an image of 9 x 8"),
        (SQUARE, {"statistics": Statistics((0, 0, 0), (1, 0, 1))}, "must not be 0"),
        (Preprocessing(4), {}, "input_size must be 8 to 8192"),
        (Preprocessing(8193), {}, "got 8193"),
        (Preprocessing(64, interpolation="cubic"), {}, "'cubic', expected one of: area, linear"),
        (Preprocessing(64, rule="stretch"), {}, "'stretch', expected one of: longest_pad_br"),
        (Preprocessing(64, normalisation="other"), {}, "'other' needs its numbers"),
    ],
)
def test_refuses_a_call(host_kernels: Kernels, preprocessing: Preprocessing, options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        host_kernels.preprocess(IMAGE, preprocessing, **options)


@pytest.mark.parametrize(
    ("logits", "text"),
    [
        (np.zeros((1, 4, 4)), "float32, got float64"),
        (np.zeros((4, 4), np.float32), r"\[M, L, L\].*got \(4, 4\)"),
        (np.zeros((1, 4, 5), np.float32), r"got \(1, 4, 5\)"),
        (np.zeros((0, 4, 4), np.float32), r"got \(0, 4, 4\)"),
        (foreign((65_536, 4, 4), "<f4"), "M of 1 to 65535"),
        (foreign((2, 4, 4), "<f4", (128, 32, 4)), "C-contiguous"),
    ],
)
def test_refuses_logits(host_kernels: Kernels, logits: object, text: str) -> None:
    with pytest.raises(BackendError, match=text):
        host_kernels.postprocess(logits, SQUARE.frame((8, 9)))


def test_refuses_a_mask_of_too_large_an_image(host_kernels: Kernels) -> None:
    with pytest.raises(ImageError, match=r"got \(8, 20001\)"):
        host_kernels.postprocess(np.zeros((1, 4, 4), np.float32), SQUARE.frame((8, 20_001)))


def test_a_failure_on_the_device_is_a_backend_error(host_kernels: Kernels, launcher: Any) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED")

    launcher.launch = fail
    with pytest.raises(BackendError, match="the GPU failed: CUDA_ERROR_LAUNCH_FAILED"):
        host_kernels.preprocess(IMAGE, SQUARE)


def test_launches_cooperatively_where_blocks_wait_for_each_other(host_kernels: Kernels, launcher: Any) -> None:
    host_kernels.preprocess(IMAGE, SQUARE)
    host_kernels.preprocess(IMAGE, SQUARE, dtype=np.float32, statistics=Statistics((0, 0, 0), (1, 1, 1)))
    host_kernels.postprocess(np.zeros((3, 16, 16), np.float32), SQUARE.frame((50, 257)))
    assert launcher.launched == [
        ("preprocess_float16", (16, 1, 1), True),
        ("preprocess_float32", (16, 1, 1), False),
        ("postprocess", (2, 50, 3), False),  # 257 pixels: nine words, eight a block
    ]


def test_waits_for_the_stream_that_makes_the_image(host_kernels: Kernels, queue: Any) -> None:
    array = foreign(IMAGE.shape, "|u1")
    array.__cuda_array_interface__ |= {"stream": 5, "data": (IMAGE.ctypes.data, True)}
    host_kernels.preprocess(array, SQUARE)
    assert queue.log == ["activate", "wait 5", "synchronize"]


def test_says_what_to_install_without_cuda_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'samsdk\[tensorrt\]'"):
        Kernels()


class Code:
    """A module of cuda-core whose kernels fit four times on a multiprocessor."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.occupancy = SimpleNamespace(max_active_blocks_per_multiprocessor=lambda threads, shared: 4)

    def get_kernel(self, name: str) -> "Code":
        self.names.append(name)
        return self


def test_a_cooperative_grid_is_no_larger_than_what_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[Any] = []
    loaded: list[str] = []
    core = SimpleNamespace(
        Device=lambda index: SimpleNamespace(properties=SimpleNamespace(multiprocessor_count=10)),
        Stream=SimpleNamespace(from_handle=lambda handle: f"stream {handle}"),
        ObjectCode=SimpleNamespace(from_cubin=lambda content, name: Code(loaded)),
        LaunchConfig=lambda **options: options,
        launch=lambda *arguments: launched.append(arguments),
    )
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(core=core))
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    monkeypatch.setattr(launch, "load_cubin", lambda program, target: f"{program} {target}".encode())
    device: Any = SimpleNamespace(target="sm89")
    queue: Any = SimpleNamespace(handle=3)
    launcher = CudaLauncher(device, queue)
    launcher.launch("preprocess_float16", (256, 1, 1), [], cooperative=True)
    launcher.launch("preprocess_float32", (16, 1, 1), [], cooperative=True)
    launcher.launch("preprocess_float32", (256, 1, 1), [], cooperative=False)
    assert [(stream, config["grid"], config["is_cooperative"]) for stream, config, _ in launched] == [
        ("stream 3", (40, 1, 1), True),
        ("stream 3", (16, 1, 1), True),
        ("stream 3", (256, 1, 1), False),
    ]
    assert loaded == ["preprocess_float16", "preprocess_float32"]  # once
