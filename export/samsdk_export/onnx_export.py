"""Tracing the graphs to ONNX, and holding what comes out against the contract."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from samsdk.errors import SamsdkError
from samsdk.manifest import PROMPTABLE, SEMANTIC
from samsdk_export.ahead import pays
from samsdk_export.attention import ATTENTIONS
from samsdk_export.gelu import fuse_gelu
from samsdk_export.graphs import (
    DECODER_OUTPUTS,
    ENCODER_INPUTS,
    DecoderGraph,
    EncoderGraph,
    decoder_inputs,
    embedding_shapes,
)
from samsdk_export.rows_decoder import RowsDecoder
from samsdk_export.semantic_decoder import SemanticDecoder
from samsdk_export.storage import store_halves
from samsdk_training.models.sam import Sam

# The newest that TensorRT 10.3 (JetPack 6.2) and OpenVINO read as well as ONNX Runtime.
OPSET = 18
# In the order in which they build on each other; fewer are only for measuring what they are worth.
REWRITES = ("gelu", "pieces", "rows", "absorbed", "ahead")
# Operators that keep SAM decoders from building elsewhere (shape tensors, data-dependent shapes, control flow).
FORBIDDEN_OPERATORS = ("OneHot", "Resize", "NonZero", "Loop", "If", "Scan", "Mod")


class ExportError(SamsdkError):
    """The graph that came out of the exporter breaks the contract; the text lists everything that does."""


def rewrites_for(model: Sam, encoder_flops: int, task: str = PROMPTABLE) -> tuple[str, ...]:
    """The rewrites that make a model faster.

    Args:
        model: the model.
        encoder_flops: of one image, see `count_flops`.
        task: the checkpoint's; a semantic model decodes an image only once.
    """
    return REWRITES if task != SEMANTIC and pays(model, encoder_flops) else REWRITES[: REWRITES.index("ahead")]


def export_encoder(model: Sam, rewrites: Sequence[str]) -> bytes:
    """The encoder as an ONNX file: `image` [N, 3, S, S] to the embeddings by their names, N dynamic.

    Args:
        model: in evaluation mode.
        rewrites: the first few of `REWRITES`, all exact; the same for both graphs of a bundle. "bias_free" may stand in
            the place of "pieces" (see `attention`).
    """
    side, ahead = model.image_size, "ahead" in rewrites
    example = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("N", min=1, max=64)
    graph = EncoderGraph(model, ahead, next((name for name in rewrites if name in ATTENTIONS), None))
    outputs = tuple(embedding_shapes(model, ahead))
    return export_graph(graph, (example,), ENCODER_INPUTS, outputs, {"image": {0: batch}}, rewrites)


def export_decoder(model: Sam, rewrites: Sequence[str]) -> bytes:
    """The prompt encoder and mask decoder as an ONNX file, number of prompts P and of tokens K dynamic.

    Args:
        model: in evaluation mode; it is left as it is.
        rewrites: as for `export_encoder`.
    """
    ahead = "ahead" in rewrites
    rows = RowsDecoder(model, absorbed="absorbed" in rewrites, ahead=ahead) if "rows" in rewrites else None
    generator = torch.Generator().manual_seed(0)
    prompts, tokens, mask_side = 3, 5, model.prompt_encoder.mask_side
    shapes = embedding_shapes(model, ahead)
    embedding, *others = (torch.rand(1, *shape, generator=generator) for shape in shapes.values())
    example = (
        embedding,
        torch.rand(prompts, tokens, 2, generator=generator) * model.image_size,
        torch.tensor([[1.0, 0.0, 2.0, 3.0, -1.0]]).repeat(prompts, 1),
        torch.rand(prompts, 1, mask_side, mask_side, generator=generator),
        torch.tensor([0.0, 1.0, 0.0]),
        *others,
    )
    many, long = torch.export.Dim("P", min=1, max=1024), torch.export.Dim("K", min=1, max=256)
    dynamic: dict[str, Any] = {
        "image_embeddings": None,
        "point_coords": {0: many, 1: long},
        "point_labels": {0: many, 1: long},
        "mask_input": {0: many},
        "has_mask_input": {0: many},
    }
    if others:
        dynamic["others"] = ({},) * len(others)  # not None, which the exporter would take for axes
    inputs = decoder_inputs(model, ahead)
    return export_graph(rows or DecoderGraph(model), example, inputs, DECODER_OUTPUTS, dynamic, rewrites)


def export_semantic_decoder(model: Sam, rewrites: Sequence[str]) -> bytes:
    """The decoder of a semantic model as an ONNX file: the embeddings of N images to `low_res_masks`, N dynamic.

    Args:
        model: in evaluation mode; it is left as it is.
        rewrites: as for `export_encoder`, without `ahead`; the decoder is always on rows.
    """
    shapes = embedding_shapes(model, ahead=False)
    generator = torch.Generator().manual_seed(0)
    example = tuple(torch.rand(2, *shape, generator=generator) for shape in shapes.values())
    images = torch.export.Dim("N", min=1, max=64)
    dynamic: dict[str, Any] = {"image_embeddings": {0: images}}
    if len(example) > 1:
        dynamic["others"] = ({0: images},) * (len(example) - 1)
    return export_graph(SemanticDecoder(model), example, tuple(shapes), DECODER_OUTPUTS[:1], dynamic, rewrites)


def export_graph(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: dict[str, Any],
    rewrites: Sequence[str],
    forbidden: Sequence[str] = FORBIDDEN_OPERATORS,
) -> bytes:
    """A graph as an ONNX file that keeps the contract.

    Args:
        graph: what is traced, in evaluation mode.
        example: its inputs.
        inputs: their names.
        outputs: names of what it returns.
        dynamic_shapes: by argument of `forward`, as `torch.onnx.export` takes them.
        rewrites: some of `REWRITES`; only those that change the traced graph count here.
        forbidden: operators that it must not have.

    Raises:
        ExportError: the graph breaks the contract.
    """
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            graph.eval(),
            example,
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise ExportError("the ONNX exporter returned nothing")
    proto = program.model_proto
    _strip_traces(proto)
    if "gelu" in rewrites:
        fuse_gelu(proto)
    store_halves(proto)
    check_graph(proto, inputs, outputs, forbidden)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep back the exporter's remarks on torchvision and its own deprecations: the user can do nothing about them."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip_traces(proto: onnx.ModelProto) -> None:
    """Drop what the exporter notes of source files: it names paths of the exporting machine."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]


def check_graph(
    proto: onnx.ModelProto,
    inputs: Sequence[str],
    outputs: Sequence[str],
    forbidden: Sequence[str] = FORBIDDEN_OPERATORS,
) -> None:
    """Hold a graph against the contract: names, static rank, operators that build everywhere.

    Raises:
        ExportError: with everything that breaks the contract.
    """
    problems = []
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        problems.append(f"onnx.checker: {error}")
    for what, expected, values in (("inputs", inputs, proto.graph.input), ("outputs", outputs, proto.graph.output)):
        names = [value.name for value in values]
        if names != list(expected):
            problems.append(f"{what} are {names}, expected {list(expected)}")
        problems += [f"{value.name} has no rank" for value in values if not value.type.tensor_type.HasField("shape")]
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    operators = Counter(node.op_type for node in nodes)
    problems += [f"{operators[name]} x {name}" for name in forbidden if name in operators]
    if problems:
        raise ExportError("the exported graph breaks the contract: " + "; ".join(problems))
