from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

import samsdk
from samsdk_export.graphs import DecoderGraph, decoder_inputs, embedding_shapes
from samsdk_export.onnx_export import (
    FORBIDDEN_OPERATORS,
    OPSET,
    REWRITES,
    ExportError,
    check_graph,
    export_decoder,
    export_encoder,
)
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.models.sam import Sam

ENCODER_INPUTS = ("image",)
# Meta's names, in Meta's order.
DECODER_INPUTS = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input")
CONTRACT = {
    "encoder": (ENCODER_INPUTS, ("image_embeddings",)),
    "decoder": (DECODER_INPUTS, ("low_res_masks", "iou_predictions")),
}


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Checkpoint) -> Sam:
    return tiny_checkpoint.build()


@pytest.fixture(scope="module")
def sessions(exported_bundle: Path) -> dict[str, onnxruntime.InferenceSession]:
    return {name: onnxruntime.InferenceSession(exported_bundle / f"{name}.onnx") for name in CONTRACT}


def run(session: onnxruntime.InferenceSession, names: tuple[str, ...], *values: Tensor) -> list[Tensor]:
    feeds = {name: value.numpy() for name, value in zip(names, values, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, feeds)]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_encoder_in_onnx_runtime_is_torchs(model: Sam, sessions: dict[str, Any], batch: int) -> None:
    image = torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(batch))
    (got,) = run(sessions["encoder"], ENCODER_INPUTS, image)
    with torch.inference_mode():
        expected = model.image_encoder(image)
    assert got.shape == (batch, 32, 16, 16)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("prompts", [1, 7])
@pytest.mark.parametrize("tokens", [0, 1, 2, 9])
def test_the_decoder_in_onnx_runtime_is_torchs_for_any_number(
    model: Sam, sessions: dict[str, Any], prompts: int, tokens: int
) -> None:
    generator = torch.Generator().manual_seed(100 * prompts + tokens)
    feeds = (
        torch.randn(1, 32, 16, 16, generator=generator),
        torch.rand(prompts, tokens, 2, generator=generator) * 63,
        torch.randint(-1, 4, (prompts, tokens), generator=generator).float(),
        torch.randn(prompts, 1, 64, 64, generator=generator) * 5,
        (torch.arange(prompts) % 2).float(),
    )
    logits, scores = run(sessions["decoder"], DECODER_INPUTS, *feeds)
    with torch.inference_mode():
        expected = DecoderGraph(model).eval()(*feeds)
    assert (logits.shape, scores.shape) == ((prompts, 4, 64, 64), (prompts, 4))
    torch.testing.assert_close(logits, expected[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(scores, expected[1], atol=1e-4, rtol=0)
    assert logits.abs().max() > 0.1


@pytest.mark.parametrize("count", [0, 5])
def test_graphs_with_fewer_or_all_rewrites_answer_the_same(model: Sam, count: int) -> None:
    rewrites = REWRITES[:count]
    ahead = "ahead" in rewrites
    encoder, decoder = (
        onnxruntime.InferenceSession(export(model, rewrites)) for export in (export_encoder, export_decoder)
    )
    generator = torch.Generator().manual_seed(7)
    image = torch.rand(1, 3, 64, 64, generator=generator)
    feeds = (
        torch.rand(3, 2, 2, generator=generator) * 63,
        torch.tensor([[2.0, 3.0]]).repeat(3, 1),
        torch.randn(3, 1, 64, 64, generator=generator) * 5,
        torch.tensor([0.0, 1.0, 1.0]),
    )
    embedding, *others = run(encoder, ENCODER_INPUTS, image)
    assert len(others) == (3 if ahead else 0)
    assert [list(one.shape[1:]) for one in (embedding, *others)] == [
        *map(list, embedding_shapes(model, ahead).values())
    ]
    logits, scores = run(decoder, decoder_inputs(model, ahead), embedding, *feeds, *others)
    with torch.inference_mode():
        expected = DecoderGraph(model).eval()(model.image_encoder(image), *feeds)
    torch.testing.assert_close(logits, expected[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(scores, expected[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONTRACT)
def test_the_exported_graphs_keep_the_contract(exported_bundle: Path, name: str) -> None:
    proto = onnx.load(exported_bundle / f"{name}.onnx")
    check_graph(proto, *CONTRACT[name])
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
    assert not {node.op_type for node in proto.graph.node} & set(FORBIDDEN_OPERATORS)
    assert {value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)} == {1}


def test_only_the_dimensions_of_the_contract_are_dynamic(exported_bundle: Path) -> None:
    shapes = {}
    for name in CONTRACT:
        graph = onnx.load(exported_bundle / f"{name}.onnx").graph
        for value in (*graph.input, *graph.output):
            key = f"{name}.{value.name}"
            shapes[key] = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
    assert shapes == {
        "encoder.image": ["N", 3, 64, 64],
        "encoder.image_embeddings": ["N", 32, 16, 16],
        "decoder.image_embeddings": [1, 32, 16, 16],
        "decoder.point_coords": ["P", "K", 2],
        "decoder.point_labels": ["P", "K"],
        "decoder.mask_input": ["P", 1, 64, 64],
        "decoder.has_mask_input": ["P"],
        "decoder.low_res_masks": ["P", 4, 64, 64],
        "decoder.iou_predictions": ["P", 4],
    }


@pytest.mark.parametrize("name", CONTRACT)
def test_the_graphs_name_no_path_of_the_exporting_machine(exported_bundle: Path, name: str) -> None:
    content = (exported_bundle / f"{name}.onnx").read_bytes()
    folders = {
        str(Path(samsdk.__file__).parents[2]),
        str(Path(torch.__file__).parent),
        str(Path.home()),
        str(Path.cwd()),
    }
    words = {"/home/", "/root/", "/Users/", "site-packages", "samsdk_training", ".py", "Traceback"} | (folders - {"/"})
    assert [word for word in words if word.encode() in content] == []


def graph_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], **more: Any) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10, **more)


def tensor(name: str, shape: list[int] | None) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def resize_graph(shape: list[int] | None = None) -> onnx.ModelProto:
    scales = helper.make_node(
        "Constant", [], ["scales"], value=helper.make_tensor("v", TensorProto.FLOAT, [4], [1, 1, 2, 2])
    )
    resize = helper.make_node("Resize", ["image", "", "scales"], ["big"])
    return graph_of([scales, resize], [tensor("image", [1, 3, 4, 4])], [tensor("big", shape or [1, 3, 8, 8])])


def test_a_forbidden_operator_is_refused() -> None:
    with pytest.raises(ExportError) as caught:
        check_graph(resize_graph(), ("image",), ("big",))
    assert str(caught.value) == "the exported graph breaks the contract: 1 x Resize"


def test_all_problems_are_listed_at_once() -> None:
    proto = resize_graph()
    proto.graph.node.append(helper.make_node("NonZero", ["big"], ["where"]))
    proto.graph.node.append(helper.make_node("NonZero", ["image"], ["where_too"]))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ExportError) as caught:
        check_graph(proto, ("image", "point_coords"), ("low_res_masks",))
    text = str(caught.value)
    assert "inputs are ['image'], expected ['image', 'point_coords']" in text
    assert "outputs are ['big'], expected ['low_res_masks']" in text
    assert "big has no rank" in text
    assert "1 x Resize" in text
    assert "2 x NonZero" in text


def test_a_forbidden_operator_does_not_hide_in_a_function() -> None:
    imports = [helper.make_opsetid("", OPSET)]
    hidden = helper.make_function("local", "Hidden", ["x"], ["y"], [helper.make_node("NonZero", ["x"], ["y"])], imports)
    proto = graph_of([], [tensor("image", [2])], [tensor("big", [2])], functions=[hidden])
    with pytest.raises(ExportError, match="1 x NonZero"):
        check_graph(proto, ("image",), ("big",))


def test_what_is_no_graph_is_refused_with_the_checkers_words() -> None:
    proto = graph_of([helper.make_node("Relu", ["nowhere"], ["big"])], [tensor("image", [2])], [tensor("big", [2])])
    with pytest.raises(ExportError, match=r"the exported graph breaks the contract: onnx.checker: .*nowhere"):
        check_graph(proto, ("image",), ("big",))


def test_a_decoder_fed_with_another_embedding_side_is_refused(sessions: dict[str, Any]) -> None:
    feeds = {
        "image_embeddings": np.zeros((1, 32, 8, 8), np.float32),
        "point_coords": np.zeros((1, 1, 2), np.float32),
        "point_labels": np.zeros((1, 1), np.float32),
        "mask_input": np.zeros((1, 1, 64, 64), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }
    with pytest.raises(Exception, match="Got invalid dimensions for input: image_embeddings"):
        sessions["decoder"].run(None, feeds)
