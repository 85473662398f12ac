"""Latency of a bundle on this device, as a user's process sees it."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from samsdk.bundle import Bundle
from samsdk.environment import describe_environment, peak_memory_mb
from samsdk.golden import golden_prompt, read_golden
from samsdk.predictor import Predictor
from samsdk.prompts import Prompt


def run_bench(
    bundle: Bundle, *, device: str = "auto", threads: int | None = None, repeats: int = 20, prompts: int = 1
) -> dict[str, Any]:
    """Time loading, encoding, decoding and both together on the bundle's golden images.

    Args:
        bundle: an opened bundle.
        device: see `samsdk.load`.
        threads: see `samsdk.load`.
        repeats: timed calls of each stage, after two that are not counted.
        prompts: prompts in one decoder call.

    Returns:
        Milliseconds as p50, p95 and p99 of `encode` (with preprocessing), `decode` (with the masks) and `end_to_end`;
        `load_ms`; `peak_memory_mb` of this process; the environment.
    """
    start = time.perf_counter()
    predictor = Predictor(bundle, device=device, threads=threads)
    load_ms = (time.perf_counter() - start) * 1e3
    images, cases = read_golden(bundle)
    case = next((case for case in cases if "box" in case.prompt), cases[0])
    image = images[case.image]
    batch: list[Prompt] = [golden_prompt(case, cases)] * prompts
    embedding = predictor.encode(image)
    stages: dict[str, Callable[[], object]] = {
        "encode": lambda: predictor.encode(image),
        "decode": lambda: predictor.decode_batch(embedding, batch),
        "end_to_end": lambda: predictor.decode_batch(predictor.encode(image), batch),
    }
    return {
        "bundle": bundle.identity,
        "tier": predictor.tier,
        "provider": predictor.provider,
        "threads": threads,
        "image_size": list(image.shape[:2]),
        "prompts": prompts,
        "repeats": repeats,
        "load_ms": round(load_ms, 2),
        "ms": {stage: _percentiles(call, repeats) for stage, call in stages.items()},
        "peak_memory_mb": peak_memory_mb(),
        "environment": describe_environment(),
    }


def _percentiles(call: Callable[[], object], repeats: int) -> dict[str, float]:
    for _ in range(2):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return {f"p{rank}": round(float(np.percentile(times, rank)), 3) for rank in (50, 95, 99)}
