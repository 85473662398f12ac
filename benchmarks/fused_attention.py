"""Fused attention on a GPU: error, latency, memory, and the whole ViT-B encoder against segment-anything's.

    python benchmarks/fused_attention.py [--dtype bfloat16] [--repeats 30] [--skip-encoder]

Needs a CUDA GPU, triton and segment-anything. All contenders take turns, so that a clock that drifts slows all of them
alike; medians of times by CUDA events are kept, and ratios are medians of the ratios within a turn. `sdpa` is torch's
`scaled_dot_product_attention` with the bias in memory, which for SAM it must make anew for every image (timed) and for
TinyViT is there already; `plain` is matmul, softmax, matmul. Memory is the peak above what the inputs take. Errors are
against fp64 on the same, rounded inputs: the largest difference over the largest magnitude. Weights are random. The
JSON goes to benchmarks/results/.
"""

import argparse
import importlib
import re
import statistics
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from results import write_result
from samsdk_kernels import reference
from samsdk_kernels.attention import constant_bias_attention, relative_position_attention
from samsdk_training.models import VitConfig, VitEncoder, use_attention

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
ERROR_LIMIT = 1e-2
PEAK_SIDE = 8192
# Calls between two events, so that what is timed is much longer than the events' resolution of half a microsecond.
CALLS = 10
WARM_UP = 3
Contenders = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class Case:
    """One attention: so many maps of a size, with SAM's relative position or TinyViT's constant bias."""

    maps: int
    heads: int
    height: int
    width: int
    head_dim: int
    constant_bias: bool = False

    @property
    def operations(self) -> int:
        """Floating-point operations of the two matrix products; bias and softmax are not counted."""
        return 4 * self.maps * self.heads * (self.height * self.width) ** 2 * self.head_dim


CASES = {
    "vit_b_global_1024": Case(1, 12, 64, 64, 64),
    "vit_b_window_1024": Case(25, 12, 14, 14, 64),
    "vit_b_global_512": Case(1, 12, 32, 32, 64),
    "vit_h_global_1024": Case(1, 16, 64, 64, 80),
    "vit_h_window_1024": Case(25, 16, 14, 14, 80),
    "tiny_vit_window_7": Case(361, 4, 7, 7, 32, constant_bias=True),
    "tiny_vit_window_14": Case(25, 5, 14, 14, 32, constant_bias=True),
}


def draw_inputs(case: Case, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Queries, keys and values as a fused projection gives them, and the bias or both tables of positions."""
    tokens = case.height * case.width
    qkv = torch.randn(case.maps, tokens, 3, case.heads, case.head_dim, device="cuda").to(dtype)
    if case.constant_bias:
        return (*qkv.permute(2, 0, 3, 1, 4), torch.randn(case.heads, tokens, tokens, device="cuda").to(dtype))
    tables = (0.1 * torch.randn(side, side, case.head_dim, device="cuda") for side in (case.height, case.width))
    return (*qkv.permute(2, 0, 3, 1, 4), *(table.to(dtype) for table in tables))


def contenders(case: Case, inputs: tuple[Tensor, ...]) -> Contenders:
    """The same attention in three ways."""
    scale = case.head_dim**-0.5
    q, k, v, *rest = inputs
    if case.constant_bias:
        return {
            "fused": lambda: constant_bias_attention(q, k, v, rest[0], scale=scale),
            "sdpa": lambda: functional.scaled_dot_product_attention(q, k, v, attn_mask=rest[0], scale=scale),
            "plain": lambda: reference.attention(q, k, v, scale=scale, bias=rest[0]),
        }
    rel_h, rel_w = rest
    return {
        "fused": lambda: relative_position_attention(q, k, v, rel_h, rel_w, scale=scale),
        "sdpa": lambda: functional.scaled_dot_product_attention(
            q, k, v, attn_mask=reference.relative_position_bias(q, rel_h, rel_w), scale=scale
        ),
        "plain": lambda: reference.relative_position_attention(q, k, v, rel_h, rel_w, scale=scale),
    }


def exact(case: Case, inputs: tuple[Tensor, ...]) -> Tensor:
    """The attention in fp64, head by head: all heads of a global block would take gigabytes."""
    scale = case.head_dim**-0.5
    outputs = []
    for head in range(case.heads):
        q, k, v = (tensor[:, head].double() for tensor in inputs[:3])
        if case.constant_bias:
            outputs.append(reference.attention(q, k, v, scale=scale, bias=inputs[3][head].double()))
        else:
            rel_h, rel_w = (table.double() for table in inputs[3:])
            outputs.append(reference.relative_position_attention(q, k, v, rel_h, rel_w, scale=scale))
    return torch.stack(outputs, dim=1)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude; NaN where the output has one."""
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


def time_turns(calls: Contenders, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of one call of each contender in each turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(WARM_UP + repeats):
        for name, call in calls.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(CALLS):
                call()
            end.record()
            end.synchronize()
            if turn >= WARM_UP:
                times[name].append(start.elapsed_time(end) / CALLS)
    return times


def peak_memory(call: Callable[[], Tensor]) -> float:
    """Mebibytes that a call needs at most, above what is allocated before it."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 2)


def matrix_product_peak(dtype: torch.dtype, repeats: int) -> float:
    """Floating-point operations a second of a large matrix product: what the machine gives, not what its sheet says."""
    a, b = (torch.randn(PEAK_SIDE, PEAK_SIDE, device="cuda").to(dtype) for _ in range(2))
    times = time_turns({"product": lambda: a @ b}, repeats)["product"]
    return 2 * PEAK_SIDE**3 / (statistics.median(times) * 1e-3)


def summarise(times: dict[str, list[float]], memory: dict[str, float], errors: dict[str, float]) -> dict[str, Any]:
    """Medians and, for every contender but the fused one, how many times longer it takes."""
    return {
        "relative_error": errors,
        "median_ms": {name: round(statistics.median(values), 4) for name, values in times.items()},
        "peak_mib": memory,
        "over_fused": {
            name: round(statistics.median(a / b for a, b in zip(values, times["fused"], strict=True)), 2)
            for name, values in times.items()
            if name != "fused"
        },
    }


@torch.inference_mode()
def measure_case(case: Case, dtype: torch.dtype, repeats: int, peak: float) -> dict[str, Any]:
    """Everything about one attention."""
    inputs = draw_inputs(case, dtype)
    calls, expected = contenders(case, inputs), exact(case, inputs)
    errors = {name: relative_error(call(), expected) for name, call in calls.items()}
    memory = {name: peak_memory(call) for name, call in calls.items()}
    times = time_turns(calls, repeats)
    rate = case.operations / (statistics.median(times["fused"]) * 1e-3)
    return {**summarise(times, memory, errors), "share_of_peak": round(rate / peak, 3)}


def segment_anything_encoder(image_size: int) -> nn.Module:
    """The ViT-B encoder of the segment-anything package, with random weights, none of which is 0."""
    found = find_spec("segment_anything")
    if found is None or found.submodule_search_locations is None:
        raise SystemExit("the encoder's rival is missing: pip install segment-anything==1.0, or pass --skip-encoder")
    root = Path(found.submodule_search_locations[0])
    # Only the encoder is wanted, and the modules beside it import torchvision, which it does not need.
    for name, folder in (("segment_anything", root), ("segment_anything.modeling", root / "modeling")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    module = importlib.import_module("segment_anything.modeling.image_encoder")
    encoder: nn.Module = module.ImageEncoderViT(
        img_size=image_size,
        norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=(2, 5, 8, 11),
        window_size=14,
        out_chans=256,
    )
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(parameter, std=0.1)
    return encoder.eval()


@torch.inference_mode()
def measure_encoder(dtype: torch.dtype, repeats: int, image_size: int = 1024) -> dict[str, Any]:
    """ViT-B from a normalised image to its embedding: ours fused, ours plain, and the package's, all in `dtype`."""
    rival = segment_anything_encoder(image_size)
    weights = rival.state_dict()
    config = VitConfig(image_size=image_size)
    encoders = {"fused": VitEncoder(config), "plain": VitEncoder(config), "segment_anything": rival}
    use_attention(encoders["fused"], "fused")
    image = torch.randn(1, 3, image_size, image_size, device="cuda").to(dtype)
    for encoder in encoders.values():
        encoder.load_state_dict(weights)
    expected = rival.double().cuda()(image.double())
    calls: Contenders = {}
    for name, encoder in encoders.items():
        ready = encoder.to("cuda", dtype).eval()
        ready.load_state_dict(weights)  # the rival's have been through fp64
        calls[name] = partial(ready, image)
    errors = {name: relative_error(call(), expected) for name, call in calls.items()}
    memory = {name: peak_memory(call) for name, call in calls.items()}
    return summarise(time_turns(calls, repeats), memory, errors)


def measure(dtype: torch.dtype, repeats: int, with_encoder: bool) -> dict[str, Any]:
    """All numbers of this GPU."""
    torch.manual_seed(0)
    peak = matrix_product_peak(dtype, repeats)
    cases = {}
    for name, case in CASES.items():
        print(name, file=sys.stderr, flush=True)
        cases[name] = measure_case(case, dtype, repeats, peak)
    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": importlib.import_module("triton").__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "repeats": repeats,
        "matrix_product_tflops": round(peak / 1e12, 1),
        "attention": cases,
        "vit_b_encoder_1024": measure_encoder(dtype, repeats) if with_encoder else None,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, write the JSON, and say whether every fused result is exact enough.

    Args:
        arguments: Of the command line; those of this process if not given.

    Returns:
        0, or 1 where a fused result is further from fp64 than `ERROR_LIMIT`.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--skip-encoder", action="store_true", help="leave the whole ViT-B out")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    if not torch.cuda.is_available():
        raise SystemExit(f"this benchmark needs a CUDA GPU; torch {torch.__version__} finds none")
    if find_spec("triton") is None:
        raise SystemExit("this benchmark needs triton: pip install triton")
    numbers = measure(DTYPES[options.dtype], options.repeats, not options.skip_encoder)
    gpu = re.sub(r"[^a-z0-9]+", "-", numbers["gpu"].lower()).strip("-")
    path = write_result(f"fused-attention-{options.dtype}-{gpu}", numbers)
    for name, result in numbers["attention"].items():
        print(
            f"{name:<22}{result['median_ms']['fused']:9.3f} ms", *(f"{k} x{r}" for k, r in result["over_fused"].items())
        )
    print(path)
    # `not <=` and not `>`, so that NaN fails.
    wrong = [name for name, case in numbers["attention"].items() if not case["relative_error"]["fused"] <= ERROR_LIMIT]
    if wrong:
        print(f"relative error above {ERROR_LIMIT}: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
