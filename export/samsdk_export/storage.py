"""Half-precision storage: weights that 16 bits hold exactly take 16 bits in the file, and are float32 when it runs."""

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Below this a Cast node costs more than it saves.
_FEWEST: Final = 64


def store_halves(proto: onnx.ModelProto) -> int:
    """Store each weight tensor that float16 holds exactly as float16, with a Cast back to float32 after it.

    The graph computes bit for bit what it computed: engines undo the cast once, when they load (constant folding).
    What 16 bits cannot hold exactly stays as it is, so this does nothing to a model whose weights were not rounded
    (see `samsdk_training.slim`).

    Args:
        proto: changed in place.

    Returns:
        The number of bytes saved.
    """
    saved, casts = 0, []
    for tensor in proto.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _FEWEST:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), values):
            continue
        name = tensor.name
        stored = numpy_helper.from_array(halves, f"{name}.half")
        saved += values.nbytes - halves.nbytes
        tensor.CopyFrom(stored)
        casts.append(helper.make_node("Cast", [stored.name], [name], name=f"{name}.float", to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    _forget_types(proto, {node.output[0] for node in casts})
    return saved


def _forget_types(proto: onnx.ModelProto, names: set[str]) -> None:
    """Drop what the exporter noted of the initialisers' types: they are ordinary values now."""
    kept = [value for value in proto.graph.value_info if value.name not in names]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
