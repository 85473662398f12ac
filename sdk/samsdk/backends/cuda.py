"""Memory and streams on an NVIDIA GPU through cuda-core (extra `tensorrt`), behind the few calls that engines need."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from samsdk.backends.tensorrt_library import DRIVER
from samsdk.errors import BackendError, MissingExtraError


class Memory(Protocol):
    """A piece of device memory, freed with the object."""

    @property
    def pointer(self) -> int:
        """Its address on the device."""

    @property
    def size(self) -> int:
        """Its bytes."""


class Queue(Protocol):
    """A stream: what is put into it runs in order, on the device, after the call has returned."""

    @property
    def handle(self) -> int:
        """The CUDA stream."""

    def activate(self) -> None:
        """Make the device current in the calling thread; before any other call from a thread."""

    def allocate(self, size: int) -> Memory:
        """Allocate so many bytes on the device."""

    def upload(self, array: NDArray[np.generic], memory: Memory) -> None:
        """Copy a C-contiguous array to the device."""

    def download(self, memory: Memory, array: NDArray[np.generic]) -> None:
        """Copy to a C-contiguous array; it holds the values after `synchronize`."""

    def wait_for(self, stream: int) -> None:
        """Let what comes wait for what another stream holds now."""

    def synchronize(self) -> None:
        """Wait until all is done."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts into the queue, without running it; the result puts all of it in with one call."""


class Device(Protocol):
    """One GPU."""

    @property
    def name(self) -> str:
        """E.g. `NVIDIA GeForce RTX 4070`."""

    @property
    def target(self) -> str:
        """Its generation, e.g. `sm89`."""

    def open_queue(self) -> Queue:
        """A new stream."""


@dataclass(frozen=True)
class DeviceArray:
    """An output that stayed on the device; CuPy, PyTorch, PyCUDA and others take it without a copy.

    Attributes:
        shape: its shape, C-contiguous.
        dtype: its NumPy dtype.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _memory: Memory
    _queue: Queue

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; without a stream, as the values are there already."""
        data = (self._memory.pointer if np.prod(self.shape) else 0, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": data, "version": 3, "stream": None}

    def numpy(self) -> NDArray[Any]:
        """A copy in host memory."""
        array = np.empty(self.shape, self.dtype)
        self._queue.activate()
        self._queue.download(self._memory, array)
        self._queue.synchronize()
        return array


@dataclass(frozen=True)
class ForeignArray:
    """An array of another library on the device, as its `__cuda_array_interface__` describes it.

    Attributes:
        pointer: its address.
        shape: its shape, C-contiguous.
        dtype: its NumPy dtype.
        stream: the stream that may still write to it, if any.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None

    @classmethod
    def of(cls, name: str, array: object) -> "ForeignArray | None":
        """Read the interface of an array that lies on the device, None for any other.

        Args:
            name: the input that it is for.
            array: anything.

        Raises:
            BackendError: the array is not C-contiguous.
        """
        interface: Mapping[str, Any] | None = getattr(array, "__cuda_array_interface__", None)
        if interface is None:
            return None
        shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
        strides = interface.get("strides")
        dense = tuple(int(np.prod(shape[axis + 1 :], initial=dtype.itemsize)) for axis in range(len(shape)))
        if strides is not None and any(
            extent > 1 and stride != wanted for extent, stride, wanted in zip(shape, strides, dense, strict=True)
        ):
            raise BackendError(f"{name} must be C-contiguous on the device, got strides {tuple(strides)} for {shape}")
        return cls(int(interface["data"][0]), shape, dtype, interface.get("stream"))


def open_device(index: int = 0) -> Device:
    """The GPU of an index.

    Raises:
        MissingExtraError: cuda-core or its bindings are not installed.
        BackendError: there is no driver, it is too old, or there is no such GPU.
    """
    try:
        core = importlib.import_module("cuda.core")
    except (ImportError, OSError) as error:
        text = f"device 'tensorrt' needs cuda-core ({error}): pip install 'samsdk[tensorrt]' 'cuda-core[cu13]'"
        raise MissingExtraError(text) from error
    try:
        return _CudaDevice(core, index)
    except Exception as error:  # cuda-core's exceptions share no base class
        raise BackendError(f"{DRIVER} ({error})") from error


class _CudaDevice:
    def __init__(self, core: Any, index: int) -> None:
        self._core = core
        self._device = core.Device(index)
        self._device.set_current()
        self.name: str = self._device.name
        self.target: str = f"sm{self._device.arch}"

    def open_queue(self) -> Queue:
        return _CudaQueue(self._core, self._device)


class _CudaMemory:
    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer  # frees itself, in the order of its stream
        self.pointer, self.size = int(buffer.handle), int(buffer.size)


_LEAST_BYTES: Final = 256  # nothing at all has no address


class _CudaQueue:
    def __init__(self, core: Any, device: Any) -> None:
        self._core, self._device = core, device
        device.set_current()
        self._stream = device.create_stream()
        self.handle = int(self._stream.handle)

    def activate(self) -> None:
        self._device.set_current()

    def allocate(self, size: int) -> Memory:
        return _CudaMemory(self._device.allocate(max(size, _LEAST_BYTES), stream=self._stream))

    def upload(self, array: NDArray[np.generic], memory: Memory) -> None:
        if array.nbytes:
            self._view(memory.pointer, array).copy_from(self._view(array.ctypes.data, array), stream=self._stream)

    def download(self, memory: Memory, array: NDArray[np.generic]) -> None:
        if array.nbytes:
            self._view(array.ctypes.data, array).copy_from(self._view(memory.pointer, array), stream=self._stream)

    def _view(self, pointer: int, array: NDArray[np.generic]) -> Any:
        return self._core.Buffer.from_handle(pointer, array.nbytes, owner=array)

    def wait_for(self, stream: int) -> None:
        self._stream.wait(self._core.Stream.from_handle(stream))

    def synchronize(self) -> None:
        self._stream.sync()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        builder = self._stream.create_graph_builder().begin_building()
        try:
            work()
        finally:
            builder.end_building()
        graph = builder.complete()
        return lambda: graph.launch(self._stream)
