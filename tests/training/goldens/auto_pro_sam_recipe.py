"""The sizes, weights and inputs of the AutoProSAM goldens, shared by the script that makes them and the test.

Only additions, products, square roots and uniform draws are used, so every platform gets the same bits.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from samsdk_training.models.auto_pro_sam_config import AutoProSamConfig
from samsdk_training.models.vit import VitConfig
from samsdk_training.models.vit3d import VolumeEncoder
from samsdk_training.models.volume_prompts import AggregatingDecoder, PromptUNet

SEED = 20261122
# Windows of 4 in a grid of 8: each is cut by the shift. Tables of 27 and 31 rows become 7.
CONFIG = AutoProSamConfig(
    crop=(32, 32, 32),
    classes=3,
    upsampling=4,
    vit=VitConfig(image_size=256, embed_dim=24, depth=12, num_heads=3, global_blocks=(2, 5, 8, 11), out_channels=8),
    window=4,
    generator_widths=(4, 8),
    decoder_width=6,
)
# Of the generator alone, whose five levels need a larger grid.
GENERATOR_WIDTHS = (4, 8, 16, 32, 40)
GENERATOR_SIDE = 32


def crop() -> NDArray[np.float32]:
    """A ball, a slab and a ramp along each axis of another slope, with noise: [1, 1, 32, 32, 32]."""
    z, y, x = np.mgrid[0:32, 0:32, 0:32]
    ball = ((z - 12) ** 2 + (y - 18) ** 2 + (x - 20) ** 2) < 64
    slab = (y > 24) * 0.5
    ramp = (2 * z - y + 3 * x) / 64
    noise = np.random.default_rng(SEED).random((32, 32, 32))
    return (ball + slab + ramp + 0.2 * noise).astype(np.float32)[None, None]


def feature() -> NDArray[np.float32]:
    """A map for the generator: [1, 8, 32, 32, 32]."""
    shape = (1, CONFIG.vit.out_channels, *(GENERATOR_SIDE,) * 3)
    return (2 * np.random.default_rng((SEED, 1)).random(shape) - 1).astype(np.float32)


def weights() -> dict[str, dict[str, NDArray[np.float32]]]:
    """Draw every tensor of encoder, generator and decoder, each from its own seed; nothing stays as in a new model."""
    channels = CONFIG.vit.out_channels
    with torch.device("meta"):
        parts = {
            "encoder": VolumeEncoder(CONFIG),
            "generator": PromptUNet(channels, GENERATOR_WIDTHS),
            "decoder": AggregatingDecoder(channels, CONFIG.decoder_width, CONFIG.classes),
        }
    return {
        name: {
            key: _draw(key, tuple(tensor.shape), (SEED, place, index))
            for index, (key, tensor) in enumerate(sorted(part.state_dict().items()))
        }
        for place, (name, part) in enumerate(parts.items(), start=2)
    }


def _draw(key: str, shape: tuple[int, ...], seed: tuple[int, ...]) -> NDArray[np.float32]:
    unit = 2 * np.random.default_rng(seed).random(shape) - 1  # in [-1, 1)
    if "rel_pos" in key or key in ("pos_embed", "depth_embed"):
        values = 0.5 * unit
    elif len(shape) > 1:
        values = unit * np.sqrt(3 / np.prod(shape[1:]))
    elif key.endswith("weight"):
        values = 1 + 0.3 * unit
    else:
        values = 0.2 * unit
    return values.astype(np.float32)


def sample(name: str, array: NDArray[np.floating]) -> NDArray[np.floating]:
    """What is kept of an array [1, C, ...]: no step shares a factor with the windows, so that each place is met."""
    step = {"logits": 5, "prompt": 7}.get(name, 3)
    return array[0, :, ::step, ::step, ::step]


def digest() -> str:
    """Hash of all that is drawn, to tell a changed random generator from a wrong model."""
    total = hashlib.sha256()
    for name, part in sorted(weights().items()):
        for key in sorted(part):
            total.update(f"{name}.{key}".encode())
            total.update(part[key].tobytes())
    total.update(crop().tobytes())
    total.update(feature().tobytes())
    return total.hexdigest()
