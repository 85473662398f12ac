from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from samsdk_training.models import TinyViT, TinyViTConfig

GOLDEN = Path(__file__).parents[1] / "goldens" / "tiny_vit.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def encoder() -> TinyViT:
    return TinyViT(TinyViTConfig()).eval()


def error(embedding: torch.Tensor, golden: dict[str, np.ndarray], name: str, sample) -> float:
    means = embedding[0].double().mean(dim=(1, 2)).numpy()
    pairs = [(embedding.numpy()[sample], golden[name]), (means, golden[f"{name}_channel_means"])]
    assert all(got.shape == expected.shape for got, expected in pairs)
    return max(float(np.abs(got - expected).max() / np.abs(expected).max()) for got, expected in pairs)


def test_agrees_with_the_published_encoder_on_drawn_weights(encoder, golden, tiny_vit_recipe) -> None:
    recipe = tiny_vit_recipe
    drawn = recipe.weights({key: tuple(tensor.shape) for key, tensor in encoder.state_dict().items()})
    inputs = recipe.digest({**drawn, "image": recipe.image()})
    assert inputs == golden["inputs_sha256"], (
        "the drawn weights differ from the golden's: a random generator has changed"
    )
    encoder.load_state_dict({key: torch.from_numpy(value) for key, value in drawn.items()})
    with torch.inference_mode():
        embedding = encoder(torch.from_numpy(recipe.image()))
    assert error(embedding, golden, "drawn", recipe.SAMPLE) <= 1e-5


def test_agrees_with_the_published_encoder_on_published_weights(
    encoder, golden, tiny_vit_recipe, lite_medsam_weights
) -> None:
    recipe = tiny_vit_recipe
    state = torch.load(lite_medsam_weights, weights_only=True)
    prefix = "image_encoder."
    encoder.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    with torch.inference_mode():
        embedding = encoder(torch.from_numpy(recipe.image()))
    assert error(embedding, golden, "published", recipe.SAMPLE) <= 1e-5


def test_weights_loaded_after_eval_take_full_effect(small_config, randomise) -> None:
    source = TinyViT(small_config.encoder)
    randomise(source, 3)
    late = TinyViT(small_config.encoder).eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = late(image)
        late.load_state_dict(source.state_dict())
        after, expected = late(image), source.eval()(image)
    assert torch.equal(after, expected)
    assert not torch.allclose(before, after)


def test_attention_biases_shape_the_embedding(small_config, randomise) -> None:
    encoder = TinyViT(small_config.encoder).eval()
    randomise(encoder, 3)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = encoder(image)
        encoder.layers[1].blocks[0].attn.attention_biases[0, 8] += 3.0
        assert (encoder(image) - before).abs().max() > 1e-4 * before.abs().max()


def test_a_batch_gives_what_each_image_gives_alone(small_config, randomise, relative_error) -> None:
    encoder = TinyViT(small_config.encoder).double().eval()
    randomise(encoder, 3)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        together, alone = encoder(images), torch.cat([encoder(image[None]) for image in images])
    assert relative_error(together, alone) <= 1e-12


@pytest.mark.parametrize(
    ("size", "strides", "side"), [(256, (2, 2, 1), 64), (128, (2, 2, 1), 32), (64, (2, 2, 2), 8), (56, (2, 2, 1), 14)]
)
def test_embedding_side_follows_the_configuration(small_config, size, strides, side) -> None:
    config = replace(small_config.encoder, image_size=size, strides=strides)
    encoder = TinyViT(config).eval()
    assert encoder.image_size == size
    assert encoder.embedding_side == side
    with torch.inference_mode():
        assert encoder(torch.zeros(1, 3, size, size)).shape == (1, 32, side, side)


def test_mobile_sam_s_stem_is_two_strided_convolutions(small_config, randomise, relative_error) -> None:
    encoder = TinyViT(replace(small_config.encoder, stem_stride=4)).double().eval()
    randomise(encoder, 5)
    assert (encoder.config.sides, encoder.embedding_side) == ((16, 8, 4, 4), 4)
    x = image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = encoder.patch_embed.state_dict()
    for index in (0, 2):
        x = functional.conv2d(x, state[f"seq.{index}.c.weight"], stride=2, padding=1)
        mean, var, weight, bias = (
            state[f"seq.{index}.bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = functional.batch_norm(x, mean, var, weight, bias)
        x = functional.gelu(x) if index == 0 else x
    with torch.inference_mode():
        assert x.shape == (2, 8, 16, 16)
        assert relative_error(encoder.patch_embed(image), x) <= 1e-12
        assert encoder(image).shape == (2, 32, 4, 4)


def test_an_image_moves_only_the_embedding_of_its_own_place(small_config, randomise) -> None:
    # Windows of 7 on a map of 16: a change at the bottom right stays within its window's reach, not in the top left.
    encoder = TinyViT(replace(small_config.encoder, depths=(1, 1, 1, 1), window_sizes=(7, 7, 7, 7), image_size=128))
    randomise(encoder.eval(), 3)
    image = torch.zeros(1, 3, 128, 128)
    changed = image.clone()
    changed[..., 124:, 124:] = 1.0
    with torch.inference_mode():
        moved = (encoder(changed) - encoder(image)).abs().amax(dim=1)[0]
    assert moved[-1, -1] > 0
    assert moved[:10, :10].max() == 0


def test_images_of_another_size_are_refused(small_config) -> None:
    with pytest.raises(ValueError, match="expected images of 64 x 64"):
        TinyViT(small_config.encoder)(torch.zeros(1, 3, 128, 128))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"depths": (1, 1)}, "one entry a stage"),
        ({"strides": (2, 2)}, "strides needs 3 entries"),
        ({"num_heads": (1, 3, 2, 4)}, "must divide embed_dims"),
        ({"image_size": 66}, "image_size 66 is not a multiple of the total stride 4"),
        ({"image_size": 72, "stem_stride": 4}, "image_size 72 is not a multiple of the total stride 16"),
        ({"stem_stride": 2}, "stem_stride must be 1 or 4, got 2"),
    ],
)
def test_configurations_that_cannot_be_built_are_refused(small_config, change, text) -> None:
    with pytest.raises(ValueError, match=text):
        replace(small_config.encoder, **change)
