"""ONNX Runtime, the backend that is always there."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from samsdk.backends.options import BackendOptions
from samsdk.errors import BackendError

logger = logging.getLogger(__name__)

VERSION: Final[str] = onnxruntime.__version__
CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_DEVICES: Final = ("cpu", "cuda")
# Those of other backends and `auto`, which never get here and are only named to the user.
_OTHER_DEVICES: Final = ("openvino", "tensorrt", "auto")

# How it says that a file's opset, or the format itself, is beyond it.
_NEWER: Final = re.compile(r"Opset \d+ is under development|Unsupported model IR version")

# A provider list as ONNX Runtime takes it: names, or (name, options).
Providers = Sequence[str | tuple[str, dict[str, Any]]]

# Without it the CUDA arena doubles with each growth and keeps what it took (X-AnyLabeling#1377).
_CUDA_OPTIONS: Final = {"arena_extend_strategy": "kSameAsRequested"}


class OnnxRuntimeBackend:
    """One graph in ONNX Runtime.

    Args:
        graph: the ONNX file's bytes.
        device: `cpu`, `cuda`, or a provider list.
        options: `threads` for the CPU, `gpu_memory_mb` for CUDA.

    Raises:
        BackendError: the device is unknown or not there, or the graph is none.
    """

    def __init__(self, graph: bytes, device: str | Providers, options: BackendOptions) -> None:
        wanted = choose_providers(device, options.gpu_memory_mb)
        self._session = _open(graph, wanted, options.threads)
        self.provider: str = self._session.get_providers()[0]
        first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
        if self.provider != first:
            # ONNX Runtime falls back on its own when a provider's libraries do not load, and only logs it.
            raise BackendError(
                f"{first} could not be started (see ONNX Runtime's log), {self.provider} would run instead; {_REPAIR}"
            )
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


def choose_providers(
    device: str | Providers, gpu_memory_mb: int | None = None
) -> list[str | tuple[str, dict[str, Any]]]:
    """The provider list for a device.

    Args:
        device: see `OnnxRuntimeBackend`.
        gpu_memory_mb: see `BackendOptions`.

    Raises:
        BackendError: the device is unknown, or this onnxruntime lacks it.
    """
    available = onnxruntime.get_available_providers()
    known = ", ".join(_DEVICES + _OTHER_DEVICES)
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
    if device not in _DEVICES:
        raise BackendError(unknown)
    if device == "cpu":
        return [CPU]
    if CUDA not in available:
        raise BackendError(f"device 'cuda' needs {CUDA}, this onnxruntime has: {', '.join(available)}; {_REPAIR}")
    limit = {} if gpu_memory_mb is None else {"gpu_mem_limit": str(gpu_memory_mb * 10**6)}
    return [(CUDA, {**_CUDA_OPTIONS, **limit}), CPU]


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
        if _NEWER.search(str(error)):
            raise BackendError(
                f"the graph is newer than this onnxruntime ({VERSION}): `pip install --upgrade onnxruntime`, "
                f"or export the bundle again with this samsdk; ONNX Runtime says: {error}"
            ) from error
        raise BackendError(f"ONNX Runtime cannot load the graph: {error}") from error
