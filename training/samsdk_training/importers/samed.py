"""SAMed's low-rank weights, merged onto a base.

After SAMed (Zhang and Liu, 2023, https://github.com/hitachinsk/SAMed, MIT). Its files hold pairs of matrices A and B,
whose product is added to rows of a projection of the base (there is no further scale), and the parts that were trained
whole. The merged model has the base's architecture, with one mask for the background and one for each class.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from samsdk_training.lora import LoraSite, merge_pairs
from samsdk_training.models.sam_config import SamConfig
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
class SamedPair:
    """One pair of matrices of a file.

    Attributes:
        a: Key of A, [rank, in].
        b: Key of B, [out, rank].
        site: Where it belongs in the base.
    """

    a: str
    b: str
    site: LoraSite


def samed_pairs(config: SamConfig, decoder: bool) -> list[SamedPair]:
    """List a SAMed file's pairs.

    Args:
        config: Architecture of the base, with a ViT encoder.
        decoder: Whether the decoder's transformer has pairs too (SAMed_s).
    """
    encoder = config.encoder
    if not isinstance(encoder, VitConfig):
        raise TypeError(f"SAMed's weights belong to a ViT encoder, got {type(encoder).__name__}")
    sites = [
        LoraSite(f"image_encoder.blocks.{block}.attn.qkv.weight", part)
        for block in range(encoder.depth)
        for part in "qv"
    ]
    pairs = [SamedPair(f"w_a_{number:03d}", f"w_b_{number:03d}", site) for number, site in enumerate(sites)]
    return pairs + list(_decoder_pairs(config.decoder.depth)) if decoder else pairs


def _decoder_pairs(depth: int) -> Iterator[SamedPair]:
    for short, attention in _ATTENTIONS.items():
        for number in range(2 * depth):
            site = LoraSite(f"{_TRANSFORMER}layers.{number // 2}.{attention}.{'qv'[number % 2]}_proj.weight")
            yield SamedPair(f"{short}_a_{number:03d}", f"{short}_b_{number:03d}", site)
    for part in "qv":
        site = LoraSite(f"{_TRANSFORMER}final_attn_token_to_image.{part}_proj.weight")
        yield SamedPair(f"fati_{part}a", f"fati_{part}b", site)


def lora_problems(file: Mapping[str, Tensor], base: Mapping[str, Tensor], pairs: list[SamedPair]) -> list[str]:
    """List what keeps a SAMed file's pairs from being merged; of what was trained whole, only what is too much.

    Args:
        file: The file's tensors by key.
        base: The base's tensors by key.
        pairs: From `samed_pairs`.

    Returns:
        One text for each missing, unexpected or wrongly shaped matrix, and for each other tensor that does not belong.
    """
    known = {key for pair in pairs for key in (pair.a, pair.b)}
    problems = [f"missing: {key}" for key in sorted(known - set(file))]
    problems += [
        f"unexpected: {key} {tuple(file[key].shape)}"
        for key in sorted(set(file) - known)
        if not key.startswith(_WHOLE) or (_has_decoder(pairs) and key.startswith(_TRANSFORMER))
    ]
    for pair in pairs:
        if pair.a in file and pair.b in file:
            problem = pair.site.problem(base[pair.site.weight], file[pair.a], file[pair.b])
            if problem:
                problems.append(f"wrong shape: {pair.a} and {pair.b}: {problem}")
    return problems


def parts(file: Mapping[str, Tensor], base: Mapping[str, Tensor], pairs: list[SamedPair]) -> dict[str, Tensor]:
    """Put together the merged model's tensors, without the products of the pairs.

    Args:
        file: The file's tensors by key.
        base: The base's tensors by key.
        pairs: From `samed_pairs`.

    Returns:
        The base's encoder (and transformer, if that has sites), and the file's prompt encoder and mask decoder.
    """
    kept = ("image_encoder.", _TRANSFORMER) if _has_decoder(pairs) else ("image_encoder.",)
    whole = {key: tensor for key, tensor in file.items() if key.startswith(_WHOLE)}
    return whole | {key: tensor for key, tensor in base.items() if key.startswith(kept)}


def _has_decoder(pairs: list[SamedPair]) -> bool:
    return any(pair.site.weight.startswith(_TRANSFORMER) for pair in pairs)


def merge_lora(file: Mapping[str, Tensor], state: Mapping[str, Tensor], pairs: list[SamedPair]) -> dict[str, Tensor]:
    """Add each pair's product to its rows, in single precision.

    Args:
        file: The file's tensors by key; `lora_problems` found none.
        state: From `parts`; its tensors are left as they are.
        pairs: From `samed_pairs`.

    Returns:
        The merged model's tensors by key.
    """
    wide = {pair.site.weight: state[pair.site.weight].float() for pair in pairs}
    return merge_pairs({**state, **wide}, {pair.site: (file[pair.a], file[pair.b]) for pair in pairs}, scale=1.0)
