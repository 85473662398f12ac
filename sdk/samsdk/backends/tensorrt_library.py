"""TensorRT-RTX and TensorRT as modules: one Python interface, two names (extra `tensorrt`)."""

import functools
import importlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from samsdk.backends.extras import is_importable
from samsdk.errors import BackendError, MissingExtraError

logger = logging.getLogger(__name__)

RTX: Final = "tensorrt_rtx"
CLASSIC: Final = "tensorrt"
# What a serialised engine begins with.
_MODULES: Final = {b"vtrt": RTX, b"ftrt": CLASSIC}
_COMMANDS: Final = {RTX: "pip install 'samsdk[tensorrt]'", CLASSIC: "pip install tensorrt"}
_EXPORT: Final = "export the engine again"
DRIVER: Final = (
    "no NVIDIA driver that this CUDA can use: install or update it (`nvidia-smi` shows what is there), or use "
    "device='cpu'"
)
# By the names of TensorRT-RTX's EngineInvalidityDiagnostics, the most telling first.
_DIAGNOSES: Final = {
    "MALFORMED_ENGINE": "it is damaged or no engine of this library; fetch the bundle again",
    "VERSION_MISMATCH": f"another version of the library built it; install that version, or {_EXPORT}",
    "UNSUPPORTED_CC": f"it was built for other GPU generations than this one; {_EXPORT} for this one's",
    "OLD_CUDA_DRIVER": DRIVER,
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old; update the library",
    "INSUFFICIENT_GPU_MEMORY": "the GPU's memory does not hold it; free some, or use device='cpu'",
}
# By what the library writes to its log; it does not tell it in any other way. In the order of the checks: without a
# driver every engine that passes the first ones fails with cudaError 35.
_MESSAGES: Final = {
    "magicTag": _DIAGNOSES["MALFORMED_ENGINE"],
    "blobSize": "it is cut short; fetch the bundle again",
    "empty memory buffer": "it is empty; fetch the bundle again",
    "version of TensorRT": _DIAGNOSES["VERSION_MISMATCH"],
    "library version": _DIAGNOSES["VERSION_MISMATCH"],
    "ompute capabilit": _DIAGNOSES["UNSUPPORTED_CC"],
    "out of memory": _DIAGNOSES["INSUFFICIENT_GPU_MEMORY"],
}
# One at a time: all of a library's objects write to one log.
_lock = threading.RLock()
_errors: list[str] = []


def is_installed(name: str = RTX) -> bool:
    """Whether a library can be found; it is not imported.

    Args:
        name: `tensorrt_rtx` or `tensorrt`.
    """
    return is_importable(name)


def import_library(name: str = RTX, purpose: str = "device 'tensorrt'") -> Any:
    """The module, imported.

    Args:
        name: `tensorrt_rtx` or `tensorrt`.
        purpose: what needs it, for the error.

    Raises:
        MissingExtraError: it is not installed, or its libraries do not load.
    """
    try:
        module: ModuleType = importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library of it
        raise MissingExtraError(f"{purpose} needs {name.replace('_', '-')} ({error}): {_COMMANDS[name]}") from error
    return module


@functools.cache
def library_log(name: str) -> Any:
    """A logger object of the library that writes to Python's logging; one for all, as the library keeps the first.

    Args:
        name: `tensorrt_rtx` or `tensorrt`.
    """
    library = import_library(name)
    severity = library.ILogger.Severity
    levels = {severity.INTERNAL_ERROR: logging.ERROR, severity.ERROR: logging.ERROR, severity.WARNING: logging.WARNING}

    base: Any = library.ILogger

    class Log(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, kind: Any, message: str) -> None:
            level = levels.get(kind, logging.DEBUG)
            if level == logging.ERROR:
                _errors.append(message)
                # Whoever called raises them as one exception.
                level = logging.DEBUG
            logger.log(level, "%s: %s", name, message)

    return Log()


@contextmanager
def collected_errors() -> Iterator[list[str]]:
    """Collect what the libraries log as errors while the block runs; blocks of other threads wait."""
    with _lock:
        _errors.clear()
        yield _errors


def load_engine(content: bytes) -> tuple[str, Any]:
    """Deserialise an engine.

    Args:
        content: a serialised engine's bytes.

    Returns:
        The name of the library that runs it, and the library's engine object.

    Raises:
        MissingExtraError: the library that built it is not installed.
        BackendError: the engine is foreign, damaged, or not for this machine; the text says which.
    """
    name = _MODULES.get(bytes(content[:4]))
    if name is None:
        raise BackendError(f"TensorRT cannot load the engine: {_DIAGNOSES['MALFORMED_ENGINE']}")
    library = import_library(name)
    with collected_errors() as errors:
        runtime = library.Runtime(library_log(name))
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            reason = _diagnose(library, runtime, content, errors)
            raise BackendError(f"{name} {library.__version__} cannot load the engine: {reason}")
    return name, engine


def _diagnose(library: Any, runtime: Any, content: bytes, errors: list[str]) -> str:
    messages = list(errors)
    found = [text for token, text in _MESSAGES.items() if messages and token in messages[0]]
    if hasattr(runtime, "get_engine_validity"):
        flags = int(runtime.get_engine_validity(content)[1])
        known = library.EngineInvalidityDiagnostics.__members__
        found = [text for flag, text in _DIAGNOSES.items() if flag in known and flags & int(known[flag])] or found
    if not found and any("cudaError 35" in message or "cudaError 100" in message for message in messages):
        found = [DRIVER]
    return found[0] if found else "; ".join(messages) or "it gives no reason"
