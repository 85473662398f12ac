"""OpenVINO on the CPU (extra `openvino`)."""

import importlib
import logging
import sys
from collections import deque
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.backends.compiled_cache import CompiledCache
from samsdk.backends.extras import is_importable
from samsdk.backends.options import BackendOptions
from samsdk.errors import BackendError, MissingExtraError
from samsdk.tiers import Graph

logger = logging.getLogger(__name__)

_TELEMETRY: Final = "openvino_telemetry"
_OPTIONS: Final = {
    "PERFORMANCE_HINT": "LATENCY",
    # Left alone, OpenVINO computes in bfloat16 wherever the CPU can, and no longer computes the validated model.
    "INFERENCE_PRECISION_HINT": "f32",
    # Every process pins its threads from the first core on, so that two of them would share it beside idle ones.
    "ENABLE_CPU_PINNING": False,
}
_TYPES: Final = {"bfloat16": "bf16", "float16": "f16"}


class OpenVinoBackend:
    """One graph in OpenVINO, in the precision of the plan.

    `from_cache` says whether an earlier process compiled it.

    Args:
        content: the ONNX file's bytes.
        graph: the layers that compute in lower precision, and in which.
        options: `threads`, `cache`.

    Raises:
        MissingExtraError: openvino is not installed.
        BackendError: OpenVINO cannot load the graph, or it has no layers of the plan's names.
    """

    def __init__(self, content: bytes, graph: Graph, options: BackendOptions) -> None:
        openvino = require()
        self._outputs: list[str] = []
        self._inputs: dict[str, np.dtype[Any]] = {}
        self._compiled: Any
        self.from_cache = False
        settings: dict[str, Any] = dict(_OPTIONS)
        if options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        try:
            self._load(openvino, content, graph, options, settings)
        except BackendError:
            raise
        except Exception as error:  # OpenVINO raises RuntimeError, and others from its bindings
            raise BackendError(f"OpenVINO cannot load the graph: {error}") from error
        # A request runs one call at a time: as many are made as calls ever overlapped.
        self._idle: deque[Any] = deque()
        self.provider: str = f"OpenVINO {'+'.join(self._compiled.get_property('EXECUTION_DEVICES'))}"
        logger.info("graph with outputs %s runs on %s", self._outputs, self.provider)

    def _load(
        self, openvino: ModuleType, content: bytes, graph: Graph, options: BackendOptions, settings: dict[str, Any]
    ) -> None:
        core = openvino.Core()
        cache = None
        if options.cache is not None:
            engine = {"openvino": openvino.__version__, **settings}
            cache = CompiledCache(options.cache, content, graph, engine)
            if self._import(core, cache, settings):
                return
        model = core.read_model(content)
        _fix_batch(model)
        if graph.lowered:
            _lower(openvino, model, graph)
        # Before it is compiled: that merges the names of tensors which are the same.
        self._outputs = [output.any_name for output in model.outputs]
        self._inputs = {port.any_name: np.dtype(port.element_type.to_dtype()) for port in model.inputs}
        self._compiled = core.compile_model(model, "CPU", settings)
        if cache is not None:
            inputs = {name: dtype.str for name, dtype in self._inputs.items()}
            cache.write({"outputs": self._outputs, "inputs": inputs}, self._compiled.export_model().getvalue())

    def _import(self, core: Any, cache: CompiledCache, settings: dict[str, Any]) -> bool:
        kept = cache.read()
        if kept is None:
            return False
        about, blob = kept
        try:
            self._compiled = core.import_model(blob, "CPU", settings)
        except Exception as error:  # as in `__init__`
            # Its hash holds, but this processor or build is another one than its key could tell.
            logger.warning("OpenVINO refuses a graph that it compiled earlier, which is compiled anew: %s", error)
            return False
        self._outputs, self._inputs = about["outputs"], {k: np.dtype(v) for k, v in about["inputs"].items()}
        self.from_cache = True
        return True

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


def _fix_batch(model: Any) -> None:
    """Make an encoder's batch size 1, which is what `encode` asks for: OpenVINO plans fixed shapes better."""
    if [port.any_name for port in model.inputs] == ["image"]:
        model.reshape([1, *(dimension.get_length() for dimension in list(model.inputs[0].partial_shape)[1:])])


def _lower(openvino: ModuleType, model: Any, graph: Graph) -> None:
    """Let the plan's layers compute in lower precision, by conversions around them, which OpenVINO respects.

    Left to a hint, it would lower everything, the sums of residual branches included, which costs most of the accuracy
    and hardly any time.
    """
    kind = _TYPES[graph.precision]
    convert = importlib.import_module("openvino.opset13").convert
    layers = {layer.get_friendly_name(): layer for layer in model.get_ops()}
    missing = [name for name in graph.lowered if name not in layers]
    if missing:
        raise BackendError(
            f"this OpenVINO ({openvino.__version__}) names layers differently: {len(missing)} of {len(graph.lowered)} "
            f"that the plan names are not there, e.g. {missing[0]}; install the version that the certificate names"
        )
    for name in graph.lowered:
        layer = layers[name]
        users = list(layer.output(0).get_target_inputs())
        for port in layer.inputs():
            port.replace_source_output(convert(port.get_source_output(), kind).output(0))
        layer.validate_and_infer_types()
        back = convert(layer, "f32").output(0)
        for user in users:
            user.replace_source_output(back)


def is_installed() -> bool:
    """Whether openvino can be found."""
    return is_importable("openvino")


def require() -> ModuleType:
    """The module, imported without its telemetry.

    Raises:
        MissingExtraError: openvino is not installed.
    """
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
