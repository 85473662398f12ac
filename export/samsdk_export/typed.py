"""Strongly typed half-precision graphs, for engines that take each tensor's type from the graph (TensorRT).

Convolutions and matrix products become float16. What overflows there or loses the place of a point stays float32:
normalisations with their squares and means, softmax, and everything between a coordinate and its sine and cosine.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from samsdk_export.onnx_export import ExportError

# Operators that multiply matrices: compute capability 7.5 has no TensorRT kernels for them in float32.
PRODUCTS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Their squares, sums and exponentials leave the range of float16, or the angles its precision.
_PRECISE: Final = (
    *("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"),
    *("Softmax", "LogSoftmax", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Sin", "Cos"),
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2"),
)
# What feeds these through nothing but element-wise operators is part of the same formula.
_ROOTS: Final = ("Pow", "Sqrt", "Reciprocal", "Sin", "Cos", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2")
_ELEMENTWISE: Final = ("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Identity", "Unsqueeze", *_ROOTS)
_FEW_COLUMNS: Final = 4


def to_half(graph: bytes, *, keep_float32: Sequence[str] = ()) -> bytes:
    """A strongly typed float16 graph; inputs and outputs stay float32.

    Args:
        graph: a float32 ONNX file's bytes.
        keep_float32: names of nodes, or operator types, that stay float32 beyond normalisations, softmax and the
            positions' sines and cosines.

    Returns:
        The ONNX file's bytes.

    Raises:
        ExportError: the bytes are no valid graph, `keep_float32` names nothing in it, or a weight is beyond float16.
    """
    proto = _parse(graph)
    _name_nodes(proto)
    _fold_constants(proto)
    _spell_out_positions(proto)
    unknown = set(keep_float32) - {label for node in proto.graph.node for label in (node.name, node.op_type)}
    if unknown:
        raise ExportError(f"keep_float32 names neither nodes nor operators of the graph: {sorted(unknown)}")
    kept = _precise_nodes(proto, keep_float32)
    _split_constants(proto, kept)
    _check_range(proto, kept)
    half = convert_float_to_float16(proto, keep_io_types=True, op_block_list=[], node_block_list=sorted(kept))
    _tidy_casts(half)
    del half.graph.value_info[:]
    try:
        onnx.checker.check_model(half, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the half-precision graph is not valid: {error}") from error
    content: bytes = half.SerializeToString(deterministic=True)
    return content


def float32_products(graph: bytes) -> list[str]:
    """Names of the nodes that multiply float32 matrices: convolutions, matrix products.

    Args:
        graph: an ONNX file's bytes.

    Raises:
        ExportError: the bytes are no valid graph.
    """
    proto = _parse(graph)
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    values = (*proto.graph.input, *proto.graph.value_info)
    types |= {value.name: value.type.tensor_type.elem_type for value in values}
    products = (node for node in proto.graph.node if node.op_type in PRODUCTS)
    return [node.name for node in products if any(types.get(name) == TensorProto.FLOAT for name in node.input)]


def _parse(graph: bytes) -> onnx.ModelProto:
    """The graph with the types of all values; what the file says of them may be out of date."""
    try:
        proto = onnx.load_from_string(graph)
        del proto.graph.value_info[:]
        onnx.checker.check_model(proto)
        inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    except Exception as error:  # protobuf's and onnx's exceptions share no base class
        raise ExportError(f"not a valid ONNX graph: {error}") from error
    return inferred


def _name_nodes(proto: onnx.ModelProto) -> None:
    """Give every node a name of its own: the converter knows nodes by name."""
    seen: set[str] = set()
    for number, node in enumerate(proto.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{number}.{node.output[0]}"
        seen.add(node.name)


def _fold_constants(proto: onnx.ModelProto) -> None:
    """Make plain float32 weights of Constant nodes, and of halves with the cast that `store_halves` put after them."""
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes, folded = [], []
    for node in proto.graph.node:
        values = [attribute.t for attribute in node.attribute if attribute.name == "value"]
        if node.op_type == "Constant" and values:
            folded.append(numpy_helper.from_array(numpy_helper.to_array(values[0]), node.output[0]))
        elif node.op_type == "Cast" and node.input[0] in stored and node.attribute[0].i == TensorProto.FLOAT:
            array = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
            folded.append(numpy_helper.from_array(array, node.output[0]))
        else:
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    _replace(proto.graph.node, nodes)
    _replace(proto.graph.initializer, [tensor for tensor in (*stored.values(), *folded) if tensor.name in read])


def _spell_out_positions(proto: onnx.ModelProto) -> None:
    """Write products with matrices of a few rows as a sum of products: the positions' frequencies are [2, F].

    Coordinates in float16 are off by an eighth of a pixel, and a matrix product must be float16 to run everywhere;
    element-wise operators need not.
    """
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or len(weight.dims) != 2 or weight.dims[0] > _FEW_COLUMNS or opset < 13:
            nodes.append(node)
            continue
        columns, terms, last, rows = (f"{node.name}.{part}" for part in ("columns", "terms", "last", "rows"))
        axes = [numpy_helper.from_array(np.array([axis]), name) for axis, name in ((-1, last), (-2, rows))]
        proto.graph.initializer.extend(axes)
        nodes += [
            helper.make_node("Unsqueeze", [node.input[0], last], [columns], name=columns),
            helper.make_node("Mul", [columns, node.input[1]], [terms], name=terms),  # [..., rows, F]
            helper.make_node("ReduceSum", [terms, rows], node.output, name=node.name, keepdims=0),
        ]
    _replace(proto.graph.node, nodes)
    # The converter adds no casts around values whose types it does not know.
    proto.CopyFrom(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def _precise_nodes(proto: onnx.ModelProto, more: Sequence[str]) -> set[str]:
    """Names of the nodes that stay float32."""
    nodes = list(proto.graph.node)
    kept = {node.name for node in nodes if node.op_type in _PRECISE or node.name in more or node.op_type in more}
    wanted: set[str] = set()
    for node in reversed(nodes):  # users come after what they use
        if node.op_type in _ROOTS or (node.op_type in _ELEMENTWISE and wanted & set(node.output)):
            kept.add(node.name)
            wanted |= set(node.input)
    # x / sqrt(variance): the quotient belongs to the formula as well.
    scales = {name for node in nodes if node.op_type in ("Sqrt", "Reciprocal") for name in node.output}
    return kept | {node.name for node in nodes if node.op_type in ("Div", "Mul") and scales & set(node.input)}


def _split_constants(proto: onnx.ModelProto, kept: set[str]) -> None:
    """Give the float32 nodes constants of their own where others share them: the converter rounds shared ones."""
    floats = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    shared = {name for node in proto.graph.node if node.name not in kept for name in node.input}
    copies: dict[str, TensorProto] = {}
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            if node.name in kept and name in floats and name in shared:
                copy = copies.setdefault(name, TensorProto())
                copy.CopyFrom(floats[name])
                copy.name = node.input[position] = f"{name}.float32"
    proto.graph.initializer.extend(copies.values())


def _check_range(proto: onnx.ModelProto, kept: set[str]) -> None:
    """Refuse weights that the converter would clip to the largest half without a word."""
    rounded = {name for node in proto.graph.node if node.name not in kept for name in node.input}
    largest = float(np.finfo(np.float16).max)
    problems = []
    for tensor in proto.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name not in rounded or math.prod(tensor.dims) == 0:
            continue
        values: NDArray[np.float32] = numpy_helper.to_array(tensor)
        if not np.isfinite(values).all():
            problems.append(f"{tensor.name} is not finite")
        elif np.abs(values).max() > largest:
            problems.append(f"{tensor.name} reaches {np.abs(values).max():.6g}")
    if problems:
        raise ExportError(
            f"float16 ends at {largest:.0f}: {'; '.join(problems)}; name the nodes that use them in keep_float32, or "
            "export in float32"
        )


def _tidy_casts(proto: onnx.ModelProto) -> None:
    """Let float32 nodes pass float32 on to each other, and each value be cast once.

    The converter casts after every float32 node and again before the next one, which would round, and overflow, in
    the middle of a normalisation; it also appends its casts at the end, one for each user.
    """
    casts = {node.output[0]: node for node in proto.graph.node if node.op_type == "Cast"}
    for node in (*casts.values(), *(node for node in proto.graph.node if node.op_type != "Cast")):
        for position, name in enumerate(node.input):
            node.input[position] = _before_round_trip(casts, name)
    for output in proto.graph.output:
        source = _before_round_trip(casts, output.name)
        if source != output.name:
            whole = helper.make_node("Identity", [source], [output.name], name=casts[output.name].name)
            casts[output.name].CopyFrom(whole)
    first = {node.output[0]: node for node in reversed(proto.graph.node)}
    outputs = [value.name for value in proto.graph.output]
    _replace(proto.graph.node, list(_in_order(first, outputs)))


def _before_round_trip(casts: dict[str, onnx.NodeProto], name: str) -> str:
    """The float32 value of which `name` is a copy rounded to float16 and cast back, else `name`."""
    back = casts.get(name)
    there = casts.get(back.input[0]) if back is not None else None
    if back is None or there is None or back.attribute[0].i != TensorProto.FLOAT:
        return name
    return there.input[0] if there.attribute[0].i == TensorProto.FLOAT16 else name


def _in_order(producers: dict[str, onnx.NodeProto], outputs: Iterable[str]) -> Iterator[onnx.NodeProto]:
    """The nodes that the outputs need, each after those it reads; their producers are found by their first output."""
    makers = {name: node for node in producers.values() for name in node.output}
    done: set[str] = set()
    stack = [(name, False) for name in reversed(list(outputs))]
    while stack:
        name, ready = stack.pop()
        node = makers.get(name)
        if node is None or node.output[0] in done:
            continue
        if ready:
            done.add(node.output[0])
            yield node
        else:
            stack.append((name, True))
            stack += [(source, False) for source in reversed(node.input)]


def _replace(field: object, values: Sequence[object]) -> None:
    """Put other messages into a repeated field."""
    kept = list(values)
    del field[:]  # type: ignore[attr-defined]
    field.extend(kept)  # type: ignore[attr-defined]
