"""What of the GPU benchmark can be held against something without a GPU."""

import importlib
import types
from pathlib import Path

import pytest
import torch

from samsdk_kernels import reference


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("fused_attention")


def test_a_machine_without_a_gpu_is_refused(benchmark: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"needs a CUDA GPU; torch .* finds none"):
        benchmark.main([])


@pytest.mark.parametrize("arguments", [["--dtype", "float32"], ["--repeats", "0"], ["--repeats", "many"], ["extra"]])
def test_wrong_arguments_end_with_status_2(benchmark: types.ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments)
    assert stopped.value.code == 2


@pytest.mark.parametrize("constant_bias", [False, True])
def test_all_contenders_compute_the_same(benchmark: types.ModuleType, constant_bias: bool) -> None:
    case = benchmark.Case(2, 3, 4, 5, 16, constant_bias)
    torch.manual_seed(1)
    qkv = torch.randn(3, 2, 3, 20, 16)
    rest = (torch.randn(3, 20, 20),) if constant_bias else (torch.randn(4, 4, 16), torch.randn(5, 5, 16))
    expected = benchmark.exact(case, (*qkv, *rest))
    bias = rest[0] if constant_bias else reference.relative_position_bias(qkv[0], *rest)
    torch.testing.assert_close(expected.float(), reference.attention(*qkv, scale=0.25, bias=bias), rtol=0, atol=1e-5)
    calls = benchmark.contenders(case, (*qkv, *rest))
    assert set(calls) == {"fused", "sdpa", "plain"}
    for name in ("sdpa", "plain"):
        assert benchmark.relative_error(calls[name](), expected) < 1e-5


def test_operations_of_a_global_block(benchmark: types.ModuleType) -> None:
    # Two products of 4096 x 4096 x 64 for each of 12 heads, a multiplication and an addition each.
    assert benchmark.CASES["vit_b_global_1024"].operations == 2 * 2 * 12 * 4096 * 4096 * 64


def test_ratios_are_those_within_a_turn(benchmark: types.ModuleType) -> None:
    times = {"fused": [1.0, 2.0, 4.0], "sdpa": [3.0, 4.0, 4.0]}
    assert benchmark.summarise(times, {}, {})["over_fused"] == {"sdpa": 2.0}
