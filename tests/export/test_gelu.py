"""The reordered GELU has the same values, and engines fuse it."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from scipy.special import erf

from samsdk_export.gelu import fuse_gelu


def exported(module: torch.nn.Module) -> onnx.ModelProto:
    program = torch.onnx.export(
        module.eval(), (torch.zeros(2, 8),), dynamo=True, opset_version=18, input_names=["x"], verbose=False
    )
    assert program is not None
    return program.model_proto


def run(proto: onnx.ModelProto, x: np.ndarray, optimised: Path | None = None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_values_stay_and_onnx_runtime_fuses_it(tmp_path: Path) -> None:
    proto = exported(torch.nn.Sequential(torch.nn.GELU(), torch.nn.Linear(8, 8), torch.nn.GELU()))
    x = np.linspace(-9, 9, 16, dtype=np.float32).reshape(2, 8)
    before = run(proto, x, tmp_path / "before.onnx")
    assert fuse_gelu(proto) == 2
    onnx.checker.check_model(proto)
    np.testing.assert_allclose(run(proto, x, tmp_path / "after.onnx"), before, rtol=0, atol=1e-6)
    kinds = {
        name: Counter(node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node)
        for name in ("before", "after")
    }
    assert kinds["before"]["Erf"] == 2
    assert kinds["after"]["Erf"] == 0
    assert kinds["after"]["Gelu"] + kinds["after"]["BiasGelu"] == 2


def product(factor_first: bool, other: str = "Erf") -> onnx.ModelProto:
    """x * (0.5 * (1 + erf(x))) with its factors in one order or the other."""

    def node(kind: str, inputs: list[str], output: str) -> onnx.NodeProto:
        return helper.make_node(kind, inputs if factor_first else inputs[::-1], [output])

    nodes = [
        helper.make_node(other, ["x"], ["e"]),
        node("Add", ["e", "one"], "a"),
        node("Mul", ["a", "half"], "h"),
        node("Mul", ["x", "h"], "y"),
    ]
    values = [numpy_helper.from_array(np.float32(value), name) for value, name in ((1, "one"), (0.5, "half"))]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 8]) for name in "xy")
    graph = helper.make_graph(nodes, "gelu", [x], [y], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("factor_first", [True, False])
def test_factors_may_stand_in_any_order(factor_first: bool) -> None:
    proto = product(factor_first)
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    assert fuse_gelu(proto) == 1
    np.testing.assert_allclose(run(proto, x), x * 0.5 * (1 + erf(x)), rtol=0, atol=1e-6)
    # What was rewritten is not rewritten again.
    assert fuse_gelu(proto) == 0


def test_what_is_no_gelu_stays() -> None:
    proto = product(True, other="Tanh")
    before = proto.SerializeToString()
    assert fuse_gelu(proto) == 0
    shared = product(True)
    shared.graph.output.append(helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, [2, 8]))
    assert fuse_gelu(shared) == 0
    assert proto.SerializeToString() == before
