"""What a machine can do at most, and what state it is in, so that a latency can be judged.

The peaks are measured in a process of their own with the same number of threads as the systems that are timed.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

# Far beyond any cache.
_BYTES: Final = 256 * 2**20
_REPEATS: Final = 5
_POWERCAP: Final = Path("/sys/class/powercap")


def measure_peaks(threads: int) -> dict[str, float]:
    """The machine's float32 matrix product (`gflops`) and memory bandwidth (`gbytes_per_second`), with some threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    command = [sys.executable, str(Path(__file__)), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    peaks: dict[str, float] = json.loads(done.stdout)
    return peaks


def memory_bandwidth(threads: int) -> float:
    """1e9 bytes a second that a copy reads and writes, each thread a part of it; the best of a few."""
    given, taken = np.ones(_BYTES // 8), np.empty(_BYTES // 8)
    parts = list(zip(np.array_split(given, threads), np.array_split(taken, threads), strict=True))

    def copy(part: tuple[Any, Any]) -> None:
        np.copyto(part[1], part[0])  # without the interpreter's lock

    with ThreadPoolExecutor(threads) as pool:
        return 2 * _BYTES / _best(lambda: list(pool.map(copy, parts))) / 1e9


def _best(call: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def machine_state() -> dict[str, Any]:
    """Clock of each core in MHz, what governs it, and the load of the last minute, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        clocks = [float(found) for found in re.findall(r"cpu MHz\s*:\s*([0-9.]+)", lines)]
    except OSError:
        clocks = []
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "clocks_mhz": clocks,
        "load_1_minute": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "governor": governor.read_text(encoding="utf-8").strip() if governor.is_file() else None,
    }


class EnergyMeter:
    """Joules that the processor packages used, where the system lets them be read (Intel's and AMD's RAPL on Linux)."""

    def __init__(self) -> None:
        # Packages alone: cores and memory below them would be counted twice.
        found = sorted(_POWERCAP.glob("*-rapl:[0-9]")) if _POWERCAP.is_dir() else []
        self._zones = [zone for zone in found if os.access(zone / "energy_uj", os.R_OK)]
        self._last = self._read()

    @property
    def reports(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._zones)

    def joules(self) -> float | None:
        """Since the last call, or since it was made; None where the system does not tell."""
        now, before = self._read(), self._last
        self._last = now
        if not self._zones:
            return None
        used = 0
        for zone, new, old in zip(self._zones, now, before, strict=True):
            # The counter starts again from 0 at its range.
            used += new - old if new >= old else new - old + int((zone / "max_energy_range_uj").read_text())
        return used / 1e6

    def _read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone in self._zones]


def main() -> None:
    """Measure in this process, whose libraries have been told how many threads to use."""
    from samsdk.bench import matrix_peak

    threads = int(sys.argv[1])
    peaks = {"gflops": round(matrix_peak(), 1), "gbytes_per_second": round(memory_bandwidth(threads), 2)}
    print(json.dumps(peaks))


if __name__ == "__main__":
    main()
