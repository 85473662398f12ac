import json
from pathlib import Path

import numpy as np
import pytest

from samsdk import BundleError, Predictor
from samsdk.bench import run_bench
from samsdk.bundle import Bundle


def test_the_report_says_what_was_measured(exported_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, decoded = [], []
    encode, decode = Predictor.encode, Predictor.decode_batch
    monkeypatch.setattr(Predictor, "encode", lambda self, image: encoded.append(image.shape) or encode(self, image))
    monkeypatch.setattr(
        Predictor, "decode_batch", lambda self, at, prompts: decoded.append(len(prompts)) or decode(self, at, prompts)
    )
    bundle = Bundle.open(exported_bundle)
    data = run_bench(bundle, device="cpu", threads=1, repeats=3, prompts=5)
    # Two calls to warm up and three that count, of both stages and of both together; and the embedding to decode from.
    assert encoded == [(320, 267)] * (5 + 5 + 1)
    assert decoded == [5] * (5 + 5)
    assert data["bundle"] == bundle.identity
    assert (data["tier"], data["provider"], data["threads"]) == ("exact", "CPUExecutionProvider", 1)
    assert (data["prompts"], data["repeats"], data["image_size"]) == (5, 3, [320, 267])
    assert set(data["ms"]) == {"encode", "decode", "end_to_end"}
    for ranks in data["ms"].values():
        assert 0 < ranks["p50"] <= ranks["p95"] <= ranks["p99"]
    assert data["load_ms"] > 0
    assert data["peak_memory_mb"] is None or data["peak_memory_mb"] > 50
    json.dumps(data, allow_nan=False)


def test_percentiles_are_of_the_counted_calls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from samsdk import bench

    # Warm-up calls read no clock; then each call takes 1, 2, 3 and 4 ms.
    ticks = iter(np.cumsum([0, 1, 5, 2, 5, 3, 5, 4]) / 1e3)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(ticks)))
    assert bench._percentiles(lambda: None, 4) == {"p50": 2.5, "p95": 3.85, "p99": 3.97}


def test_a_bundle_without_golden_images_cannot_be_timed(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    del manifest["files"]["golden.npz"]
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"lists no file golden.npz"):
        run_bench(Bundle.open(tiny_bundle), device="cpu", repeats=1)
