"""What the tests of the training room share: the numerical oracle, randomised modules, a measure of error."""

import importlib
import importlib.util
import math
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from samsdk_training.checkpoints import Checkpoint
from samsdk_training.models import SamConfig, TinyViTConfig
from samsdk_training.models.sam_config import DecoderConfig


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    # These models are too small for two threads to help, and on a busy machine waiting for the second costs fourfold.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def segment_anything(published: Callable[[str], types.ModuleType]) -> types.ModuleType:
    """The `modeling` package of segment-anything."""
    return published("segment_anything.modeling")


@pytest.fixture(scope="session")
def tiny_vit_recipe() -> types.ModuleType:
    """The module that draws the image and the weights of the TinyViT goldens."""
    path = Path(__file__).parent / "goldens" / "tiny_vit_recipe.py"
    spec = importlib.util.spec_from_file_location("tiny_vit_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """Largest difference over the largest expected magnitude; shapes must agree, so that nothing broadcasts."""

    def measure(got: Tensor, expected: Tensor) -> float:
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        return ((got - expected).abs().max() / expected.abs().max()).item() if expected.numel() else 0.0

    return measure


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module, int], None]:
    """Move every parameter and statistic away from the value of a new model, so that none can be left out unseen."""

    def draw(module: nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, tensor in module.state_dict().items():
                if not tensor.is_floating_point():
                    continue
                noise = torch.randn(tensor.shape, generator=generator)
                if key.endswith("running_var"):
                    noise = noise.abs()
                kernel = tensor.ndim > 1 and "attention_biases" not in key
                spread = 0.5 / math.prod(tensor.shape[1:]) ** 0.5 if kernel else 0.2
                tensor.add_(spread * noise.to(tensor.dtype))

    return draw


@pytest.fixture
def small_config() -> SamConfig:
    """A model of the full structure that runs in milliseconds: input 64, embedding 16, windows that need padding."""
    return SamConfig(
        encoder=TinyViTConfig(
            image_size=64,
            embed_dims=(8, 16, 16, 32),
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 2, 4),
            window_sizes=(7, 7, 14, 7),
            out_channels=32,
        ),
        decoder=DecoderConfig(num_heads=4, mlp_dim=64, iou_head_hidden_dim=32),
        mask_channels=16,
    )


@pytest.fixture(scope="session")
def class_point_checkpoint(semantic_checkpoint: Checkpoint) -> Checkpoint:
    """The semantic model with points that name classes, each class with an embedding of its own."""
    config = SamConfig.from_dict(semantic_checkpoint.model)
    count = len(semantic_checkpoint.classes) - 1
    generator = torch.Generator().manual_seed(6)
    table = torch.randn(count, config.encoder.out_channels, generator=generator)
    return replace(
        semantic_checkpoint,
        model=replace(config, point_classes=count).to_dict(),
        state={**semantic_checkpoint.state, "prompt_encoder.class_embeddings.weight": table},
    )


@pytest.fixture(scope="session")
def lite_medsam_weights() -> Path:
    """The published weights in this user's cache; the test is skipped where they have not been fetched.

    Of the session, so that it looks before a test gets a cache of its own.
    """
    from samsdk.hub import weights_path

    path = weights_path("lite-medsam")
    if not path.is_file():
        pytest.skip("the LiteMedSAM weights are not in the cache; `samsdk models pull lite-medsam` fetches them")
    return path
