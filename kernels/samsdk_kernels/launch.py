"""The kernels of the device path, without torch: an image becomes the encoder's input, logits become masks.

Both work on arrays that lie on the GPU already (`__cuda_array_interface__`: CuPy, PyTorch, PyCUDA, the TensorRT
backend's own) or on NumPy arrays, which are copied there. cuda-core (extra `tensorrt`) is imported when the first
`Kernels` is made.
"""

import ctypes
import importlib
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from samsdk.backends.cuda import Device, DeviceArray, ForeignArray, Memory, Queue, open_device
from samsdk.errors import BackendError, ImageError, MissingExtraError
from samsdk.transforms import GEOMETRY_RULES, Frame, Preprocessing, Window
from samsdk_kernels.compiler import PROGRAMS, load_cubin
from samsdk_kernels.packed import MEASURES, PackedMasks

LONGEST_SIDE: Final = 20_000
"""Longest side of an image in pixels; the kernels count pixels with 32 bits and address them with 64."""

_LARGEST_INPUT: Final = 8192
# A whole factor of LONGEST_SIDE / _SMALLEST_INPUT squared, times 255, stays within 31 bits.
_SMALLEST_INPUT: Final = 8
_MOST_MASKS: Final = 65_535
_THREADS: Final = 256
_WORDS_A_BLOCK: Final = _THREADS // 32
_INTERPOLATIONS: Final = {"area": 0, "linear": 1}
Argument = ctypes.c_int32 | ctypes.c_int64 | ctypes.c_uint64 | ctypes.c_float | ctypes.c_double
Grid = tuple[int, int, int]
_AnyArray = NDArray[np.generic] | ForeignArray


class Launcher(Protocol):
    """What puts a kernel into a queue."""

    def launch(self, kernel: str, grid: Grid, arguments: Sequence[Argument], *, cooperative: bool) -> None:
        """Start a kernel on a grid of blocks of 256 threads; a cooperative one on as many as run at once."""


@dataclass(frozen=True)
class Statistics:
    """Normalisation by numbers that are known beforehand: `(value - mean) / deviation` for each channel, on 0 to 255.

    Attributes:
        mean: of red, green and blue.
        deviation: of red, green and blue, none of them 0.
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


class Kernels:
    """The kernels on one GPU, with a queue of their own; threads take turns.

    Args:
        index: of the GPU.

    Raises:
        MissingExtraError: cuda-core is not installed.
        BackendError: there is no driver, it is too old, or there is no such GPU.
    """

    def __init__(self, index: int = 0) -> None:
        device = open_device(index)
        queue = device.open_queue()
        self._start(queue, CudaLauncher(device, queue, index))

    @classmethod
    def from_parts(cls, queue: Queue, launcher: Launcher) -> "Kernels":
        """Kernels that run in a queue that is open already."""
        kernels = cls.__new__(cls)
        kernels._start(queue, launcher)
        return kernels

    def _start(self, queue: Queue, launcher: Launcher) -> None:
        self._queue, self._launcher, self._lock = queue, launcher, threading.Lock()

    def preprocess(
        self,
        image: object,
        preprocessing: Preprocessing,
        *,
        window: Window | None = None,
        dtype: DTypeLike = np.float16,
        statistics: Statistics | None = None,
    ) -> tuple[DeviceArray, Frame]:
        """Turn an image into the encoder's input, in one kernel; bit for bit `Preprocessing.apply_image`.

        Args:
            image: [H, W], [H, W, 1] or [H, W, 3] (RGB), uint8, C-contiguous if on the device.
            preprocessing: the bundle's; images of other dtypes go through `samsdk.intensity.to_uint8` first.
            window: the part of the image to take; None takes all.
            dtype: float16 or float32. float16 is float32's value, rounded.
            statistics: normalise by these instead of the preprocessing's rule.

        Returns:
            The input, [1, 3, S, S], whose values are there when this returns, and the frame.

        Raises:
            ImageError: the image's dtype, shape or size cannot be used.
            ValueError: the window is not inside the image; the dtype or the preprocessing is none that is known here.
            BackendError: the array is not C-contiguous, or the GPU failed.
        """
        array = ForeignArray.of("image", image) or np.ascontiguousarray(image)
        _check_image(array)
        number = np.dtype(dtype)
        _check_rule(preprocessing, number, statistics)
        frame = preprocessing.frame((array.shape[0], array.shape[1]), window)
        side, minmax = preprocessing.input_size, statistics is None
        by = statistics or Statistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        with self._turn():
            output = self._queue.allocate(3 * side * side * number.itemsize)
            source, shared = self._place(array), self._upload(np.zeros(3, np.uint32))
            arguments = [
                *_window_arguments(source.pointer, array, frame),
                ctypes.c_int32(_INTERPOLATIONS[preprocessing.interpolation]),
                ctypes.c_int32(side),
                ctypes.c_int32(minmax),
                *(ctypes.c_float(value) for value in (*by.mean, *by.deviation)),
                ctypes.c_uint64(shared.pointer),
                ctypes.c_uint64(output.pointer),
            ]
            grid = (-(-side * side // _THREADS), 1, 1)
            self._launcher.launch(f"preprocess_{number.name}", grid, arguments, cooperative=minmax)
            self._queue.synchronize()
        return DeviceArray((1, 3, side, side), number, output, self._queue), frame

    def postprocess(self, logits: object, frame: Frame, threshold: float = 0.0) -> PackedMasks:
        """Turn low-res logits into masks of the image, in one kernel; bit for bit `samsdk.masks.upsample_region`.

        With a threshold other than 0, pixels may differ where all four logits around them round to it.

        Args:
            logits: [M, L, L] float32 over the whole input square, C-contiguous if on the device.
            frame: the image's frame.
            threshold: logits above it are foreground.

        Raises:
            BackendError: the logits' dtype or shape cannot be used, the array is not C-contiguous, or the GPU failed.
            ImageError: the image is too large.
        """
        array = ForeignArray.of("logits", logits) or np.ascontiguousarray(logits)
        _check_logits(array)
        _check_size(frame.original_size)
        masks, side = array.shape[0], array.shape[1]
        (height, width), (left, top) = frame.original_size, frame.window[:2]
        row_words = -(-width // 32)
        with self._turn():
            words = self._queue.allocate(masks * height * row_words * 4)
            source, measures = self._place(array), self._upload(np.zeros((masks, MEASURES), np.uint32))
            arguments = [
                ctypes.c_uint64(source.pointer),
                *_integers(masks, side),
                *_reading_arguments(top, frame, side, 0),
                *_reading_arguments(left, frame, side, 1),
                ctypes.c_float(threshold),
                *_integers(height, width),
                ctypes.c_uint64(words.pointer),
                ctypes.c_uint64(measures.pointer),
            ]
            grid = (-(-row_words // _WORDS_A_BLOCK), height, masks)
            self._launcher.launch("postprocess", grid, arguments, cooperative=False)
            found = np.empty((masks, MEASURES), np.uint32)
            self._queue.download(measures, found)
            self._queue.synchronize()
        packed = DeviceArray((masks, height, row_words), np.dtype(np.uint32), words, self._queue)
        return PackedMasks.of_measures((height, width), packed, found)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:
            try:
                self._queue.activate()
                yield
            except (BackendError, MissingExtraError):
                raise
            except Exception as error:  # cuda-core's exceptions share no base class
                raise BackendError(f"the GPU failed: {error}") from error

    def _place(self, array: _AnyArray) -> Memory | ForeignArray:
        """Bring an array to the device, if it is not there yet."""
        if not isinstance(array, ForeignArray):
            return self._upload(array)
        if array.stream is not None:
            self._queue.wait_for(array.stream)
        return array

    def _upload(self, array: NDArray[np.generic]) -> Memory:
        memory = self._queue.allocate(array.nbytes)
        self._queue.upload(array, memory)
        return memory


class CudaLauncher:
    """Launches through cuda-core; compiles what the GPU lacks when it is first used.

    Args:
        device: the GPU.
        queue: where kernels are put.
        index: of the GPU.
    """

    def __init__(self, device: Device, queue: Queue, index: int = 0) -> None:
        self._core: Any = importlib.import_module("cuda.core")  # as `open_device` has done
        self._target = device.target
        self._multiprocessors = int(self._core.Device(index).properties.multiprocessor_count)
        self._stream = self._core.Stream.from_handle(queue.handle)
        self._kernels: dict[str, Any] = {}

    def launch(self, kernel: str, grid: Grid, arguments: Sequence[Argument], *, cooperative: bool) -> None:
        """See `Launcher`.

        Raises:
            MissingExtraError: see `load_cubin`; likewise BackendError.
        """
        code = self._kernel(kernel)
        if cooperative:
            # Its blocks wait for each other: more than run at once would wait for ever, and CUDA refuses them.
            resident = code.occupancy.max_active_blocks_per_multiprocessor(_THREADS, 0) * self._multiprocessors
            grid = (min(grid[0], resident), 1, 1)
        config = self._core.LaunchConfig(grid=grid, block=_THREADS, is_cooperative=cooperative)
        self._core.launch(self._stream, config, code, *arguments)

    def _kernel(self, name: str) -> Any:
        if name not in self._kernels:
            program = next(program for program, kernels in PROGRAMS.items() if name in kernels)
            # A kernel keeps its object code, and so the loaded module, alive.
            code = self._core.ObjectCode.from_cubin(load_cubin(program, self._target), name=program)
            self._kernels |= {each: code.get_kernel(each) for each in PROGRAMS[program]}
        return self._kernels[name]


def _check_size(size: tuple[int, ...]) -> None:
    if not all(1 <= side <= LONGEST_SIDE for side in size):
        raise ImageError(f"an image on the GPU must have sides of 1 to {LONGEST_SIDE} pixels, got {size} (H, W)")


def _check_image(array: _AnyArray) -> None:
    if array.dtype != np.uint8:
        raise ImageError(f"image must be uint8, got {array.dtype}; bring it to 8 bits with samsdk.intensity.to_uint8")
    if len(array.shape) not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)):
        raise ImageError(f"image must be [H, W], [H, W, 1] or [H, W, 3], got {array.shape}")
    _check_size(array.shape[:2])


def _check_rule(preprocessing: Preprocessing, number: np.dtype[Any], statistics: Statistics | None) -> None:
    if number not in (np.float16, np.float32):
        raise ValueError(f"dtype must be float16 or float32, got {number}")
    if not _SMALLEST_INPUT <= preprocessing.input_size <= _LARGEST_INPUT:
        allowed = f"{_SMALLEST_INPUT} to {_LARGEST_INPUT}"
        raise ValueError(f"input_size must be {allowed} for the GPU, got {preprocessing.input_size}")
    if preprocessing.interpolation not in _INTERPOLATIONS:
        known = ", ".join(_INTERPOLATIONS)
        raise ValueError(f"unknown interpolation {preprocessing.interpolation!r}, expected one of: {known}")
    if preprocessing.rule not in GEOMETRY_RULES:
        known = ", ".join(GEOMETRY_RULES)
        raise ValueError(f"unknown geometry {preprocessing.rule!r}, expected one of: {known}")
    if statistics is None and preprocessing.normalisation != "minmax":
        raise ValueError(f"normalisation {preprocessing.normalisation!r} needs its numbers: give statistics")
    if statistics is not None and not all(statistics.deviation):
        raise ValueError(f"deviations must not be 0, got {statistics.deviation}")


def _check_logits(array: _AnyArray) -> None:
    if array.dtype != np.float32:
        raise BackendError(f"logits must be float32, got {array.dtype}")
    shape = array.shape
    if len(shape) != 3 or shape[1] != shape[2] or not 1 <= shape[0] <= _MOST_MASKS or not 1 <= shape[1] <= LONGEST_SIDE:
        raise BackendError(f"logits must be [M, L, L], M of 1 to {_MOST_MASKS}, got {shape}")


def _integers(*values: int) -> list[Argument]:
    return [ctypes.c_int32(value) for value in values]


def _window_arguments(pointer: int, image: _AnyArray, frame: Frame) -> list[Argument]:
    """Where the window lies, its sides, and how many of its pixels make one of the square."""
    channels = image.shape[2] if len(image.shape) == 3 else 1
    row_stride = image.shape[1] * channels
    left, top = frame.window[:2]
    # OpenCV takes the inverse of the inverse, which is not always the quotient.
    scales = (1.0 / (to / wide) for to, wide in zip(frame.resized_size, frame.window_size, strict=True))
    return [
        ctypes.c_uint64(pointer + top * row_stride + left * channels),
        ctypes.c_int64(row_stride),
        *_integers(channels, *frame.window_size, *frame.resized_size),
        *(ctypes.c_double(scale) for scale in scales),
    ]


def _reading_arguments(start: int, frame: Frame, side: int, axis: int) -> list[Argument]:
    """How pixels read logits along an axis: first pixel, pixels, cells, cells for one pixel; as `samsdk.masks`."""
    length, valid = frame.window_size[axis], frame.resized_size[axis] * side / frame.input_size
    return [*_integers(start, length, math.ceil(valid - 1e-6)), ctypes.c_double(valid / length)]
