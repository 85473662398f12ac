"""Make `auto_pro_sam.npz`: what the published AutoProSAM computes at a toy size, as the oracle of our own.

    git clone https://github.com/ChengyinLee/AutoProSAM_2024 && git -C AutoProSAM_2024 checkout 50bb75c
    PYTHONPATH=sdk:kernels:training python tests/training/goldens/make_auto_pro_sam_golden.py AutoProSAM_2024

The published code (MIT) runs as it is but for two numbers written into it, which are read as the toy's: the grid of
32 x 32 x 32 tokens that the shift masks are made for, and the width of 768. It needs segment-anything, whose imports of
torchvision are stubbed. Stored are the four maps of the encoder, logits decoded from these maps, and the prompt that
the generator makes of another map; all computed in double precision, subsampled and stored as float32.
"""

import argparse
import sys
import types
from functools import partial
from pathlib import Path

import auto_pro_sam_recipe as recipe
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def published_module(clone: Path, path: str, grid: int, dim: int) -> types.ModuleType:
    """One file of the published code, for this grid and width."""
    text = (clone / path).read_text(encoding="utf-8")
    text = text.replace("H, W, D = 32, 32, 32", f"H, W, D = {grid}, {grid}, {grid}").replace(
        "Conv3d(768,", f"Conv3d({dim},"
    )
    module = types.ModuleType(Path(path).stem)
    exec(compile(text, path, "exec"), module.__dict__)
    return module


def published_encoder(clone: Path) -> nn.Module:
    """The encoder with the arguments that the published code uses, but for the sizes."""
    config, grid = recipe.CONFIG, recipe.CONFIG.grid[0]
    vit = config.vit
    module = published_module(clone, "model/Med_SAM/image_encoder.py", grid, vit.embed_dim)
    return module.ImageEncoderViT_3d_v2(
        depth=vit.depth,
        embed_dim=vit.embed_dim,
        img_size=vit.image_size,
        mlp_ratio=vit.mlp_ratio,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=vit.num_heads,
        patch_size=16,
        patch_depth=grid,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=vit.global_blocks,
        window_size=vit.window_size,
        cubic_window_size=config.window,
        out_chans=vit.out_channels,
        num_slice=16,
    ).double()


def published_generator(clone: Path) -> nn.Module:
    """The auto-prompt generator; its widths are 1, 2, 4, 8 and 10 times the first."""
    # Its packages import files that were not published; without them its modules work.
    for folder in ("model", "model/baselines", "model/baselines/dim3"):
        package = types.ModuleType(folder.replace("/", "."))
        package.__path__ = [str(clone / folder)]
        sys.modules[package.__name__] = package
    from model.baselines.dim3.unet import UNet

    return UNet(
        in_ch=recipe.CONFIG.vit.out_channels,
        base_ch=recipe.GENERATOR_WIDTHS[0],
        num_classes=recipe.CONFIG.vit.out_channels,
        scale=[[2, 2, 2]] * 4,
        kernel_size=[[3, 3, 3]] * 5,
        block="SingleConv",
        norm="in",
    ).double()


def generator_key(ours: str) -> str:
    """The published name of a tensor of the generator."""
    part, *path = ours.split(".")
    if part == "entry":
        return "inc.conv1.weight" if path[0] == "0" else "inc.conv2.conv.conv.weight"
    if part == "head":
        return f"outc.{path[0]}"
    level, unit = int(path[0]) + 1, int(path[1])
    return (
        f"down{level}.conv.{unit + 1}.conv.conv.weight" if part == "down" else f"up{level}.conv.{unit}.conv.conv.weight"
    )


def decoder_key(ours: str) -> str:
    """The published name of a tensor of the decoder."""
    part, *path = ours.split(".")
    if part == "heads":
        return f"mlahead.head{int(path[0]) + 2}.{3 * int(path[1])}.weight"
    return "cls.0.weight" if part == "merge" else "cls.3.weight"


def fill(module: nn.Module, weights: dict[str, np.ndarray]) -> None:
    """Load weights by their published names; the rest is what the published code leaves at its first value."""
    left = module.load_state_dict({name: torch.from_numpy(one) for name, one in weights.items()}, strict=False)
    unused = [name for name in left.missing_keys if not name.endswith((".attn.lr", ".attn_mask"))]
    if unused or left.unexpected_keys:
        raise SystemExit(f"the published code has other tensors: {unused} {left.unexpected_keys}")


def stub_torchvision() -> None:
    """What segment-anything imports of torchvision, none of which takes part."""
    members = {"ops.boxes": ("batched_nms", "box_area"), "transforms.functional": ("resize", "to_pil_image")}
    for name in ("", ".ops", ".ops.boxes", ".transforms", ".transforms.functional"):
        stub = types.ModuleType(f"torchvision{name}")
        for member in members.get(name[1:], ()):
            setattr(stub, member, None)
        sys.modules[stub.__name__] = stub


def encode(encoder: nn.Module, crop: Tensor) -> list[Tensor]:
    """The four maps of a crop [1, 1, D, H, W], the shallowest first."""
    large = functional.interpolate(crop, scale_factor=recipe.CONFIG.upsampling, mode="trilinear")
    deepest, others = encoder(large.repeat(1, 3, 1, 1, 1)[0].transpose(0, 1))
    return [*others, deepest]


def main() -> None:
    """Write the golden beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="folder of the repository")
    clone = parser.parse_args().clone
    stub_torchvision()
    config = recipe.CONFIG
    decoding = published_module(clone, "model/Med_SAM/mask_decoder.py", 0, 0)
    encoder, generator = published_encoder(clone), published_generator(clone)
    decoder = decoding.VIT_MLAHead_h(
        mla_channels=config.vit.out_channels, mlahead_channels=config.decoder_width, num_classes=config.classes
    ).double()
    weights = recipe.weights()
    fill(encoder, weights["encoder"])
    fill(generator, {generator_key(key): one for key, one in weights["generator"].items()})
    fill(decoder, {decoder_key(key): one for key, one in weights["decoder"].items()})

    crop, feature = torch.from_numpy(recipe.crop()).double(), torch.from_numpy(recipe.feature()).double()
    with torch.inference_mode():
        maps = encode(encoder, crop)
        raw = functional.interpolate(crop.permute(0, 1, 3, 4, 2), scale_factor=0.5, mode="trilinear")
        logits = decoder([*maps, raw], 2, 2).permute(0, 1, 4, 2, 3)
        prompt = generator(feature)
    arrays = {f"map_{number}": one.numpy() for number, one in enumerate(maps, start=1)}
    arrays |= {"logits": logits.numpy(), "prompt": prompt.numpy()}
    kept = {name: recipe.sample(name, one).astype(np.float32) for name, one in arrays.items()}
    inputs = np.array(recipe.digest())
    np.savez_compressed(Path(__file__).with_name("auto_pro_sam.npz"), inputs_sha256=inputs, **kept)


if __name__ == "__main__":
    main()
