"""SAM's rewritten attention computes what the untouched one does: with a bias and without, whole and in pieces."""

import copy
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from samsdk.backends import open_graph
from samsdk.backends.options import BackendOptions
from samsdk.tiers import Graph
from samsdk_export import attention as rewrite
from samsdk_export.attention import (
    ATTENTIONS,
    extend_keys,
    extend_queries,
    one_hot_positions,
    pieces_of,
    rewrite_attention,
)
from samsdk_export.onnx_export import export_encoder
from samsdk_kernels import reference
from samsdk_training.models import SamConfig, VitConfig, VitEncoder, build_sam
from samsdk_training.models.sam import Sam
from samsdk_training.models.sam_config import DecoderConfig
from samsdk_training.models.vit import Attention

BOUNDS = [(torch.float64, 1e-12), (torch.float32, 1e-5)]
# 6 x 6 tokens: one global block, and windows of 4 that need padding to 8 x 8.
SMALL = VitConfig(image_size=96, embed_dim=48, depth=2, num_heads=3, global_blocks=(1,), window_size=4, out_channels=16)
# A global block's six rows of six queries go four and two at a time, a window's four all at once.
PIECE = 36 * 6 * 4


def drawn(module: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(got: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    return ((got - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "_LARGEST_PIECE", PIECE)


@pytest.fixture(scope="module")
def model() -> Sam:
    sam = build_sam(SamConfig(SMALL, DecoderConfig(num_heads=2, mlp_dim=32, iou_head_hidden_dim=16), 8))
    drawn(sam)
    return sam


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize(("height", "width"), [(5, 3), (2, 7), (1, 1), (14, 14)])
def test_queries_and_keys_carry_the_relative_position(
    height: int, width: int, dtype: torch.dtype, bound: float
) -> None:
    q, k, v = (draw(2, 3, height * width, 16, seed=seed) for seed in range(3))
    rel_h, rel_w = draw(height, height, 16, seed=3), draw(width, width, 16, seed=4)
    expected = reference.relative_position_attention(q, k, v, rel_h, rel_w, scale=0.25)
    q, k, v, rel_h, rel_w = (tensor.to(dtype) for tensor in (q, k, v, rel_h, rel_w))
    asked = extend_queries(q, rel_h, rel_w, scale=0.25)
    offered = extend_keys(k, one_hot_positions(height, width).to(dtype))
    assert asked.shape == offered.shape == (2, 3, height * width, 16 + height + width)
    assert error(reference.attention(asked, offered, v, scale=1.0), expected.to(dtype)) <= bound


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("head_dim", [64, 80])
@pytest.mark.parametrize("rows", [1, 2, 3], ids=["row by row", "uneven pieces", "whole"])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_an_attention_is_the_untouched_one(
    monkeypatch: pytest.MonkeyPatch, name: str, rows: int, head_dim: int, dtype: torch.dtype, bound: float
) -> None:
    monkeypatch.setattr(rewrite, "_LARGEST_PIECE", rows * 27)
    plain = drawn(Attention(2 * head_dim, 2, 3)).to(dtype)
    x = draw(2, 3, 3, 2 * head_dim, seed=5).to(dtype)
    with torch.no_grad():
        assert error(ATTENTIONS[name](plain)(x), plain(x)) <= bound  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, id="padded windows"),
        pytest.param({"window_size": 3}, id="whole windows"),
        pytest.param({"window_size": 14}, id="one padded window"),
        pytest.param({"adapters": "code"}, id="adapters"),
    ],
)
@pytest.mark.parametrize("name", ATTENTIONS)
def test_an_encoder_is_the_untouched_one(
    name: str, change: dict[str, object], dtype: torch.dtype, bound: float
) -> None:
    plain = drawn(VitEncoder(replace(SMALL, **change))).to(dtype)  # type: ignore[arg-type]
    images = draw(2, 3, 96, 96, seed=6).to(dtype)
    with torch.no_grad():
        assert error(rewrite_attention(plain, name)(images), plain(images)) <= bound  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ATTENTIONS)
def test_the_untouched_encoder_stays_and_its_weights_are_not_doubled(name: str) -> None:
    plain = drawn(VitEncoder(SMALL))
    assert isinstance(plain, VitEncoder)
    before = copy.deepcopy(plain.state_dict())
    rewritten = rewrite_attention(plain, name)
    assert all(isinstance(block.attn, Attention) for block in plain.blocks)
    assert {type(block.attn) for block in rewritten.blocks} == {ATTENTIONS[name]}
    after = plain.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    addresses = {parameter.data_ptr() for parameter in plain.parameters()}
    assert {parameter.data_ptr() for parameter in rewritten.parameters()} <= addresses


def test_pieces_of_a_large_image_are_a_fraction_of_it() -> None:
    assert pieces_of(64) == [(start, start + 8) for start in range(0, 64, 8)]
    assert pieces_of(50) == [(0, 16), (16, 32), (32, 48), (48, 50)]
    assert pieces_of(32) == [(0, 32)]
    assert len(pieces_of(1000)) == 1000


@pytest.fixture(scope="module", params=ATTENTIONS)
def graph(request: pytest.FixtureRequest, model: Sam) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewrite, "_LARGEST_PIECE", PIECE)
        return export_encoder(model, ("gelu", request.param))


def onnx_runtime(content: bytes, image: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"image": image.numpy()})
    return torch.from_numpy(answer)


def openvino(content: bytes, image: Tensor) -> Tensor:
    backend = open_graph(content, Graph("encoder.onnx", "float32"), "openvino", BackendOptions())
    return torch.from_numpy(backend.run({"image": image.numpy()})["image_embeddings"])


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_computes_what_torch_does(model: Sam, graph: bytes, batch: int) -> None:
    image = draw(batch, 3, 96, 96, seed=batch).float()
    with torch.inference_mode():
        assert error(onnx_runtime(graph, image), model.image_encoder(image)) <= 1e-5


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_computes_what_torch_does(model: Sam, graph: bytes) -> None:
    image = draw(1, 3, 96, 96, seed=9).float()
    with torch.inference_mode():
        assert error(openvino(graph, image), model.image_encoder(image)) <= 1e-5


def largest_scores(content: bytes) -> int:
    """Numbers in the largest tensor that a softmax gives for one image."""
    proto = onnx.load_from_string(content)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del proto.graph.value_info[:]  # they name the dynamic axis
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.value_info}
    return max(int(np.prod(shapes[node.output[0]])) for node in inferred.node if node.op_type == "Softmax")


def test_no_scores_of_the_whole_image_are_in_the_graph(graph: bytes) -> None:
    heads, tokens, windows = SMALL.num_heads, 36, 4
    whole, piece, window = heads * tokens * tokens, heads * 24 * tokens, windows * heads * 16 * 16
    assert largest_scores(graph) == max(piece, window) < whole


def test_the_graph_has_no_shape_arithmetic(graph: bytes) -> None:
    kinds = {node.op_type for node in onnx.load_from_string(graph).graph.node}
    assert not kinds & {"Shape", "Expand", "Range", "Einsum", "Where", "Gather"}
