"""The image encoders with fused attention, in Triton's interpreter, against the same encoders without."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from samsdk.errors import MissingExtraError
from samsdk_training.models import (
    SamConfig,
    StudentEncoder,
    StudentEncoderConfig,
    TinyViT,
    VitConfig,
    VitEncoder,
    build_sam,
    use_attention,
)

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed: pip install triton")
SMALL = VitConfig(image_size=64, embed_dim=32, depth=2, num_heads=2, global_blocks=(1,), window_size=3, out_channels=16)


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """A process of its own: whether triton interprets is decided when it is imported, which happened here perhaps."""
    with (
        mock.patch.dict(os.environ, TRITON_INTERPRET="1", OMP_NUM_THREADS="1"),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        yield pool


@pytest.fixture(params=["vit", "tiny_vit"])
def encoder(request: pytest.FixtureRequest, small_config: SamConfig, randomise: Callable[..., None]) -> nn.Module:
    """Padded windows and, in the ViT, a global block; weights that show every term."""
    # With MobileSAM's stem the stages that attend have maps of 8 and 4: few windows, for the interpreter is slow.
    tiny = replace(small_config.encoder, stem_stride=4)
    drawn = VitEncoder(SMALL) if request.param == "vit" else TinyViT(tiny)
    randomise(drawn, 2)
    return drawn.eval().requires_grad_(False)


@needs_triton
def test_the_embedding_and_its_gradient_stay(
    encoder: nn.Module, interpreter: ProcessPoolExecutor, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    image, gradient = (torch.randn(1, *shape) for shape in ((3, 64, 64), next(iter(encoder.embedding_shapes.values()))))
    plain = torch.autograd.functional.vjp(encoder, image, gradient)
    use_attention(encoder, "fused")
    fused = interpreter.submit(torch.autograd.functional.vjp, encoder, image, gradient).result()
    for got, expected in zip(fused, plain, strict=True):
        assert relative_error(got, expected) <= 1e-5
    # The kernels' sums are in another order: equal bits would mean that no kernel ran.
    assert not torch.equal(fused[0], plain[0])


def test_fused_without_triton_says_what_to_install(encoder: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("samsdk_kernels.flash", "samsdk_kernels.flash_launch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    use_attention(encoder, "fused")
    with pytest.raises(MissingExtraError, match="pip install triton"):
        encoder(torch.zeros(1, 3, 64, 64))


def test_fused_on_the_cpu_is_refused_until_it_is_switched_off(
    encoder: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    image = torch.rand(1, 3, 64, 64)
    before = encoder(image)
    use_attention(encoder, "fused")
    with pytest.raises(ValueError, match="needs tensors on a CUDA device, got cpu"):
        encoder(image)
    use_attention(encoder, "plain")
    assert torch.equal(encoder(image), before)


def test_neither_state_nor_configuration_knows_of_it() -> None:
    model = build_sam(SamConfig(SMALL))
    keys, config = list(model.state_dict()), model.image_encoder.config
    use_attention(model, "fused")
    assert (list(model.state_dict()), model.image_encoder.config) == (keys, config)
    assert build_sam(SamConfig(SMALL)).image_encoder.blocks[0].attn.implementation == "plain"


def test_half_precision_under_autocast_takes_the_tables_along(encoder: nn.Module) -> None:
    image = torch.rand(1, 3, 64, 64)
    expected = encoder(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = encoder(image)
    assert ((got - expected).abs().max() / expected.abs().max()).item() <= 5e-2


def test_what_cannot_be_switched_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected an implementation out of \('fused', 'plain'\), got 'sdpa'"):
        use_attention(VitEncoder(SMALL), "sdpa")  # type: ignore[arg-type]
    student = StudentEncoder(StudentEncoderConfig(64, stem_channels=8, widths=(8, 16, 16, 24), depths=(1, 1, 1, 1)))
    with pytest.raises(ValueError, match="StudentEncoder has no attention of a ViT or TinyViT to run fused"):
        use_attention(student, "fused")
