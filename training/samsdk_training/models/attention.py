"""Which implementation an image encoder's attentions run with: a matter of the machine, not of the checkpoint."""

from typing import get_args

from torch import nn

from samsdk_kernels.attention import Implementation
from samsdk_training.models.tiny_vit import WindowAttention
from samsdk_training.models.vit import Attention


def use_attention(model: nn.Module, implementation: Implementation) -> None:
    """Choose what the attentions of a ViT or TinyViT run with, from the next pass on.

    Both compute the same, up to rounding. A new model has "plain"; neither state dict nor configuration knows of this.

    Args:
        model: A model or an encoder, changed in place.
        implementation: "fused" for the kernels of `samsdk_kernels.attention`, which need triton, a CUDA device and at
            most single precision, and raise when they are called without; "plain" for torch's own operators anywhere.

    Raises:
        ValueError: The implementation is unknown, or the model has no such attention.
    """
    if implementation not in get_args(Implementation):
        raise ValueError(f"expected an implementation out of {get_args(Implementation)}, got {implementation!r}")
    attentions = [module for module in model.modules() if isinstance(module, Attention | WindowAttention)]
    if not attentions:
        raise ValueError(f"{type(model).__name__} has no attention of a ViT or TinyViT to run {implementation}")
    for attention in attentions:
        attention.implementation = implementation
