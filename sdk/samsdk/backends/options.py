"""What a user may set of an engine."""

from dataclasses import dataclass
from pathlib import Path

from samsdk.errors import BackendError


@dataclass(frozen=True)
class BackendOptions:
    """Settings of an engine; each is for the engines that know it.

    Attributes:
        threads: threads of one call on the CPU; None leaves it to the engine.
        gpu_memory_mb: most memory (1e6 bytes) that ONNX Runtime's arena may take on a GPU; None sets no limit.
        cache: folder for compiled graphs, from which the next process loads faster (OpenVINO); None compiles anew.
    """

    threads: int | None = None
    gpu_memory_mb: int | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        for name, value in (("threads", self.threads), ("gpu_memory_mb", self.gpu_memory_mb)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise BackendError(f"{name} must be a whole number of at least 1, got {value!r}")
