"""Prebuilt engines of TensorRT-RTX and TensorRT on an NVIDIA GPU (extra `tensorrt`)."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.backends.cuda import Device, DeviceArray, ForeignArray, Memory, Queue, open_device
from samsdk.backends.tensorrt_engine import Engine, LibraryEngine
from samsdk.backends.tensorrt_library import CLASSIC, RTX, import_library, is_installed, load_engine
from samsdk.errors import BackendError, MissingExtraError

logger = logging.getLogger(__name__)

# Prompt shapes that keep a recorded CUDA graph; each takes a few hundred kB.
_MOST_GRAPHS: Final = 16


class TensorRtBackend:
    """One engine on the first NVIDIA GPU.

    Args:
        content: a serialised engine of TensorRT-RTX or TensorRT; its first bytes tell which.
        cuda_graphs: whether calls of a shape that came before replay a recorded CUDA graph.

    Raises:
        MissingExtraError: the library that built the engine, or cuda-core, is not installed.
        BackendError: the engine is foreign, damaged or not for this GPU, or there is no driver; the text says which.
    """

    def __init__(self, content: bytes, *, cuda_graphs: bool = True) -> None:
        name, engine = load_engine(content)
        title = "TensorRT-RTX" if name == RTX else "TensorRT"
        self._start(LibraryEngine(name, engine, cuda_graphs), open_device(), title, cuda_graphs)

    @classmethod
    def from_parts(
        cls, engine: Engine, device: Device, *, title: str = "TensorRT", cuda_graphs: bool = True
    ) -> "TensorRtBackend":
        """A backend of an engine and a device that are open already."""
        backend = cls.__new__(cls)
        backend._start(engine, device, title, cuda_graphs)
        return backend

    def _start(self, engine: Engine, device: Device, title: str, cuda_graphs: bool) -> None:
        self._engine, self._device = engine, device
        self._records = cuda_graphs and not engine.records_graphs
        self._lock = threading.Lock()
        # A context runs one call at a time: as many lanes are made as calls ever overlapped.
        self._idle: list[_Lane] = []
        self.provider: str = f"{title} {device.name}"
        logger.info("engine with outputs %s runs on %s", list(engine.outputs), self.provider)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        """Run the engine; see `Backend.run`.

        Args:
            feeds: input name to NumPy array, or to any array on the device with a `__cuda_array_interface__`
                (PyCUDA, CuPy, PyTorch), which is read in place.
        """
        with self._lane() as lane:
            return lane.run(self._check(feeds))

    def run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Run the engine and leave the outputs on the device, in memory of their own.

        Args:
            feeds: as for `run`.

        Returns:
            Output name to array; the values are there when this returns.

        Raises:
            BackendError: the engine failed.
        """
        with self._lane() as lane:
            return lane.run_on_device(self._check(feeds))

    @contextmanager
    def _lane(self) -> Iterator["_Lane"]:
        with self._lock:
            lane = self._idle.pop() if self._idle else None
        try:
            if lane is None:
                lane = _Lane(self._engine, self._device.open_queue(), self._records)
            lane.queue.activate()
            yield lane
        except BackendError:
            raise  # the lane is in an unknown state and is dropped
        except Exception as error:  # TensorRT's and cuda-core's exceptions share no base class
            raise BackendError(f"TensorRT failed on {self.provider}: {error}") from error
        with self._lock:
            self._idle.append(lane)

    def _check(self, feeds: Mapping[str, Any]) -> dict[str, "NDArray[np.generic] | ForeignArray"]:
        where = f"TensorRT failed on {self.provider}"
        missing = [name for name in self._engine.inputs if name not in feeds]
        if missing:
            raise BackendError(f"{where}: missing {', '.join(missing)}; got {list(feeds)}")
        checked: dict[str, NDArray[np.generic] | ForeignArray] = {}
        for name, port in self._engine.inputs.items():
            array = ForeignArray.of(name, feeds[name]) or np.ascontiguousarray(feeds[name])
            shape = array.shape if isinstance(array, ForeignArray) else np.shape(feeds[name])  # a scalar stays one
            if array.dtype != port.dtype:
                raise BackendError(f"{where}: {name} must be {port.dtype}, got {array.dtype}")
            if not port.takes(shape):
                raise BackendError(
                    f"{where}: {name} has shape {shape}, the engine was built for {port.smallest} to {port.largest}"
                )
            checked[name] = array
        return checked


def require() -> None:
    """Check that engines can run here.

    Raises:
        MissingExtraError: neither TensorRT-RTX nor TensorRT, or not cuda-core, is installed.
        BackendError: there is no driver, it is too old, or there is no GPU.
    """
    import_library(CLASSIC if is_installed(CLASSIC) and not is_installed(RTX) else RTX)
    open_device()


def is_usable() -> bool:
    """Whether `require` passes."""
    try:
        require()
    except (BackendError, MissingExtraError):
        return False
    return True


def compute_capability() -> str:
    """The generation of the GPU that engines run on here, e.g. `sm86`.

    Raises:
        MissingExtraError: cuda-core is not installed.
        BackendError: there is no driver, it is too old, or there is no GPU.
    """
    return open_device().target


class _Lane:
    """A context with its queue, its buffers and the graphs recorded with them."""

    def __init__(self, engine: Engine, queue: Queue, records: bool) -> None:
        self.queue = queue
        self._engine, self._context, self._records = engine, engine.create_context(), records
        self._buffers: dict[str, Memory] = {}
        # By the inputs' places and shapes; None after the first call, which sets the engine up for the shape.
        self._graphs: OrderedDict[tuple[object, ...], Callable[[], None] | None] = OrderedDict()

    def run(self, feeds: Mapping[str, "NDArray[np.generic] | ForeignArray"]) -> dict[str, NDArray[np.float32]]:
        shapes = self._context.set_shapes({name: array.shape for name, array in feeds.items()})
        places = self._place(feeds)
        results = {name: np.empty(shape, self._engine.outputs[name].dtype) for name, shape in shapes.items()}
        for name, result in results.items():
            places[name] = self._buffer(name, result.nbytes).pointer
        for name, pointer in places.items():
            self._context.bind(name, pointer)
        self._execute(tuple((name, array.shape) for name, array in feeds.items()) + tuple(places.items()))
        for name, result in results.items():
            self.queue.download(self._buffers[name], result)
        self.queue.synchronize()
        return results

    def run_on_device(self, feeds: Mapping[str, "NDArray[np.generic] | ForeignArray"]) -> dict[str, DeviceArray]:
        shapes = self._context.set_shapes({name: array.shape for name, array in feeds.items()})
        for name, pointer in self._place(feeds).items():
            self._context.bind(name, pointer)
        results = {}
        for name, shape in shapes.items():
            dtype = self._engine.outputs[name].dtype
            memory = self.queue.allocate(int(np.prod(shape)) * dtype.itemsize)
            self._context.bind(name, memory.pointer)
            results[name] = DeviceArray(tuple(shape), dtype, memory, self.queue)
        # Not recorded: the outputs lie elsewhere each time.
        self._context.enqueue(self.queue)
        self.queue.synchronize()
        return results

    def _place(self, feeds: Mapping[str, "NDArray[np.generic] | ForeignArray"]) -> dict[str, int]:
        """Bring the inputs to the device, those that are not there yet; gives where each lies."""
        places = {}
        for name, array in feeds.items():
            if isinstance(array, ForeignArray):
                if array.stream is not None:
                    self.queue.wait_for(array.stream)
                places[name] = array.pointer
            else:
                memory = self._buffer(name, array.nbytes)
                self.queue.upload(array, memory)
                places[name] = memory.pointer
        return places

    def _buffer(self, name: str, size: int) -> Memory:
        memory = self._buffers.get(name)
        if memory is None or memory.size < size:
            # Graphs hold the addresses with which they were recorded.
            self._graphs.clear()
            memory = self._buffers[name] = self.queue.allocate(size)
        return memory

    def _execute(self, key: tuple[object, ...]) -> None:
        if not self._records:
            self._context.enqueue(self.queue)
            return
        known, graph = key in self._graphs, self._graphs.pop(key, None)
        if known and graph is None:
            graph = self._record()
        if graph is None:
            self._context.enqueue(self.queue)
        else:
            graph()
        self._graphs[key] = graph  # the most recent last
        while len(self._graphs) > _MOST_GRAPHS:
            self._graphs.popitem(last=False)

    def _record(self) -> Callable[[], None] | None:
        try:
            return self.queue.capture(lambda: self._context.enqueue(self.queue))
        except Exception as error:  # see TensorRtBackend._lane
            logger.warning("TensorRT could not record a CUDA graph, and goes on without: %s", error)
            self._records = False
            return None
