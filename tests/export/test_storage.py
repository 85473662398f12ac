"""Half-precision storage loses nothing."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from samsdk_export.storage import store_halves


def model(weight: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, weight.shape[1]])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def test_weights_that_halves_hold_exactly_take_half_the_bytes_and_give_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 32)).astype(np.float16).astype(np.float32)
    x = rng.normal(size=(2, 64)).astype(np.float32)
    proto = model(weight)
    before, size = run(proto, x), proto.ByteSize()
    assert store_halves(proto) == weight.nbytes // 2
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ByteSize() < size - weight.nbytes // 2 + 200
    np.testing.assert_array_equal(run(proto, x), before)


def test_one_weight_that_a_half_cannot_hold_keeps_its_tensor_as_it_is() -> None:
    weight = np.ones((64, 32), dtype=np.float32)
    for odd in (1.0001, 70000.0, np.float32(1e-9)):
        weight[5, 5] = odd
        proto = model(weight)
        content = proto.SerializeToString()
        assert store_halves(proto) == 0
        assert proto.SerializeToString() == content


def test_small_tensors_are_not_worth_a_cast() -> None:
    assert store_halves(model(np.ones((7, 9), dtype=np.float32))) == 0
