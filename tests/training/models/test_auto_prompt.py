import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from samsdk.point_selection import PointSelection, select_points
from samsdk.transforms import Preprocessing
from samsdk_training.losses import cross_entropy_loss
from samsdk_training.models.auto_prompt import AutoPromptConfig, AutoPromptGenerator
from samsdk_training.models.config import from_json, to_json


@pytest.mark.parametrize(("channels", "count"), [(64, 31_037_633), (32, 7_763_041), (16, 1_942_577)])
def test_the_sizes_are_those_of_the_documentation(channels: int, count: int) -> None:
    with torch.device("meta"):
        generator = AutoPromptGenerator(AutoPromptConfig(base_channels=channels))
    assert sum(parameter.numel() for parameter in generator.parameters()) == count
    assert f"{count:,}" in (AutoPromptConfig.__doc__ or "")
    assert generator.image_size == 512


def test_a_configuration_survives_json() -> None:
    config = AutoPromptConfig(96, 8, 5)
    assert from_json(AutoPromptConfig, "auto_prompt", to_json(config)) == config
    with pytest.raises(ValueError, match="auto_prompt: depth: expected a positive number, got 0"):
        from_json(AutoPromptConfig, "auto_prompt", {**to_json(config), "depth": 0})
    with pytest.raises(ValueError, match="image_size must be a multiple of 16 for a depth of 4, got 24"):
        AutoPromptConfig(24)


def by_hand(generator: AutoPromptGenerator, image: Tensor) -> Tensor:
    """A U-Net of depth 2 from the weights, in functions."""

    def units(x: Tensor, part: nn.Module) -> Tensor:
        for conv, norm, _ in part:
            x = functional.conv2d(x, conv.weight, padding=1)
            x = functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
            x = x.clamp(min=0)
        return x

    one = units(image, generator.down[0])
    two = units(functional.max_pool2d(one, 2), generator.down[1])
    three = units(functional.max_pool2d(two, 2), generator.down[2])
    x = three
    for skip, up, merge in zip((two, one), generator.up, generator.merge, strict=True):
        x = functional.conv_transpose2d(x, up.weight, up.bias, stride=2)
        x = units(torch.cat([skip, x], 1), merge)
    return functional.conv2d(x, generator.head.weight, generator.head.bias)


def test_it_is_a_u_net(randomise: object, relative_error: object) -> None:
    generator = AutoPromptGenerator(AutoPromptConfig(16, 4, 2)).eval()
    randomise(generator, 1)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = generator(image)
        assert logits.shape == (2, 1, 16, 16)
        assert relative_error(logits, by_hand(generator, image)) <= 1e-5
    with pytest.raises(ValueError, match=r"images of side 16, got \(16, 32\)"):
        generator(torch.rand(1, 3, 16, 32))


def test_it_learns_where_objects_are() -> None:
    torch.manual_seed(0)
    rows, columns = np.indices((32, 32))
    masks = [(rows - y) ** 2 + (columns - x) ** 2 <= 16 for x, y in ((8, 8), (22, 10), (10, 21), (23, 23))]
    truth = torch.from_numpy(np.stack([masks[0] | masks[3], masks[1] | masks[2]])[:, None]).float()
    images = truth * 0.4 + 0.3 + 0.05 * torch.randn(2, 3, 32, 32)
    generator = AutoPromptGenerator(AutoPromptConfig(32, 4, 2))
    optimiser = torch.optim.AdamW(generator.parameters(), 1e-2)
    for _ in range(40):
        loss = cross_entropy_loss(generator(images), truth).mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in generator.parameters())
        optimiser.step()
    with torch.inference_mode():
        probabilities = generator.eval()(images).sigmoid().numpy()
    for image, expected in ((0, [(8, 8), (23, 23)]), (1, [(22, 10), (10, 21)])):
        points, labels = select_points(probabilities[image, 0], Preprocessing(32).frame((32, 32)), PointSelection())
        found = sorted(points[labels == 1].tolist())
        np.testing.assert_allclose(found, sorted(expected), atol=1)
