"""Tracing the graphs to ONNX, and holding what comes out against the contract."""

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from samsdk.errors import SamsdkError
from samsdk_export.absorbed import absorb_projections
from samsdk_export.channels_last import ChannelsLastMasks
from samsdk_export.graphs import (
    DECODER_OUTPUTS,
    ENCODER_INPUTS,
    DecoderGraph,
    EncoderGraph,
    decoder_inputs,
    embedding_names,
)
from samsdk_export.storage import store_halves
from samsdk_training.models.sam import Sam

# The newest that TensorRT 10.3 (JetPack 6.2) and OpenVINO read as well as ONNX Runtime.
OPSET = 18
DECODER_REWRITES = ("absorbed", "channels_last")
# Operators that keep SAM decoders from building elsewhere (shape tensors, data-dependent shapes, control flow).
FORBIDDEN_OPERATORS = ("OneHot", "Resize", "NonZero", "Loop", "If", "Scan", "Mod")


class ExportError(SamsdkError):
    """The graph that came out of the exporter breaks the contract; the text lists everything that does."""


def export_encoder(model: Sam) -> bytes:
    """The encoder as an ONNX file: `image` [N, 3, S, S] to the embeddings by their names, N dynamic."""
    side = model.image_size
    example = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("N", min=1, max=64)
    return _export(EncoderGraph(model), (example,), ENCODER_INPUTS, embedding_names(model), {"image": {0: batch}})


def export_decoder(model: Sam, rewrites: Sequence[str] = DECODER_REWRITES) -> bytes:
    """The prompt encoder and mask decoder as an ONNX file, number of prompts P and of tokens K dynamic.

    Args:
        model: in evaluation mode; it is left as it is.
        rewrites: some of `DECODER_REWRITES`, all exact; fewer only to measure what they are worth.
    """
    model = copy.deepcopy(model)
    if "absorbed" in rewrites:
        absorb_projections(model.mask_decoder)
    if "channels_last" in rewrites:
        side = next(iter(model.image_encoder.embedding_shapes.values()))[-1]
        model.mask_decoder = ChannelsLastMasks(model.mask_decoder, side)  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    prompts, tokens, mask_side = 3, 5, model.prompt_encoder.mask_side
    shapes = model.image_encoder.embedding_shapes
    embedding, *skips = (torch.rand(1, *shape, generator=generator) for shape in shapes.values())
    example = (
        embedding,
        torch.rand(prompts, tokens, 2, generator=generator) * model.image_size,
        torch.tensor([[1.0, 0.0, 2.0, 3.0, -1.0]]).repeat(prompts, 1),
        torch.rand(prompts, 1, mask_side, mask_side, generator=generator),
        torch.tensor([0.0, 1.0, 0.0]),
        *skips,
    )
    many, long = torch.export.Dim("P", min=1, max=1024), torch.export.Dim("K", min=1, max=256)
    dynamic = {
        **dict.fromkeys(shapes),
        "point_coords": {0: many, 1: long},
        "point_labels": {0: many, 1: long},
        "mask_input": {0: many},
        "has_mask_input": {0: many},
    }
    return _export(DecoderGraph(model), example, decoder_inputs(model), DECODER_OUTPUTS, dynamic)


def _export(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: Mapping[str, Any],
) -> bytes:
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            graph.eval(),
            example,
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dict(dynamic_shapes),
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise ExportError("the ONNX exporter returned nothing")
    proto = program.model_proto
    _strip_traces(proto)
    store_halves(proto)
    check_graph(proto, inputs, outputs)
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


def check_graph(proto: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
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
    problems += [f"{operators[name]} x {name}" for name in FORBIDDEN_OPERATORS if name in operators]
    if problems:
        raise ExportError("the exported graph breaks the contract: " + "; ".join(problems))
