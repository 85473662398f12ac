"""What a result or a report has to say of the machine and the libraries that made it."""

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import onnxruntime

# Of one name in a cloud there are processors that differ in these, and so by a factor in speed: widest first.
_INSTRUCTIONS: Final = {
    "amx_tile": "AMX",
    "avx512_bf16": "AVX-512 BF16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "sve": "SVE",
    "asimd": "NEON",
}


def describe_environment() -> dict[str, Any]:
    """Versions, processor and providers of this process, as JSON can hold them; no host name and no user name."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "onnxruntime": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
        "openvino": _version("openvino"),
        "tensorrt_rtx": _version("tensorrt-rtx"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "instructions": widest_instructions(_cpuinfo("flags") or _cpuinfo("Features") or ""),
        "cores": os.cpu_count(),
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def installation_problems() -> list[str]:
    """What is wrong with how samsdk's engines are installed, each with the commands that repair it."""
    both = _version("onnxruntime") and _version("onnxruntime-gpu")
    if not both:
        return []
    return [
        "onnxruntime and onnxruntime-gpu are both installed: they share their files, and whichever came last overwrote "
        "the other. Keep one: `pip uninstall -y onnxruntime onnxruntime-gpu`, then for an NVIDIA GPU `pip install "
        "onnxruntime-gpu`, else `pip install onnxruntime`"
    ]


def peak_memory_mb() -> float | None:
    """The largest resident memory of this process so far, in MB (1e6 bytes); None where the system does not tell."""
    # A process starts with what its parent held in `ru_maxrss`; Linux counts `VmHWM` of the program alone.
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    if found:
        return int(found[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resident_mb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def resident_mb(maxrss: int) -> float:
    """What `ru_maxrss` of a process means on this system, in MB (1e6 bytes)."""
    return maxrss / 1e6 if sys.platform == "darwin" else maxrss * 1024 / 1e6


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor()


def widest_instructions(flags: str) -> str | None:
    """The widest vector instructions that a line of flags of /proc/cpuinfo names; None if it names none."""
    known = set(flags.split())
    return next((name for flag, name in _INSTRUCTIONS.items() if flag in known), None)


def _cpuinfo(field: str) -> str | None:
    """What Linux says of the first core."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), None)
