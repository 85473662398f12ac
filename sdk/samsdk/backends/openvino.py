"""OpenVINO on the CPU (extra `openvino`)."""

import importlib.util
import logging
import sys
from collections import deque
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import BackendError, MissingExtraError

logger = logging.getLogger(__name__)

_TELEMETRY: Final = "openvino_telemetry"
_OPTIONS: Final = {
    "PERFORMANCE_HINT": "LATENCY",
    # Left alone, OpenVINO computes in bfloat16 wherever the CPU can, and no longer computes the validated model.
    "INFERENCE_PRECISION_HINT": "f32",
    # Every process pins its threads from the first core on, so that two of them would share it beside idle ones.
    "ENABLE_CPU_PINNING": False,
}


class OpenVinoBackend:
    """One graph in OpenVINO, in full precision.

    Args:
        graph: the ONNX file's bytes.
        threads: threads of one call; None leaves it to OpenVINO.

    Raises:
        MissingExtraError: openvino is not installed.
        BackendError: OpenVINO cannot load the graph.
    """

    def __init__(self, graph: bytes, threads: int | None = None) -> None:
        openvino = _import_openvino()
        options = _OPTIONS if threads is None else {**_OPTIONS, "INFERENCE_NUM_THREADS": threads}
        try:
            core = openvino.Core()
            model = core.read_model(graph)
            # Before it is compiled: that merges the names of tensors which are the same.
            self._outputs: list[str] = [output.any_name for output in model.outputs]
            self._inputs: dict[str, Any] = {port.any_name: port.element_type.to_dtype() for port in model.inputs}
            self._compiled = core.compile_model(model, "CPU", options)
        except Exception as error:  # OpenVINO raises RuntimeError, and others from its bindings
            raise BackendError(f"OpenVINO cannot load the graph: {error}") from error
        # A request runs one call at a time: as many are made as calls ever overlapped.
        self._idle: deque[Any] = deque()
        self.provider: str = f"OpenVINO {'+'.join(self._compiled.get_property('EXECUTION_DEVICES'))}"
        logger.info("graph with outputs %s runs on %s", self._outputs, self.provider)

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Run the graph; see `Backend.run`."""
        inputs = self._check(feeds)
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            # Copies both ways: neither keeps the caller's arrays alive, nor is overwritten by the next call.
            values = request.infer(inputs, share_inputs=False, share_outputs=False).to_tuple()
        except Exception as error:  # as above; the request is in an unknown state and is dropped
            raise BackendError(f"OpenVINO failed on {self.provider}: {error}") from error
        self._idle.append(request)
        return dict(zip(self._outputs, values, strict=True))

    def _check(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        # OpenVINO drops inputs that no node uses, and would convert any dtype without a word.
        missing = [name for name in self._inputs if name not in feeds]
        if missing:
            raise BackendError(f"OpenVINO failed on {self.provider}: missing {', '.join(missing)}; got {list(feeds)}")
        for name, dtype in self._inputs.items():
            if feeds[name].dtype != dtype:
                raise BackendError(
                    f"OpenVINO failed on {self.provider}: {name} must be {np.dtype(dtype)}, got {feeds[name].dtype}"
                )
        return {name: np.ascontiguousarray(feeds[name]) for name in self._inputs}


def is_installed() -> bool:
    """Whether openvino can be found; it is not imported, which takes a good half second."""
    try:
        return importlib.util.find_spec("openvino") is not None
    except ValueError:  # sys.modules holds None or a module without a spec
        return False


def _import_openvino() -> ModuleType:
    # `import openvino` alone reports to Google Analytics and writes an identifier to ~/intel, unasked. Without the
    # package that does it, OpenVINO uses a stub of its own. A process that imported it before has decided for itself.
    hide = _TELEMETRY not in sys.modules
    if hide:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("device 'openvino' needs openvino: pip install 'samsdk[openvino]'") from error
    finally:
        if hide:
            sys.modules.pop(_TELEMETRY, None)
    module: ModuleType = openvino
    return module
