import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from samsdk_export.onnx_export import FORBIDDEN_OPERATORS, OPSET
from samsdk_export.prompter import PrompterGraph, export_prompter
from samsdk_training.models.auto_prompt import AutoPromptConfig, AutoPromptGenerator


@pytest.fixture(scope="module")
def generator() -> AutoPromptGenerator:
    torch.manual_seed(5)
    generator = AutoPromptGenerator(AutoPromptConfig(32, 4, 3))
    with torch.no_grad():
        for _ in range(3):  # batch norms get statistics other than 0 and 1
            generator.train()(torch.rand(4, 3, 32, 32) * 2)
        for parameter in generator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        generator.head.weight *= 10
    return generator.eval()


@pytest.fixture(scope="module")
def exported(generator: AutoPromptGenerator) -> bytes:
    return export_prompter(generator)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_prompter_in_onnx_runtime_is_torchs(generator: AutoPromptGenerator, exported: bytes, batch: int) -> None:
    image = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
    (got,) = onnxruntime.InferenceSession(exported).run(["point_probabilities"], {"image": image.numpy()})
    with torch.inference_mode():
        logits = generator(image)
        expected = PrompterGraph(generator).eval()(image)
    torch.testing.assert_close(expected, 1 / (1 + torch.exp(-logits)), atol=1e-6, rtol=0)
    assert got.shape == (batch, 1, 32, 32)
    assert np.abs(got - expected.numpy()).max() <= 1e-5
    # The map says something, and the images are not mixed up.
    assert np.ptp(got) > 0.2
    assert batch == 1 or np.abs(got[0] - got[1]).max() > 0.01


def test_the_prompter_keeps_the_contract(exported: bytes) -> None:
    proto = onnx.load_from_string(exported)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {"image": ["N", 3, 32, 32], "point_probabilities": ["N", 1, 32, 32]}
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
    operators = {node.op_type for node in proto.graph.node}
    assert operators <= {"Conv", "BatchNormalization", "Relu", "MaxPool", "ConvTranspose", "Concat", "Sigmoid"}
    assert not operators & set(FORBIDDEN_OPERATORS)
    assert not [word for word in (b"site-packages", b"samsdk_training", b".py") if word in exported]
