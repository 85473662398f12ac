import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samsdk import BackendError, Bundle, BundleError, bench
from samsdk.backends import openvino
from samsdk.bench import matrix_peak, percentiles, run_bench

Started = list["subprocess.Popen[str]"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """The processes that a bench starts."""
    processes: Started = []
    start = subprocess.Popen

    def remember(*args: Any, **how: Any) -> "subprocess.Popen[str]":
        processes.append(start(*args, **how))
        return processes[-1]

    monkeypatch.setattr(bench.subprocess, "Popen", remember)
    return processes


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch, started: Started) -> Callable[[str], Started]:
    """Let a script stand for the worker, and nobody multiply matrices."""
    remember = bench.subprocess.Popen
    monkeypatch.setattr(bench, "matrix_peak", lambda: 1.0)

    def arrange(script: str) -> Started:
        command = [sys.executable, "-c", "import json, os, sys\nrequest = json.loads(input())\n" + script]
        monkeypatch.setattr(bench.subprocess, "Popen", lambda _command, **how: remember(command, **how))
        return started

    return arrange


def all_ended(processes: Started) -> bool:
    return all(process.poll() is not None for process in processes)


def test_two_systems_take_turns_and_say_what_they_measured(
    exported_bundle: Path, monkeypatch: pytest.MonkeyPatch, started: Started
) -> None:
    turns = []
    turn = bench._Worker.turn
    monkeypatch.setattr(bench._Worker, "turn", lambda self: turns.append(self) or turn(self))
    bundle = Bundle.open(exported_bundle)
    devices = ["cpu", "openvino" if openvino.is_installed() else "cpu"]
    begun = time.perf_counter()
    data = run_bench(bundle, devices=devices, threads=1, repeats=3, prompts=(1, 3))
    took = (time.perf_counter() - begun) * 1e3
    one, two = turns[:2]
    # Two turns to warm up and three that count.
    assert turns == [one, two] * 5
    assert one is not two
    assert len(started) == 2
    assert all_ended(started)
    assert data["bundle"] == bundle.identity
    assert (data["threads"], data["repeats"], data["skipped"]) == (1, 3, [])
    assert [(row["device"], row["tier"], row["precision"]) for row in data["systems"]] == [
        (device, "exact", "float32") for device in devices
    ]
    assert data["systems"][0]["provider"] == "CPUExecutionProvider"
    flops = bundle.manifest.flops["encoder"]
    for row in data["systems"]:
        assert row["image_size"] == [320, 267]
        assert list(row["ms"]) == ["encode", "decode_1", "decode_3", "end_to_end"]
        for ranks in row["ms"].values():
            assert 0 < ranks["p50"] <= ranks["p95"] <= ranks["p99"] < took
        # A start holds a load, and an encoded and decoded prompt: imports alone take longer than each.
        assert took > row["cold_start_ms"] > row["load_ms"] > 0
        assert row["cold_start_ms"] > row["load_ms"] + 20
        assert row["encoder_gflops"] == pytest.approx(flops / row["ms"]["encode"]["p50"] / 1e6, abs=0.06)
        assert row["peak_memory_mb"] is None or row["peak_memory_mb"] > 50
    assert data["peak_gflops"] > max(row["encoder_gflops"] for row in data["systems"])
    json.dumps(data, allow_nan=False)


def test_percentiles() -> None:
    assert percentiles([1, 2, 3, 4]) == {"p50": 2.5, "p95": 3.85, "p99": 3.97}
    assert percentiles([7.0]) == {"p50": 7.0, "p95": 7.0, "p99": 7.0}


SPEAKS = """
print(json.dumps({"provider": "p", "told": [request[name] for name in ("device", "tier", "threads", "prompts")]}))
sys.stdout.flush()
times = iter([1000, 1000, 1, 2, 3, 4])
while sys.stdin.readline().strip() == "turn":
    print(json.dumps({"encode": next(times)}), flush=True)
print(json.dumps({"peak_memory_mb": 5.0}), flush=True)
"""


def test_the_first_two_turns_do_not_count(exported_bundle: Path, actor: Callable[[str], Started]) -> None:
    processes = actor(SPEAKS)
    (row,) = run_bench(Bundle.open(exported_bundle), devices=["cpu"], threads=2, repeats=4, prompts=(5,))["systems"]
    flops = Bundle.open(exported_bundle).manifest.flops["encoder"]
    assert row == {
        "device": "cpu",
        "tier": "exact",
        "provider": "p",
        "told": ["cpu", "exact", 2, [5]],
        "ms": {"encode": {"p50": 2.5, "p95": 3.85, "p99": 3.97}},
        "encoder_gflops": round(flops / 2.5e-3 / 1e9, 1),
        "peak_memory_mb": 5.0,
    }
    assert all_ended(processes)


# What it prints is one line of JSON; where it reads a line, it is told to take a turn.
DYING = [
    ("sys.exit(0)", "cpu, tier exact: the process ended without a word"),
    ("os.kill(os.getpid(), 9)", "cpu, tier exact: the process ended without a word"),
    ("print(json.dumps({'error': 'no graph'}))", "cpu, tier exact: no graph"),
    ("print('Welcome to this engine')", "cpu, tier exact: the process said 'Welcome to this engine'"),
    ("print('{}', flush=True); input(); os._exit(3)", "cpu, tier exact: the process ended without a word"),
    ("print('{}', flush=True); input(); print('{\"error\": \"mid-work\"}')", "cpu, tier exact: mid-work"),
]


@pytest.mark.parametrize(("script", "message"), DYING)
def test_a_process_that_fails_is_named(
    exported_bundle: Path, actor: Callable[[str], Started], script: str, message: str
) -> None:
    processes = actor(script)
    with pytest.raises(BackendError) as caught:
        run_bench(Bundle.open(exported_bundle), devices=["cpu"], repeats=2)
    assert str(caught.value) == message
    assert all_ended(processes)


@pytest.mark.parametrize("early", [True, False])
def test_a_process_that_dies_ends_the_others(
    exported_bundle: Path, actor: Callable[[str], Started], tmp_path: Path, early: bool
) -> None:
    # Whoever comes second finds the file, and dies as it starts or in its first turn; the first would wait for ever.
    lines = [f"path = {str(tmp_path / 'first')!r}", "second = os.path.exists(path)", "open(path, 'w').close()"]
    lines += ["if second: sys.exit(1)"] if early else []
    lines += ["print('{}', flush=True)", "input()", "if second: sys.exit(1)", "print('{}', flush=True)"]
    processes = actor("\n".join([*lines, "import time", "time.sleep(60)"]))
    with pytest.raises(BackendError, match="ended without a word"):
        run_bench(Bundle.open(exported_bundle), devices=["cpu", "cpu"], repeats=2)
    assert len(processes) == 2
    assert all_ended(processes)


def test_the_real_worker_says_why_it_cannot_run(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    del manifest["files"]["golden.npz"]
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BackendError, match=r"^cpu, tier exact: .* lists no file golden.npz"):
        run_bench(Bundle.open(tiny_bundle), devices=["cpu"], repeats=1)


def test_what_the_runtime_would_refuse_is_left_out_or_refused(
    tiny_bundle: Path, actor: Callable[[str], Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = actor(SPEAKS)
    monkeypatch.setattr(bench, "available_devices", lambda: ["cpu", "openvino"])
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    manifest["tiers"]["exact"][0]["engines"] = ["onnxruntime"]
    manifest["tiers"]["fast"] = manifest["tiers"]["exact"]
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    bundle = Bundle.open(tiny_bundle)
    data = run_bench(bundle, repeats=4)
    assert [(row["device"], row["tier"]) for row in data["systems"]] == [("cpu", "exact")]
    reasons = "\n".join(data["skipped"])
    assert "tier 'fast' of bundle 'tiny' has no valid parity certificate for onnxruntime-cpu" in reasons
    if openvino.is_installed():
        assert "tier 'exact' of bundle 'tiny' has no plan for openvino" in reasons
    assert len(processes) == 1
    with pytest.raises(BundleError, match=r"tier 'fast' .* no valid parity certificate"):
        run_bench(bundle, devices=["cpu"], repeats=4)
    with pytest.raises(BundleError, match=r"nothing to time: tier 'fast' .* no valid parity certificate"):
        run_bench(bundle, tiers=["fast"], repeats=4)
    with pytest.raises(BundleError, match="bundle 'tiny' has no tier 'faster'; it has: exact, fast"):
        run_bench(bundle, devices=["cpu"], tiers=["faster"])
    assert len(processes) == 1


def test_the_peak_is_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    # Products that take 0.5, 0.2 and 0.4 seconds.
    ticks = iter(np.cumsum([0, 0.5, 1, 0.2, 1, 0.4]))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(ticks)))
    assert matrix_peak(3) == pytest.approx(2 * 1536**3 / 0.2 / 1e9)


def test_the_peak_is_a_machines() -> None:
    assert 0.5 < matrix_peak(1) < 100_000
