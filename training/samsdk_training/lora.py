"""Low-rank adaptation: pairs of small matrices that are trained beside frozen weights, and merge into them exactly.

After LoRA (Hu et al., 2021, https://arxiv.org/abs/2106.09685) as SAMed applies it to Segment Anything (Zhang and Liu,
2023, https://github.com/hitachinsk/SAMed, MIT). A pair is a parametrization of the weight that it belongs to, so that
whatever reads the weight gets the sum: a layer, a fused kernel, or a rewritten graph. Everything that adds a pair to a
weight, in training or in merging, does it by `add_product`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samsdk.errors import SamsdkError
from samsdk_training.models import tiny_vit, transformer, vit
from samsdk_training.models.adapters import Adapter

TARGETS = ("none", "qv", "qkv", "linear")
_PARTS = "qkv"
_ENCODER, _DECODER = "image_encoder", "mask_decoder"


class LoraError(SamsdkError, ValueError):
    """Low-rank weights cannot be added, trained, merged or read."""


@dataclass(frozen=True)
class LoraConfig:
    """Which weights get pairs, and of what size. The defaults are SAMed's.

    Targets are `none`, `qv` or `qkv` (the attentions' projections of these names), or `linear` (every linear layer and
    1 x 1 convolution, but for those in SAM-Med2D's adapters; the one for encoders without attention).

    Attributes:
        rank: Rows of A and columns of B.
        alpha: The product is scaled by alpha / rank; None for the rank, so by 1.
        encoder: Targets in the image encoder.
        decoder: Targets in the mask decoder.

    Raises:
        ValueError: A value is not one of those.
    """

    rank: int = 4
    alpha: float | None = None
    encoder: str = "qv"
    decoder: str = "none"

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"rank: expected a whole number of at least 1, got {self.rank!r}")
        number = type(self.alpha) in (int, float) and math.isfinite(self.alpha)  # type: ignore[arg-type]
        if self.alpha is not None and not (number and self.alpha > 0):
            raise ValueError(f"alpha: expected None or a number above 0, got {self.alpha!r}")
        for name, targets in (("encoder", self.encoder), ("decoder", self.decoder)):
            if targets not in TARGETS:
                raise ValueError(f"{name}: expected targets out of {', '.join(TARGETS)}, got {targets!r}")

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


@dataclass(frozen=True)
class LoraSite:
    """Where one pair of matrices belongs.

    Attributes:
        weight: State-dict key of the weight, of a linear layer or a 1 x 1 convolution.
        part: `q`, `k` or `v` where one weight projects to all three; None for the whole weight.
        groups: Into how many groups of [q | k | v] the rows of such a weight are laid out: 1 in SAM's ViT, where all q
            come first; the number of heads in TinyViT, where the heads come one after the other.
    """

    weight: str
    part: str | None = None
    groups: int = 1

    @property
    def name(self) -> str:
        """The site in one word, such as `image_encoder.blocks.0.attn.qkv.weight[q]`."""
        return self.weight if self.part is None else f"{self.weight}[{self.part}]"

    def rows(self, weight: Tensor) -> Tensor:
        """The rows of a weight that the pair is added to, as a view [groups, rows, in]."""
        # Views, never copies: what is added to them must reach the weight.
        if self.part is None:
            return weight.view(1, len(weight), -1)
        rows = len(weight) // (len(_PARTS) * self.groups)
        return weight.view(self.groups, len(_PARTS), rows, -1)[:, _PARTS.index(self.part)]

    def problem(self, weight: Tensor, a: Tensor, b: Tensor) -> str | None:
        """What keeps a pair from being added to a weight; None if nothing does."""
        groups, rows, width = self.rows(weight).shape
        got_a, got_b = tuple(a.shape), tuple(b.shape)
        if len(got_a) == len(got_b) == 2 and (got_b[0], got_a[1]) == (groups * rows, width) and got_a[0] == got_b[1]:
            return None
        return f"expected (r, {width}), ({groups * rows}, r), got {got_a}, {got_b}"


def add_product(weight: Tensor, site: LoraSite, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """Add a pair's product to its rows of a weight: `rows + scale * B A`.

    Args:
        weight: [out, in], or [out, in, 1, 1]; left as it is.
        site: Which of its rows.
        a: [rank, in].
        b: [rows, rank]; of a weight in groups, the rows of the first group come first.
        scale: What the product is multiplied by.

    Returns:
        The sum, of the weight's shape and type. Weights of less than 32 bits are added in 32 and rounded once.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    total = weight.to(wide, copy=True)
    rows = site.rows(total)
    rows += (scale * (b.to(wide) @ a.to(wide))).reshape(rows.shape)
    return total.to(weight.dtype)


def merge_pairs(
    state: Mapping[str, Tensor], pairs: Mapping[LoraSite, tuple[Tensor, Tensor]], scale: float
) -> dict[str, Tensor]:
    """Merge pairs into the weights that they belong to.

    Args:
        state: Tensors by state-dict key; left as they are.
        pairs: A and B by their site.
        scale: What the products are multiplied by.

    Returns:
        All tensors, with the sums in place of the weights of the sites.
    """
    merged = dict(state)
    for site, (a, b) in pairs.items():
        merged[site.weight] = add_product(merged[site.weight], site, a, b, scale)
    return merged


class LowRank(nn.Module):
    """The parametrization of a weight by itself and one pair; a new one leaves the weight as it is.

    Args:
        site: Which rows of the weight.
        weight: The weight.
        config: Rank and scale.
    """

    def __init__(self, site: LoraSite, weight: Tensor, config: LoraConfig) -> None:
        super().__init__()
        groups, rows, width = site.rows(weight).shape
        self.site, self.scale = site, config.scale
        self.a = nn.Parameter(weight.new_empty(config.rank, width))
        self.b = nn.Parameter(weight.new_zeros(groups * rows, config.rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Add the pair to the weight."""
        # Under autocast the product would be rounded to 16 bits before it is added, unlike when it is merged.
        with torch.autocast(weight.device.type, enabled=False):
            return add_product(weight, self.site, self.a, self.b, self.scale)


def lora_sites(model: nn.Module, config: LoraConfig) -> list[LoraSite]:
    """List where a model's pairs belong, the encoder's first, each part in the order of its modules.

    Args:
        model: A `Sam`, on any device; `meta` will do.
        config: The targets.

    Raises:
        LoraError: The model has none of the targets.
    """
    return _sites(model, _ENCODER, config.encoder) + _sites(model, _DECODER, config.decoder)


def has_encoder_attention(model: nn.Module) -> bool:
    """Whether a model's image encoder has attentions, and so the targets `qv` and `qkv`."""
    return any(
        _attention_sites(name, module, "q") for name, module in model.named_modules() if name.startswith(f"{_ENCODER}.")
    )


def _sites(model: nn.Module, root: str, targets: str) -> list[LoraSite]:
    if targets == "none":
        return []
    modules = [(name, module) for name, module in model.named_modules() if name.startswith(f"{root}.")]
    adapters = tuple(f"{name}." for name, module in modules if isinstance(module, Adapter))
    if targets == "linear":
        sites = [
            LoraSite(f"{name}.weight") for name, one in modules if _is_linear(one) and not name.startswith(adapters)
        ]
    else:
        sites = [site for name, module in modules for site in _attention_sites(name, module, targets)]
    if not sites:
        raise LoraError(f"{root}: this one has no attention, so expected the targets linear or none, got {targets!r}")
    return sites


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _attention_sites(name: str, module: nn.Module, parts: str) -> list[LoraSite]:
    if isinstance(module, transformer.Attention):
        return [LoraSite(f"{name}.{part}_proj.weight") for part in parts]
    if isinstance(module, vit.Attention):
        return [LoraSite(f"{name}.qkv.weight", part) for part in parts]
    if isinstance(module, tiny_vit.WindowAttention):
        return [LoraSite(f"{name}.qkv.weight", part, module.num_heads) for part in parts]
    return []


def retained_adapters(model: nn.Module) -> list[str]:
    """Names of the modules that no weight can take in, because what they compute depends on the data."""
    return [name for name, module in model.named_modules() if isinstance(module, Adapter)]
