"""Latency of a bundle on this device: every backend and tier side by side, each in a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from samsdk.backends import available_devices, backend_name, engine_name, gpu_target
from samsdk.bundle import Bundle
from samsdk.certificates import find_certificate
from samsdk.environment import describe_environment
from samsdk.errors import BackendError, BundleError, SamsdkError
from samsdk.manifest import VOLUME

_PEAK_SIDE = 1536


def run_bench(
    bundle: Bundle,
    *,
    devices: Sequence[str] | None = None,
    tiers: Sequence[str] | None = None,
    threads: int | None = None,
    repeats: int = 20,
    prompts: Sequence[int] = (1, 4, 16),
) -> dict[str, Any]:
    """Time starting, loading, encoding, decoding and all together on the bundle's golden images.

    All systems take turns, so that a machine that drifts slows all of them alike.

    Args:
        bundle: an opened bundle.
        devices: see `samsdk.load`; None takes all that are there and certified.
        tiers: some of the bundle's; None takes all.
        threads: see `samsdk.load`.
        repeats: timed turns, after two that are not counted.
        prompts: numbers of prompts in one decoder call.

    Returns:
        `systems`: for each backend and tier `cold_start_ms` (process start to first mask), `load_ms`, p50, p95 and p99
        in milliseconds of `encode` (with preprocessing), `decode_1`, `decode_4`, ... (with the masks) and `end_to_end`
        (one prompt), `peak_memory_mb`, and `encoder_gflops`: what the encoder achieves (1e9 operations a second);
        `peak_gflops`, the machine's own in a matrix product, measured in the same run; `skipped`, with reasons; the
        environment.

    Raises:
        BundleError: nothing can be timed.
        BackendError: a process failed.
    """
    if bundle.manifest.task == VOLUME:
        raise BundleError(
            f"bundle {bundle.manifest.name!r} segments volumes, which differ in size: what one takes is in its "
            "predictor's plan and timings, and what a window takes in the certificate (`samsdk doctor --json`)"
        )
    systems, skipped = _choose(bundle, devices, tiers)
    if not systems:
        raise BundleError("nothing to time: " + "; ".join(skipped))
    workers: list[_Worker] = []
    try:
        for device, tier in systems:
            workers.append(_Worker(bundle, device, tier, threads, list(prompts)))
            # One after the other: a cold start beside another one is slower than what a user sees.
            workers[-1].start()
        for _ in range(repeats + 2):
            for worker in workers:
                worker.turn()
        rows = [worker.finish() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return {
        "bundle": bundle.identity,
        "threads": threads,
        "repeats": repeats,
        "systems": rows,
        "skipped": skipped,
        "peak_gflops": round(matrix_peak(), 1),
        "environment": describe_environment(),
    }


def matrix_peak(repeats: int = 5) -> float:
    """The machine's float32 matrix product, in 1e9 operations a second: the best of a few, by NumPy's BLAS."""
    a = np.random.default_rng(0).random((_PEAK_SIDE, _PEAK_SIDE), dtype=np.float32)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        _ = a @ a
        times.append(time.perf_counter() - start)
    return 2 * _PEAK_SIDE**3 / min(times) / 1e9


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99."""
    return {f"p{rank}": round(float(np.percentile(times, rank)), 3) for rank in (50, 95, 99)}


def _choose(
    bundle: Bundle, devices: Sequence[str] | None, tiers: Sequence[str] | None
) -> tuple[list[tuple[str, str]], list[str]]:
    chosen, skipped = [], []
    for tier in tiers or bundle.manifest.tiers:
        for device in devices or available_devices():
            try:
                backend = backend_name(device)
                plan = bundle.manifest.plan(tier, backend, gpu_target(device))
                find_certificate(bundle, tier, backend, plan, engine_name(backend))
            except SamsdkError as error:
                if devices is not None:
                    raise
                skipped.append(str(error))
            else:
                chosen.append((device, tier))
    return chosen, skipped


class _Worker:
    """One process that runs one backend and tier, and does a turn when it is told to."""

    def __init__(self, bundle: Bundle, device: str, tier: str, threads: int | None, prompts: list[int]) -> None:
        self._flops = bundle.manifest.flops
        self._about = {"device": device, "tier": tier}
        self._request = {**self._about, "bundle": str(bundle.path), "threads": threads, "prompts": prompts}
        self._first: dict[str, Any] = {}
        self._turns: list[dict[str, float]] = []
        self._started = time.time()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "samsdk.bench_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self) -> None:
        """Load the bundle and make the first mask."""
        self._say(json.dumps({**self._request, "started": self._started}))
        self._first = self._hear()

    def turn(self) -> None:
        """Run each stage once."""
        self._say("turn")
        self._turns.append(self._hear())

    def finish(self) -> dict[str, Any]:
        """Let the process end, and give what it measured."""
        self._say("end")
        last = self._hear()
        counted = self._turns[2:]
        ms = {stage: percentiles([turn[stage] for turn in counted]) for stage in counted[0]}
        flops = self._flops.get("encoder", 0) + self._flops.get("prompter", 0)
        speed = None if flops == 0 else round(flops / (ms["encode"]["p50"] * 1e-3) / 1e9, 1)
        return {**self._about, **self._first, "ms": ms, "encoder_gflops": speed, **last}

    def kill(self) -> None:
        """End the process, whatever it does; nothing if it ended."""
        self._process.kill()
        self._process.wait()

    def _say(self, line: str) -> None:
        stream = _open(self._process.stdin)
        try:
            stream.write(line + "\n")
            stream.flush()
        except BrokenPipeError:
            # It ended; what it said last is the reason, and is read next.
            return

    def _hear(self) -> dict[str, Any]:
        line = _open(self._process.stdout).readline()
        try:
            answer: dict[str, Any] = json.loads(line) if line else {"error": "the process ended without a word"}
        except ValueError:  # a library that prints
            answer = {"error": f"the process said {line.strip()!r}"}
        if "error" in answer:
            raise BackendError(f"{self._about['device']}, tier {self._about['tier']}: {answer['error']}")
        return answer


def _open(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise BackendError("the process has no pipe")
    return stream
