"""Fused attention against the slow references in fp64: in Triton's interpreter, and compiled where there is a GPU."""

import importlib
import multiprocessing
import os
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from samsdk.errors import MissingExtraError
from samsdk_kernels import reference
from samsdk_kernels.attention import constant_bias_attention, relative_position_attention

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed: pip install triton")
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}
Run = Callable[..., Any]
vjp = torch.autograd.functional.vjp


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """A process of its own: whether triton interprets is decided when it is imported, which happened here perhaps."""
    with (
        mock.patch.dict(os.environ, TRITON_INTERPRET="1", OMP_NUM_THREADS="1"),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        yield pool


@pytest.fixture(params=["interpreter", "cuda"])
def run(request: pytest.FixtureRequest) -> Run:
    """Call a function on tensors or tuples of them, either in the interpreter or compiled on the GPU."""
    if request.param == "interpreter":
        pool: ProcessPoolExecutor = request.getfixturevalue("interpreter")
        return lambda function, *arguments: pool.submit(function, *arguments).result()
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    def on_gpu(argument: Any) -> Any:
        return tuple(map(on_gpu, argument)) if isinstance(argument, tuple) else argument.cuda()

    def back(found: Any) -> Any:
        return tuple(map(back, found)) if isinstance(found, tuple) else found.cpu()

    return lambda function, *arguments: back(function(*map(on_gpu, arguments)))


def draw(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def draw_map(batch: int, heads: int, height: int, width: int, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Queries, keys and values as a fused projection gives them, not contiguous, and both tables."""
    qkv = draw(batch, height * width, 3, heads, head_dim, seed=1, dtype=dtype).permute(2, 0, 3, 1, 4)
    tables = (draw(side, side, head_dim, seed=seed, dtype=dtype) * 0.2 for seed, side in ((2, height), (3, width)))
    return (*qkv, *tables)


def error(got: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    assert got.shape == expected.shape
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


@needs_triton
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((4, 1, 14, 14, 64), torch.float16),  # SAM's windows
        ((1, 1, 16, 16, 80), torch.bfloat16),
        ((1, 2, 9, 13, 80), torch.float32),
        ((1, 1, 9, 13, 64), torch.bfloat16),
        ((2, 2, 1, 1, 64), torch.float32),
        ((1, 1, 2, 40, 32), torch.float16),  # wider than a tile of keys
        ((1, 1, 32, 32, 16), torch.float16),  # the blocks of a global attention
        ((2, 1, 5, 2, 8), torch.float32),
    ],
)
def test_relative_position_agrees_with_the_reference(shape: tuple[int, ...], dtype: torch.dtype, run: Run) -> None:
    inputs = draw_map(*shape, dtype=dtype)  # type: ignore[misc]
    scale = shape[-1] ** -0.5
    expected = reference.relative_position_attention(*(tensor.double() for tensor in inputs), scale=scale)
    got = run(partial(relative_position_attention, scale=scale), *inputs)
    assert got.dtype == dtype
    assert error(got, expected) <= TOLERANCES[dtype]


@needs_triton
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((3, 2, 49, 32), torch.float32),  # TinyViT's windows of 7 and of 14
        ((1, 2, 196, 32), torch.bfloat16),
        ((1, 1, 80, 64), torch.float16),
        ((2, 1, 1, 32), torch.float32),
    ],
)
def test_constant_bias_agrees_with_the_reference(shape: tuple[int, ...], dtype: torch.dtype, run: Run) -> None:
    batch, heads, tokens, head_dim = shape
    q, k, v = draw(batch, tokens, 3, heads, head_dim, seed=4, dtype=dtype).permute(2, 0, 3, 1, 4)
    bias = draw(heads, tokens, tokens, seed=5, dtype=dtype)
    scale = head_dim**-0.5
    expected = reference.attention(q.double(), k.double(), v.double(), scale=scale, bias=bias.double())
    got = run(partial(constant_bias_attention, scale=scale), q, k, v, bias)
    assert got.dtype == dtype
    assert error(got, expected) <= TOLERANCES[dtype]


@needs_triton
def test_rows_and_columns_are_not_confused(run: Run) -> None:
    q, k, v, rel_h, rel_w = draw_map(1, 1, 4, 4, 16, dtype=torch.float32)
    doubles = [tensor.double() for tensor in (q, k, v)]
    swapped = reference.relative_position_attention(*doubles, rel_w.double(), rel_h.double(), scale=0.25)
    got = run(partial(relative_position_attention, scale=0.25), q, k, v, rel_h, rel_w)
    assert error(got, swapped) > 0.1


@needs_triton
def test_large_scores_and_a_hidden_tile_stay_exact(run: Run) -> None:
    q, k, v = (draw(1, 1, 40, 16, seed=seed, dtype=torch.float32) for seed in (6, 7, 8))
    bias = torch.zeros(1, 40, 40)
    bias[..., :33] = -torch.inf  # all of the first tile of keys
    expected = reference.attention(100 * q.double(), k.double(), v.double(), scale=1.0, bias=bias.double())
    got = run(partial(constant_bias_attention, scale=1.0), 100 * q, k, v, bias)
    assert error(got, expected) <= 1e-4  # fp32 scores near 1000 are off by 6e-5


@needs_triton
def test_gradients_are_those_of_the_reference(run: Run) -> None:
    inputs = draw_map(2, 2, 3, 4, 16, dtype=torch.float32)
    gradient = draw(2, 2, 12, 16, seed=9, dtype=torch.float32)
    doubles = tuple(tensor.double() for tensor in inputs)
    plain = partial(reference.relative_position_attention, scale=0.25)
    _, expected = vjp(plain, doubles, gradient.double())
    _, found = run(partial(vjp, partial(relative_position_attention, scale=0.25)), inputs, gradient)
    for got, wanted in zip(found, expected, strict=True):
        assert error(got, wanted) <= 1e-5


@needs_triton
def test_a_bias_learns_where_nothing_else_does(interpreter: ProcessPoolExecutor) -> None:
    q, k, v = (draw(2, 2, 9, 16, seed=seed, dtype=torch.float32) for seed in (1, 2, 3))
    bias, gradient = draw(2, 9, 9, seed=4, dtype=torch.float32), draw(2, 2, 9, 16, seed=5, dtype=torch.float32)
    doubles = [tensor.double() for tensor in (q, k, v)]

    def plain(bias: Tensor) -> Tensor:
        return reference.attention(*doubles, scale=0.25, bias=bias)

    _, expected = vjp(plain, bias.double(), gradient.double())
    _, found = interpreter.submit(vjp, partial(constant_bias_attention, q, k, v, scale=0.25), bias, gradient).result()
    assert error(found, expected) <= 1e-5


@pytest.fixture
def sam_attention() -> type[torch.nn.Module]:
    """segment-anything's attention, without the modules of the package that need torchvision."""
    spec = find_spec("segment_anything")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    with mock.patch.dict(sys.modules):
        for name, folder in (("segment_anything", root), ("segment_anything.modeling", root / "modeling")):
            package = types.ModuleType(name)
            package.__path__ = [str(folder)]
            sys.modules[name] = package
        attention: type[torch.nn.Module] = importlib.import_module("segment_anything.modeling.image_encoder").Attention
    return attention


@needs_triton
def test_agrees_with_segment_anything(sam_attention: type[torch.nn.Module], run: Run) -> None:
    height, width, heads, head_dim = 4, 6, 2, 16
    torch.manual_seed(1)
    module: Any = sam_attention(32, heads, use_rel_pos=True, input_size=(height, width)).double()
    with torch.no_grad():
        module.rel_pos_h.normal_()
        module.rel_pos_w.normal_()
        x = draw(2, height, width, 32, seed=2, dtype=torch.float64)
        expected = module(x)
        q, k, v = module.qkv(x).float().reshape(2, height * width, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
        # The tables begin with the key that lies farthest behind the query.
        tables = (
            table[torch.arange(side)[:, None] - torch.arange(side) + side - 1].float()
            for table, side in ((module.rel_pos_h, height), (module.rel_pos_w, width))
        )
        attended = run(partial(relative_position_attention, scale=head_dim**-0.5), q, k, v, *tables)
        got = module.proj(attended.double().transpose(1, 2).reshape(2, height, width, 32))
    assert error(got, expected) <= 1e-5


def test_plain_is_the_reference_and_needs_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    q, k, v, rel_h, rel_w = draw_map(1, 2, 3, 2, 8, dtype=torch.float32)
    got = relative_position_attention(q, k, v, rel_h, rel_w, scale=0.3, implementation="plain")
    assert torch.equal(got, reference.relative_position_attention(q, k, v, rel_h, rel_w, scale=0.3))
    bias = draw(2, 6, 6, seed=1, dtype=torch.float32)
    got = constant_bias_attention(q, k, v, bias, scale=0.3, implementation="plain")
    assert torch.equal(got, reference.attention(q, k, v, scale=0.3, bias=bias))


def test_without_triton_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("samsdk_kernels.flash", "samsdk_kernels.flash_launch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(MissingExtraError, match="pip install triton"):
        relative_position_attention(*draw_map(1, 1, 2, 2, 8, dtype=torch.float32), scale=1.0)


def test_fused_is_refused_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"needs tensors on a CUDA device, got cpu; 'plain' runs anywhere"):
        relative_position_attention(*draw_map(1, 1, 2, 2, 8, dtype=torch.float32), scale=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(6, 8)}, r"expected q of \[B, heads, N, d\], none 0, d <= 128, got \(6, 8\)"),
        ({"q": torch.zeros(1, 2, 6, 200)}, r"d <= 128, got \(1, 2, 6, 200\)"),
        ({"q": torch.zeros(0, 2, 6, 8)}, r"none 0, .* got \(0, 2, 6, 8\)"),
        ({"q": torch.zeros(1, 2, 6, 8, dtype=torch.float64)}, r"expected q in one of .*, got torch.float64"),
        ({"k": torch.zeros(1, 2, 5, 8)}, r"expected k of \(1, 2, 6, 8\) .* got \(1, 2, 5, 8\)"),
        ({"v": torch.zeros(1, 2, 6, 8).half()}, r"expected v of .* torch.float32 on cpu, .* got .* torch.float16"),
        ({"k": torch.zeros(1, 2, 6, 8, device="meta")}, r"expected k of .* on cpu, .* on meta"),
        ({"v": torch.zeros(1, 2, 8, 6).mT}, r"expected v with a dense last axis, got strides"),
        ({"rel_h": torch.zeros(5, 8)}, r"expected rel_h of \(5, 5, 8\) .* got \(5, 8\)"),
        ({"rel_w": torch.zeros(2, 3, 8)}, r"expected rel_w of \(2, 2, 8\) .* got \(2, 3, 8\)"),
        ({"rel_w": torch.zeros(3, 3, 8)}, r"rel_h and rel_w are for 3 x 3 positions, q has 6"),
        ({"implementation": "flash"}, r"implementation must be 'fused' or 'plain', got 'flash'"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    names = ("q", "k", "v", "rel_h", "rel_w")
    good = dict(zip(names, draw_map(1, 2, 3, 2, 8, dtype=torch.float32), strict=True))
    with pytest.raises(ValueError, match=message):
        relative_position_attention(**{"scale": 1.0, "implementation": "plain", **good, **change})


def test_a_bias_of_another_shape_is_refused() -> None:
    q, k, v, *_ = draw_map(1, 2, 3, 2, 8, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"expected bias of \(2, 6, 6\) .* got \(1, 2, 6, 6\)"):
        constant_bias_attention(q, k, v, torch.zeros(1, 2, 6, 6), scale=1.0, implementation="plain")
