"""Half-precision graphs compute what the float32 ones compute, up to float16's rounding."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from samsdk_export.onnx_export import REWRITES, ExportError, export_decoder, export_encoder
from samsdk_export.storage import store_halves
from samsdk_export.typed import PRODUCTS, float32_products, to_half
from samsdk_training.models.sam import Sam, build_sam
from samsdk_training.models.sam_config import DecoderConfig, SamConfig
from samsdk_training.models.student import StudentEncoderConfig

SIDE = 64
# Eight roundings to 11 bits, relative to the largest value.
TOLERANCE = 8 * 2.0**-11


@pytest.fixture(scope="module")
def student() -> Sam:
    torch.manual_seed(3)
    encoder = StudentEncoderConfig(SIDE, 8, (8, 16, 16, 24), (1, 1, 1, 1), out_channels=32, batch_norm=False)
    model = build_sam(SamConfig(encoder, DecoderConfig(num_heads=4, mlp_dim=64, iou_head_hidden_dim=32))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if "norm" in name else 0.15))
            parameter.copy_(parameter.half().float())  # so that the files store halves
    return model


@pytest.fixture(scope="module")
def encoder(student: Sam) -> bytes:
    return export_encoder(student, REWRITES[:-1])


@pytest.fixture(scope="module")
def decoder(student: Sam) -> bytes:
    return export_decoder(student, REWRITES[:-1])


def run(graph: bytes, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """On ONNX Runtime's CPU, which computes much of a float16 graph in float32."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def run_as_typed(graph: bytes, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """On ONNX's reference implementation, which rounds every float16 value of the graph."""
    evaluator = ReferenceEvaluator(onnx.load_from_string(graph))
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(feeds)), strict=True))


def types_of(graph: bytes) -> dict[str, int]:
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph), strict_mode=True)
    values = (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in proto.graph.initializer}


def decoder_feeds(prompts: int) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(prompts)
    return {
        "image_embeddings": random.normal(size=(1, 32, 8, 8)).astype(np.float32),
        "point_coords": random.uniform(0, SIDE, (prompts, 4, 2)).astype(np.float32),
        "point_labels": np.tile(np.array([1, 2, 3, -1], np.float32), (prompts, 1)),
        "mask_input": random.normal(size=(prompts, 1, 32, 32)).astype(np.float32) * 5,
        "has_mask_input": (np.arange(prompts) % 2).astype(np.float32),
        "high_res_features": random.normal(size=(1, 8, 16, 16)).astype(np.float32),
    }


def assert_close(graph: bytes, feeds: Mapping[str, NDArray[Any]]) -> None:
    half = to_half(graph)
    expected, mine, typed = run(graph, feeds), run(half, feeds), run_as_typed(half, feeds)
    assert list(mine) == list(typed) == list(expected)
    for name, values in expected.items():
        scale = np.abs(values).max()
        for got in (mine[name], typed[name]):
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, values, rtol=0, atol=TOLERANCE * scale)
        # What is compared is far above the tolerance, and was rounded.
        assert values.std() > 10 * TOLERANCE * scale
        assert np.abs(typed[name] - values).max() > 2.0**-13 * scale


@pytest.mark.parametrize("batch", [1, 3])
def test_the_encoder_keeps_its_embeddings(encoder: bytes, batch: int) -> None:
    feeds = {"image": np.random.default_rng(batch).random((batch, 3, SIDE, SIDE), dtype=np.float32)}
    assert_close(encoder, feeds)


@pytest.mark.parametrize("prompts", [1, 5])
def test_the_decoder_keeps_its_logits(decoder: bytes, prompts: int) -> None:
    assert_close(decoder, decoder_feeds(prompts))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_all_products_are_half_and_all_normalisations_single(part: str, request: pytest.FixtureRequest) -> None:
    graph: bytes = request.getfixturevalue(part)
    half = to_half(graph)
    types, nodes = types_of(half), onnx.load_from_string(half).graph.node
    inputs = {kind: {types[name] for node in nodes if node.op_type == kind for name in node.input} for kind in PRODUCTS}
    assert set().union(*inputs.values()) == {TensorProto.FLOAT16}
    assert (len(float32_products(graph)) > 5, float32_products(half)) == (True, [])
    for kind in ("LayerNormalization", "Softmax", "Sin", "Cos"):
        found = {types[name] for node in nodes if node.op_type == kind for name in (*node.input, *node.output)}
        assert found == ({TensorProto.FLOAT} if part == "decoder" else set())
    proto = onnx.load_from_string(half)
    assert {value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)} == {1}
    assert len(half) < 0.75 * 4 * sum(numpy_helper.to_array(tensor).size for tensor in proto.graph.initializer)


def test_halves_in_the_file_and_plain_weights_give_the_same_graph(student: Sam, decoder: bytes) -> None:
    plain = onnx.load_from_string(decoder)
    casts = {node.input[0]: node.output[0] for node in plain.graph.node if node.op_type == "Cast"}
    assert len(casts) > 10  # the file does store halves
    for tensor in plain.graph.initializer:
        if tensor.name in casts:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, casts[tensor.name]))
    nodes = [node for node in plain.graph.node if node.op_type != "Cast"]
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    feeds = decoder_feeds(2)
    mine, theirs = run(to_half(decoder), feeds), run(to_half(plain.SerializeToString()), feeds)
    for name, values in theirs.items():
        np.testing.assert_array_equal(mine[name], values)


def graph_of(
    nodes: list[onnx.NodeProto], weights: Mapping[str, NDArray[Any]], width: int = 64, outputs: tuple[str, ...] = ("y",)
) -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["N", width])],
        [value(name, TensorProto.FLOAT, ["N", "M"]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = proto.SerializeToString()
    return content


def test_points_keep_their_place() -> None:
    random = np.random.default_rng(0)
    frequencies = random.normal(size=(2, 64)).astype(np.float32) * 4 * np.float32(np.pi)
    nodes = [helper.make_node("Div", ["x", "side"], ["unit"]), helper.make_node("MatMul", ["unit", "f"], ["angles"])]
    nodes += [helper.make_node("Sin", ["angles"], ["sin"]), helper.make_node("MatMul", ["sin", "w"], ["y"])]
    weight = np.eye(64, dtype=np.float32)
    graph = graph_of(nodes, {"f": frequencies, "w": weight, "side": np.array(256, np.float32)}, width=2)
    x = random.uniform(128, 256, (50, 2)).astype(np.float32)  # float16 steps by 1/8 here
    mine, expected = (run_as_typed(each, {"x": x})["y"] for each in (to_half(graph), graph))
    # The sine itself is rounded once; from rounded coordinates it would be off by more than ten times that.
    np.testing.assert_allclose(mine, expected, atol=2.0**-11, rtol=0)
    rounded = run(graph, {"x": x.astype(np.float16).astype(np.float32)})["y"]
    assert np.abs(rounded - expected).max() > 5 * 2.0**-11
    assert float32_products(to_half(graph)) == []


@pytest.mark.parametrize("square", ["Pow", "Mul"])
def test_a_spelled_out_normalisation_does_not_overflow(square: str) -> None:
    # Squares reach 1e6; float16 ends at 65504.
    make = helper.make_node
    nodes = [
        make("MatMul", ["x", "w"], ["h"]),
        make("ReduceMean", ["h", "axis"], ["m"]),
        make("Sub", ["h", "m"], ["d"]),
    ]
    nodes += [make("Pow", ["d", "two"], ["s"]) if square == "Pow" else make("Mul", ["d", "d"], ["s"])]
    nodes += [make("ReduceMean", ["s", "axis"], ["v"]), make("Add", ["v", "eps"], ["e"]), make("Sqrt", ["e"], ["r"])]
    nodes += [make("Div", ["d", "r"], ["n"]), make("MatMul", ["n", "w"], ["y"])]
    random = np.random.default_rng(1)
    weights = {"w": random.normal(size=(64, 64)), "two": np.array(2.0), "eps": np.array(1e-6)}
    singles = {name: array.astype(np.float32) for name, array in weights.items()}
    graph = graph_of(nodes, {**singles, "axis": np.array([-1])})
    x = random.normal(size=(3, 64)).astype(np.float32) * 150
    mine, expected = (run_as_typed(each, {"x": x})["y"] for each in (to_half(graph), graph))
    np.testing.assert_allclose(mine, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)
    assert np.square(x @ singles["w"]).max() > 1e6


def test_a_constant_that_both_precisions_share_is_exact_in_the_higher_one() -> None:
    share = np.array(1.0001, np.float32)  # float16 knows 1 and 1.00098
    make = helper.make_node
    nodes = [make("Mul", ["x", "c"], ["a"]), make("Sin", ["a"], ["s"])]
    nodes += [make("MatMul", ["x", "w"], ["h"]), make("Add", ["h", "c"], ["y"])]
    graph = graph_of(nodes, {"c": share, "w": np.eye(64, dtype=np.float32)}, outputs=("s", "y"))
    x = np.full((1, 64), 1000, np.float32)
    np.testing.assert_allclose(run_as_typed(to_half(graph), {"x": x})["s"], np.sin(x * share), atol=2.0**-11, rtol=0)


@pytest.mark.parametrize(("odd", "reason"), [(70000.0, "weight reaches 70000"), (np.inf, "weight is not finite")])
@pytest.mark.parametrize("stored", [False, True])
def test_weights_beyond_float16_are_refused_not_clipped(odd: float, reason: str, stored: bool) -> None:
    weight = np.ones((64, 2), np.float32)
    proto = onnx.load_from_string(graph_of([helper.make_node("MatMul", ["x", "weight"], ["y"])], {"weight": weight}))
    if stored:
        store_halves(proto)
        half = proto.graph.initializer[0]
        assert half.data_type == TensorProto.FLOAT16
        weight = np.full((64, 2), odd if np.isinf(odd) else 65504, np.float16)
        half.CopyFrom(numpy_helper.from_array(weight, half.name))
    else:
        weight[3, 1] = odd
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))
    graph = proto.SerializeToString()
    if stored and np.isfinite(odd):
        assert run(to_half(graph), {"x": np.full((1, 64), 1 / 64, np.float32)})["y"][0, 0] == 65504
        return
    with pytest.raises(ExportError, match=f"float16 ends at 65504: {reason}.*keep_float32"):
        to_half(graph)


def test_what_is_named_stays_single() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="first")]
    nodes += [helper.make_node("MatMul", ["h", "w"], ["y"], name="second")]
    weight = np.random.default_rng(2).normal(size=(64, 64)).astype(np.float32)
    weight[0, 0] = 70000
    graph = graph_of(nodes, {"w": weight})
    x = np.random.default_rng(3).normal(size=(2, 64)).astype(np.float32)
    both = to_half(graph, keep_float32=["MatMul"])
    np.testing.assert_array_equal(run(both, {"x": x})["y"], run(graph, {"x": x})["y"])
    assert float32_products(both) == ["first", "second"]
    weight[0, 0] = 1
    one = to_half(graph_of(nodes, {"w": weight}), keep_float32=["second"])
    assert float32_products(one) == ["second"]
    with pytest.raises(ExportError, match=r"keep_float32 names neither nodes nor operators of the graph: \['third'\]"):
        to_half(graph, keep_float32=["second", "third"])


@pytest.mark.parametrize("graph", [b"", b"no graph"])
def test_what_is_no_graph_is_refused(graph: bytes) -> None:
    with pytest.raises(ExportError, match="not a valid ONNX graph"):
        to_half(graph)
    with pytest.raises(ExportError, match="not a valid ONNX graph"):
        float32_products(graph)
