"""Inference backends: one small protocol, one file for each engine."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samsdk.backends.onnxruntime import OnnxRuntimeBackend, Providers, has_cuda
from samsdk.backends.openvino import OpenVinoBackend, is_installed
from samsdk.errors import BackendError


class Backend(Protocol):
    """One loaded graph."""

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graph, e.g. `CPUExecutionProvider`."""

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Run the graph. Safe to call from several threads at once.

        Args:
            feeds: input name to array.

        Returns:
            Output name to array.

        Raises:
            BackendError: the engine failed.
        """


def open_backend(graph: bytes, device: str | Providers, threads: int | None = None) -> Backend:
    """Load a graph into the engine that a device stands for.

    Args:
        graph: the ONNX file's bytes.
        device: `openvino`, or what ONNX Runtime runs: `auto`, `cpu`, `cuda` or a provider list.
        threads: threads of one call on the CPU; None leaves it to the engine.

    Raises:
        BackendError: the device is unknown, or was asked for by name and is not there; or the graph is none.
        MissingExtraError: the device's engine is not installed.
    """
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise BackendError(f"threads must be a whole number of at least 1, got {threads!r}")
    if isinstance(device, str) and device == "openvino":
        return OpenVinoBackend(graph, threads)
    return OnnxRuntimeBackend(graph, device, threads)


def available_devices() -> list[str]:
    """The devices, each by its own name, that this process can be expected to run on."""
    present = {"cpu": True, "cuda": has_cuda(), "openvino": is_installed()}
    return [device for device, there in present.items() if there]
