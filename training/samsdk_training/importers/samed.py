"""SAMed's low-rank weights, merged onto a base.

After SAMed (Zhang and Liu, 2023, https://github.com/hitachinsk/SAMed, MIT). Its files hold pairs of matrices A and B,
whose product is added to rows of a projection of the base (there is no further scale), and the parts that were trained
whole. The merged model has the base's architecture, with one mask for the background and one for each class.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from samsdk_training.models.sam import SamConfig
from samsdk_training.models.vit import VitConfig

MASK_TOKENS = "mask_decoder.mask_tokens.weight"
_WHOLE = ("prompt_encoder.", "mask_decoder.")
_TRANSFORMER = "mask_decoder.transformer."
# Of the decoder's attentions in each layer; they are numbered with q before v, layer by layer.
_ATTENTIONS = {
    "sa": "self_attn",
    "cti": "cross_attn_token_to_image",
    "cit": "cross_attn_image_to_token",
}


@dataclass(frozen=True)
class LoraSite:
    """Where one pair of matrices belongs.

    Attributes:
        a: Key of A, [rank, in].
        b: Key of B, [out, rank].
        weight: Key of the projection's weight in the base.
        part: Which part of a fused projection's rows, 0 q, 1 k, 2 v; None where the projection is not fused.
    """

    a: str
    b: str
    weight: str
    part: int | None = None

    def rows(self, weight: Tensor) -> Tensor:
        """The rows of a weight that the pair is added to, as a view."""
        return weight if self.part is None else weight.tensor_split(3)[self.part]


def lora_sites(config: SamConfig, decoder: bool) -> list[LoraSite]:
    """List where a SAMed file's pairs belong.

    Args:
        config: Architecture of the base, with a ViT encoder.
        decoder: Whether the decoder's transformer has pairs too (SAMed_s).
    """
    encoder = config.encoder
    if not isinstance(encoder, VitConfig):
        raise TypeError(f"SAMed's weights belong to a ViT encoder, got {type(encoder).__name__}")
    sites = [
        LoraSite(f"w_a_{number:03d}", f"w_b_{number:03d}", f"image_encoder.blocks.{number // 2}.attn.qkv.weight", part)
        for number, part in zip(range(2 * encoder.depth), [0, 2] * encoder.depth, strict=True)
    ]
    return sites + list(_decoder_sites(config.decoder.depth)) if decoder else sites


def _decoder_sites(depth: int) -> Iterator[LoraSite]:
    for short, attention in _ATTENTIONS.items():
        for number in range(2 * depth):
            projection = f"{_TRANSFORMER}layers.{number // 2}.{attention}.{'qv'[number % 2]}_proj.weight"
            yield LoraSite(f"{short}_a_{number:03d}", f"{short}_b_{number:03d}", projection)
    for part in "qv":
        projection = f"{_TRANSFORMER}final_attn_token_to_image.{part}_proj.weight"
        yield LoraSite(f"fati_{part}a", f"fati_{part}b", projection)


def lora_problems(file: Mapping[str, Tensor], base: Mapping[str, Tensor], sites: list[LoraSite]) -> list[str]:
    """List what keeps a SAMed file's pairs from being merged; of what was trained whole, only what is too much.

    Args:
        file: The file's tensors by key.
        base: The base's tensors by key.
        sites: From `lora_sites`.

    Returns:
        One text for each missing, unexpected or wrongly shaped matrix, and for each other tensor that does not belong.
    """
    known = {key for site in sites for key in (site.a, site.b)}
    problems = [f"missing: {key}" for key in sorted(known - set(file))]
    problems += [
        f"unexpected: {key} {tuple(file[key].shape)}"
        for key in sorted(set(file) - known)
        if not key.startswith(_WHOLE) or (_has_decoder(sites) and key.startswith(_TRANSFORMER))
    ]
    for site in sites:
        if site.a in file and site.b in file:
            a, b = tuple(file[site.a].shape), tuple(file[site.b].shape)
            out, width = site.rows(base[site.weight]).shape
            if len(a) != 2 or len(b) != 2 or (b[0], a[1]) != (out, width) or a[0] != b[1]:
                problems.append(f"wrong shape: {site.a} and {site.b}: expected (r, {width}), ({out}, r), got {a}, {b}")
    return problems


def parts(file: Mapping[str, Tensor], base: Mapping[str, Tensor], sites: list[LoraSite]) -> dict[str, Tensor]:
    """Put together the merged model's tensors, without the products of the pairs.

    Args:
        file: The file's tensors by key.
        base: The base's tensors by key.
        sites: From `lora_sites`.

    Returns:
        The base's encoder (and transformer, if that has sites), and the file's prompt encoder and mask decoder.
    """
    kept = ("image_encoder.", _TRANSFORMER) if _has_decoder(sites) else ("image_encoder.",)
    whole = {key: tensor for key, tensor in file.items() if key.startswith(_WHOLE)}
    return whole | {key: tensor for key, tensor in base.items() if key.startswith(kept)}


def _has_decoder(sites: list[LoraSite]) -> bool:
    return any(site.weight.startswith(_TRANSFORMER) for site in sites)


def merge_lora(file: Mapping[str, Tensor], state: Mapping[str, Tensor], sites: list[LoraSite]) -> dict[str, Tensor]:
    """Add each pair's product to its rows, in single precision.

    Args:
        file: The file's tensors by key; `lora_problems` found none.
        state: From `parts`; its tensors are left as they are.
        sites: From `lora_sites`.

    Returns:
        The merged model's tensors by key.
    """
    merged = dict(state) | {weight: state[weight].float().clone() for weight in {site.weight for site in sites}}
    for site in sites:
        site.rows(merged[site.weight]).add_(file[site.b].float() @ file[site.a].float())
    return merged
