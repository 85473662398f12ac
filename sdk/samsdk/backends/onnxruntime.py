"""ONNX Runtime, the backend that is always there."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from samsdk.errors import BackendError

logger = logging.getLogger(__name__)

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
DEVICES: Final = ("auto", "cpu", "cuda")
# Those of other backends, which never get here and are only named to the user.
_OTHER_DEVICES: Final = ("openvino",)

# A provider list as ONNX Runtime takes it: names, or (name, options).
Providers = Sequence[str | tuple[str, dict[str, Any]]]

# Without it the CUDA arena doubles with each growth and keeps what it took (X-AnyLabeling#1377).
_CUDA_OPTIONS: Final = {"arena_extend_strategy": "kSameAsRequested"}


class OnnxRuntimeBackend:
    """One graph in ONNX Runtime.

    Args:
        graph: the ONNX file's bytes.
        device: `auto` (CUDA when this onnxruntime has it, else the CPU), `cpu`, `cuda`, or a provider list.
        threads: threads of one call on the CPU; None leaves it to ONNX Runtime.

    Raises:
        BackendError: the device is unknown, or was asked for by name and is not there.
    """

    def __init__(self, graph: bytes, device: str | Providers, threads: int | None = None) -> None:
        wanted = choose_providers(device)
        self._session = _open(graph, wanted, threads)
        self.provider: str = self._session.get_providers()[0]
        first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
        if self.provider != first:
            # ONNX Runtime falls back on its own when a provider's libraries do not load, and only logs it.
            text = (
                f"{first} could not be started (see ONNX Runtime's log), {self.provider} would run instead; " + _REPAIR
            )
            if device != "auto":
                raise BackendError(text)
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        self._outputs = [output.name for output in self._session.get_outputs()]
        logger.info("graph with outputs %s runs on %s", self._outputs, self.provider)

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Run the graph; see `Backend.run`."""
        try:
            values = self._session.run(self._outputs, dict(feeds))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise BackendError(f"ONNX Runtime failed on {self.provider}: {error}") from error
        return dict(zip(self._outputs, values, strict=True))


_REPAIR: Final = (
    "for an NVIDIA GPU run `pip uninstall onnxruntime` and `pip install onnxruntime-gpu`, or use device='cpu'"
)


def choose_providers(device: str | Providers) -> list[str | tuple[str, dict[str, Any]]]:
    """The provider list for a device.

    Args:
        device: see `OnnxRuntimeBackend`.

    Raises:
        BackendError: the device is unknown, or this onnxruntime lacks it.
    """
    available = onnxruntime.get_available_providers()
    known = ", ".join(DEVICES + _OTHER_DEVICES)
    unknown = f"unknown device {device!r}, expected one of: {known}, or a list of: {', '.join(available)}"
    if not isinstance(device, str):
        try:
            wanted = list(device)
            names = [provider if isinstance(provider, str) else str(provider[0]) for provider in wanted]
        except (TypeError, IndexError) as error:
            raise BackendError(unknown) from error
        if not wanted:
            raise BackendError(unknown)
        lacking = [name for name in names if name not in available]
        if lacking:
            raise BackendError(f"this onnxruntime has no {', '.join(lacking)}; it has: {', '.join(available)}")
        return wanted
    if device not in DEVICES:
        raise BackendError(unknown)
    if device == "cuda" and CUDA not in available:
        raise BackendError(f"device 'cuda' needs {CUDA}, this onnxruntime has: {', '.join(available)}; {_REPAIR}")
    if device == "cpu" or CUDA not in available:
        return [CPU]
    return [(CUDA, dict(_CUDA_OPTIONS)), CPU]


def has_cuda() -> bool:
    """Whether this onnxruntime was built with CUDA; whether it starts is another matter."""
    return CUDA in onnxruntime.get_available_providers()


def _open(graph: bytes, providers: Providers, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(graph, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise BackendError(f"ONNX Runtime cannot load the graph: {error}") from error
