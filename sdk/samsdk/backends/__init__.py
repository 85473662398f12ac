"""Inference backends: one small protocol, one file for each engine."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from samsdk.backends import openvino, tensorrt
from samsdk.backends.onnxruntime import VERSION, OnnxRuntimeBackend, Providers, choose_providers, has_cuda
from samsdk.backends.openvino import OpenVinoBackend
from samsdk.backends.options import BackendOptions
from samsdk.backends.tensorrt import TensorRtBackend
from samsdk.errors import BackendError
from samsdk.tiers import Graph

DEVICES: Final = ("cpu", "cuda", "openvino", "tensorrt")


class Backend(Protocol):
    """One loaded graph."""

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graph, e.g. `CPUExecutionProvider`."""

    def run(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        """Run the graph. Safe to call from several threads at once.

        Args:
            feeds: input name to NumPy array; TensorRT takes arrays on the GPU, too.

        Returns:
            Output name to array.

        Raises:
            BackendError: the engine failed.
        """


def open_graph(content: bytes, graph: Graph, device: str | Providers, options: BackendOptions) -> Backend:
    """Load a graph into the engine that a device stands for.

    Args:
        content: the file's bytes.
        graph: how it is to be run.
        device: one of `DEVICES`, or a list of ONNX Runtime providers.
        options: for the engine.

    Raises:
        BackendError: the device is unknown or not there, or the engine cannot load the graph.
        MissingExtraError: the device's engine is not installed.
    """
    if device == "openvino":
        return OpenVinoBackend(content, graph, options)
    if device == "tensorrt":
        return TensorRtBackend(content)
    return OnnxRuntimeBackend(content, device, options)


def backend_name(device: str | Providers) -> str:
    """The name under which certificates know a device: engine and, for ONNX Runtime, what it runs on.

    Raises:
        BackendError: the device is unknown, or not there.
        MissingExtraError: the device's engine is not installed.
    """
    if device == "openvino":
        openvino.require()
        return "openvino"
    if device == "tensorrt":
        tensorrt.require()
        return "tensorrt"
    first = choose_providers(device)[0]
    name = first if isinstance(first, str) else first[0]
    return f"onnxruntime-{name.removesuffix('ExecutionProvider').lower()}"


def engine_name(backend: str) -> str:
    """Name and version of the engine behind a backend: a certificate of a device holds for this very one."""
    engine = backend.split("-")[0]
    if engine == "onnxruntime":
        return f"onnxruntime {VERSION}"
    for distribution in {"openvino": ("openvino",), "tensorrt": ("tensorrt-rtx", "tensorrt")}[engine]:
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    raise BackendError(f"{engine} is installed without its metadata; its version is unknown")


def gpu_target(device: str | Providers) -> str | None:
    """The GPU generation that engines have to be built for, e.g. `sm86`; None where files run on any."""
    return tensorrt.compute_capability() if device == "tensorrt" else None


def available_devices() -> list[str]:
    """The devices, each by its own name, that this process can be expected to run on."""
    present = {
        "cpu": True,
        "cuda": has_cuda(),
        "openvino": openvino.is_installed(),
        "tensorrt": tensorrt.is_usable(),
    }
    return [device for device in DEVICES if present[device]]
