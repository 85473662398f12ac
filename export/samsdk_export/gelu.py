"""GELU in the order of operations that engines recognise, so that they run it as one kernel; exact."""

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper


def fuse_gelu(proto: onnx.ModelProto) -> int:
    """Rewrite x * (0.5 * (1 + erf(x / sqrt(2)))) to (x * (1 + erf(x / sqrt(2)))) * 0.5 wherever it stands.

    ONNX Runtime fuses only the second form (its Gelu). Halving is exact in floating point, so the values are the same.

    Args:
        proto: changed in place.

    Returns:
        How many were rewritten.
    """
    graph = proto.graph
    producers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    halves = {one.name for one in graph.initializer if np.array_equal(numpy_helper.to_array(one).ravel(), [0.5])}
    count = 0
    for whole in graph.node:
        parts = _parts(whole, producers, uses, halves)
        if parts is None:
            continue
        x, half, root, constant = parts
        _set_inputs(half, [x, root])
        _set_inputs(whole, [half.output[0], constant])
        count += 1
    return count


def _parts(
    whole: onnx.NodeProto, producers: dict[str, onnx.NodeProto], uses: Counter[str], halves: set[str]
) -> tuple[str, onnx.NodeProto, str, str] | None:
    """x, the node that halves, the name of 1 + erf and that of the constant one half; None if this is no GELU."""
    if whole.op_type != "Mul":
        return None
    for position, name in enumerate(whole.input):
        half = producers.get(name)
        if half is None or half.op_type != "Mul" or uses[name] != 1:
            continue
        for at, root in enumerate(half.input):
            add, constant = producers.get(root), half.input[1 - at]
            if constant in halves and add is not None and _is_one_and_erf(add, producers) and uses[root] == 1:
                return whole.input[1 - position], half, root, constant
    return None


def _is_one_and_erf(add: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> bool:
    return add.op_type == "Add" and any(name in producers and producers[name].op_type == "Erf" for name in add.input)


def _set_inputs(node: onnx.NodeProto, names: list[str]) -> None:
    del node.input[:]
    node.input.extend(names)
