"""An engine and its contexts, behind the few calls that the backend needs; one class for both libraries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from samsdk.backends.cuda import Queue
from samsdk.backends.tensorrt_library import import_library
from samsdk.errors import BackendError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Port:
    """An input or output of an engine.

    Attributes:
        dtype: the NumPy dtype.
        smallest: the smallest shape that the engine takes; () for an output.
        largest: the largest one.
    """

    dtype: np.dtype[Any]
    smallest: Shape = ()
    largest: Shape = ()

    def takes(self, shape: Shape) -> bool:
        """Whether an input may have this shape."""
        extents = zip(self.smallest, shape, self.largest, strict=False)
        return len(shape) == len(self.smallest) and all(low <= extent <= high for low, extent, high in extents)


class Context(Protocol):
    """What runs one call of an engine at a time."""

    def set_shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Set the inputs' shapes; gives the outputs' shapes."""

    def bind(self, name: str, pointer: int) -> None:
        """Tell where an input or output lies on the device."""

    def enqueue(self, queue: Queue) -> None:
        """Put the whole engine into a queue."""


class Engine(Protocol):
    """A deserialised engine."""

    @property
    def inputs(self) -> Mapping[str, Port]:
        """By name."""

    @property
    def outputs(self) -> Mapping[str, Port]:
        """By name."""

    @property
    def records_graphs(self) -> bool:
        """Whether its contexts record CUDA graphs on their own."""

    def create_context(self) -> Context:
        """A new context, with its own scratch memory."""


class LibraryEngine:
    """A library's engine object behind `Engine`.

    Args:
        name: of the library.
        engine: its engine object.
        cuda_graphs: whether contexts record CUDA graphs, where the library does that on its own.
    """

    def __init__(self, name: str, engine: Any, cuda_graphs: bool) -> None:
        self._library, self._engine = import_library(name), engine
        # TensorRT-RTX compiles kernels for a shape while calls of that shape run on generic ones. It alone knows when
        # they are ready to be recorded.
        self.records_graphs = hasattr(self._library, "CudaGraphStrategy")
        self._cuda_graphs = cuda_graphs
        mode = self._library.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.inputs = {
            name: Port(self._dtype(name), *self._range(name))
            for name in names
            if engine.get_tensor_mode(name) == mode.INPUT
        }
        self.outputs = {name: Port(self._dtype(name)) for name in names if engine.get_tensor_mode(name) == mode.OUTPUT}

    def _dtype(self, name: str) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self._library.nptype(self._engine.get_tensor_dtype(name)))
        return dtype

    def _range(self, name: str) -> tuple[Shape, Shape]:
        smallest, _, largest = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, 0))
        return smallest, largest

    def create_context(self) -> Context:
        """See `Engine`."""
        if not self.records_graphs:
            return LibraryContext(self._engine.create_execution_context(), list(self.outputs))
        config, strategy = self._engine.create_runtime_config(), self._library.CudaGraphStrategy
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if self._cuda_graphs else strategy.DISABLED
        return LibraryContext(self._engine.create_execution_context(config), list(self.outputs))


class LibraryContext:
    """A library's execution context behind `Context`.

    Args:
        context: what the library made; None where it could not.
        outputs: names of the outputs.

    Raises:
        BackendError: the library could not make a context.
    """

    def __init__(self, context: Any, outputs: list[str]) -> None:
        if context is None:
            raise BackendError("TensorRT has no memory for another call; free GPU memory, or use device='cpu'")
        self._context, self._outputs = context, outputs

    def set_shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """See `Context`."""
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, tuple(shape)):
                raise BackendError(f"TensorRT does not take shape {shape} for {name}")
        unset = self._context.infer_shapes()
        if unset:
            raise BackendError(f"TensorRT cannot tell the outputs' shapes: {', '.join(unset)} is not set")
        return {name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs}

    def bind(self, name: str, pointer: int) -> None:
        """See `Context`."""
        if not self._context.set_tensor_address(name, pointer):
            raise BackendError(f"TensorRT does not take address {pointer:#x} for {name}")

    def enqueue(self, queue: Queue) -> None:
        """See `Context`."""
        if not self._context.execute_async_v3(queue.handle):
            raise BackendError("TensorRT could not start the engine; its log (logging, samsdk.backends) says why")
