"""One system of the side-by-side benchmark: its process, what it is asked, and what was measured of it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from machine import EnergyMeter
from peers.catalogue import EncoderCost
from peers.process import Worker, WorkerError
from samsdk.bench import percentiles
from workloads import Request

# A system whose first mask takes longer than this many seconds takes part in every fourth turn alone, and neither in
# other sizes nor in streams nor with clients.
SLOW: Final = 5.0
_SLOW_EVERY: Final = 4
# Cold starts are repeated within so many seconds.
_STARTS_SECONDS: Final = 30.0
# Streams and clients end after about so many seconds, however few images or requests that are.
_USE_SECONDS: Final = 40.0
_FEWEST: Final = 8
CLIENTS: Final = 8
SOAK_PARTS: Final = 12
_COLD: Final = ("load_ms", "loaded_ms", "first_mask_ms")


@dataclass(frozen=True)
class System:
    """How a system is started and what it is told; what its encoder has to do, if it runs alone and that is known."""

    name: str
    python: Path
    script: Path
    request: Mapping[str, Any]
    encoder: EncoderCost | None = None


@dataclass(frozen=True)
class Asked:
    """An image on disk, and the prompt that is asked on it."""

    image: Path
    prompt: Request


class Runner:
    """A system that runs.

    Args:
        system: which.
        threads: of its libraries.
        meter: of the machine's energy.

    Attributes:
        row: what was measured so far.
        slow: whether its first mask took longer than `SLOW`.

    Every method that asks the process raises a `WorkerError` where it fails.
    """

    def __init__(self, system: System, threads: int, meter: EnergyMeter) -> None:
        self.system, self._threads, self._meter = system, threads, meter
        self.row: dict[str, Any] = {}
        self._turns: list[dict[str, float]] = []
        self._joules: list[float] = []
        self.slow = False
        self._worker: Worker | None = None

    def start(self, first: Asked, starts: int) -> None:
        """Time cold starts, fewer of those that take long; the last process stays."""
        cold: list[dict[str, Any]] = []
        while len(cold) < starts and sum(one["first_mask_ms"] for one in cold) < 1e3 * _STARTS_SECONDS:
            self.kill()
            self._worker = Worker(self.system.python, self.system.script, threads=self._threads)
            cold.append(self._worker.cold_start(self.system.request, first.image, first.prompt))
        about = {key: value for key, value in cold[-1].items() if key not in (*_COLD, "ok")}
        self.row = {**about, "cold": {key: round(float(np.median([one[key] for one in cold])), 1) for key in _COLD}}

    def ask(self, request: Request) -> dict[str, Any]:
        """Ask the process."""
        if self._worker is None:
            raise WorkerError(f"{self.system.name} is not running")
        return self._worker.call(request)

    def turn(self, number: int, image: Path, prompts: Mapping[int, Request]) -> None:
        """Encode once, and decode once for each number of prompts; turn 0 counts of slow systems alone."""
        if self.slow and number % _SLOW_EVERY:
            return
        self._meter.joules()
        times = {"encode": self._encode(image)}
        joules = self._meter.joules()
        times |= {f"decode_{count}": self._decode(prompt) for count, prompt in prompts.items()}
        times["first_mask"] = times["encode"] + times["decode_1"]
        if number == 0:
            self.slow = times["first_mask"] > 1e3 * SLOW
            if not self.slow:
                return
        self._turns.append(times)
        if joules is not None:
            self._joules.append(joules)

    def finish_turns(self, peaks: Mapping[str, float]) -> None:
        """Sum up the turns, and set the encoder beside what the machine can do at most."""
        ms = {stage: percentiles([turn[stage] for turn in self._turns]) for stage in self._turns[0]}
        self.row |= {"turns": len(self._turns), "ms": ms}
        if self._joules:
            self.row["encode_joules"] = round(float(np.median(self._joules)), 3)
        seconds = ms["encode"]["p50"] * 1e-3
        cost = self.system.encoder
        if cost is not None:
            self.row["share_of_gflops"] = round(cost.flops / seconds / 1e9 / peaks["gflops"], 3)
            self.row["share_of_bandwidth"] = round(cost.bytes / seconds / 1e9 / peaks["gbytes_per_second"], 3)

    def session(self, image: Path, clicks: Sequence[Request]) -> None:
        """One user's clicks on one image, one after the other."""
        encode, times = self._encode(image), [self._decode(click) for click in clicks]
        self.row["session"] = {"total_ms": round(encode + sum(times), 1), "click_ms": percentiles(times)}

    def sizes(self, images: Mapping[str, Asked]) -> None:
        """The first mask of images of other sizes; what the second time took."""
        found = {}
        for name, asked in images.items():
            self._first_mask(asked)
            found[name] = round(self._first_mask(asked), 2)
        self.row["sizes_ms"] = found

    def stream(self, images: Sequence[Asked]) -> None:
        """Image after image, one prompt each."""
        times = [self._first_mask(asked) for asked in images[: self._share(len(images))]]
        self.row["stream"] = {"images": len(times), "ms": percentiles(times)}

    def clients(self, asked: Asked, requests: int) -> None:
        """Several clients at once, as a server has them: each encodes and decodes again and again."""
        requests = self._share(requests)
        several = {"do": "clients", "clients": CLIENTS, "requests": requests, "image": str(asked.image)}
        found = self.ask({**several, **asked.prompt})
        self.row["clients"] = {
            "clients": CLIENTS,
            "locked": found["locked"],
            "requests": requests,
            "per_second": round(requests / found["seconds"], 2),
            "ms": percentiles(found["ms"]),
        }

    def soak(self, images: Sequence[Asked], seconds: float) -> list[dict[str, Any]]:
        """Image after image for a long time: does memory grow, does latency drift?"""
        rows, begun, done = [], time.perf_counter(), 0
        for part in range(1, SOAK_PARTS + 1):
            times = []
            while not times or time.perf_counter() - begun < seconds * part / SOAK_PARTS:
                times.append(self._first_mask(images[done % len(images)]))
                done += 1
            memory = self.ask({"do": "memory"})["resident_mb"]
            rows.append({"images": len(times), "ms": percentiles(times), "resident_mb": memory})
        return rows

    def memory(self, name: str) -> None:
        """The largest memory of the process so far, under a name of the row."""
        self.row[name] = self.ask({"do": "memory"})["peak_memory_mb"]

    def kill(self) -> None:
        """End the process; nothing if there is none."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def _share(self, count: int) -> int:
        fitting = int(1e3 * _USE_SECONDS / self.row["ms"]["first_mask"]["p50"])
        return min(count, max(fitting, _FEWEST))

    def _encode(self, image: Path) -> float:
        return float(self.ask({"do": "encode", "image": str(image)})["ms"])

    def _decode(self, prompt: Request) -> float:
        return float(self.ask({"do": "decode", **prompt})["ms"])

    def _first_mask(self, asked: Asked) -> float:
        return self._encode(asked.image) + self._decode(asked.prompt)
