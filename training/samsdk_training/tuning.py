"""What of a model a recipe trains (pairs of low-rank matrices, and parts that are trained whole), and on which base."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from samsdk.manifest import VOLUME
from samsdk_training.checkpoints import JSON_FILE, Checkpoint, CheckpointError, load_checkpoint
from samsdk_training.lora import LoraConfig, LoraError, LoraSite, LowRank, has_encoder_attention, lora_sites
from samsdk_training.models.config import expect_fields
from samsdk_training.models.sam import Sam, build_sam
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.resize import fit_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuning:
    """What of a model is trained; everything else is frozen.

    Attributes:
        lora: Weights that get pairs.
        whole: Patterns of the state-dict keys of what is trained whole, as `mask_decoder.*`.
    """

    lora: LoraConfig = field(default_factory=LoraConfig)
    whole: tuple[str, ...] = ()

    def is_whole(self, key: str) -> bool:
        """Whether the tensor of this key is trained whole."""
        return any(fnmatchcase(key, pattern) for pattern in self.whole)

    def fitted(self, model: SamConfig) -> "Tuning":
        """The same for a model of this shape: `qv` and `qkv` become `linear` in an encoder without attention."""
        if self.lora.encoder not in ("qv", "qkv") or has_encoder_attention(outline(model)):
            return self
        logger.info("the encoder has no attention: its linear layers and 1 x 1 convolutions get the pairs")
        return replace(self, lora=replace(self.lora, encoder="linear"))

    def to_dict(self) -> dict[str, Any]:
        """The setup as JSON types."""
        lora = self.lora
        return {
            "rank": lora.rank,
            "alpha": lora.alpha,
            "targets": {"encoder": lora.encoder, "decoder": lora.decoder},
            "whole": list(self.whole),
        }

    @classmethod
    def from_dict(cls, values: object) -> "Tuning":
        """Rebuild a setup from what `to_dict` returned.

        Raises:
            ValueError: A field is missing, unknown or not valid.
        """
        given = expect_fields("lora", values, {"rank", "alpha", "targets", "whole"})
        targets = expect_fields("targets", given["targets"], {"encoder", "decoder"})
        if not isinstance(given["whole"], list) or not all(isinstance(one, str) for one in given["whole"]):
            raise ValueError(f"whole: expected a list of patterns, got {given['whole']!r}")
        return cls(LoraConfig(given["rank"], given["alpha"], **targets), tuple(given["whole"]))


def tune(model: nn.Module, tuning: Tuning) -> list[LoraSite]:
    """Freeze a model but for what is to be trained, and give it its pairs; what it computes stays the same.

    Args:
        model: A `Sam`; changed in place. A is drawn from torch's own generator, B is 0.
        tuning: What is to be trained.

    Returns:
        The sites of the pairs.

    Raises:
        LoraError: The model has pairs already, none of the targets, or nothing that a pattern means; or a weight is to
            be trained both ways.
    """
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise LoraError("this model has low-rank weights already; begin with its base")
    sites = lora_sites(model, tuning.lora)
    keys = list(model.state_dict())
    unused = [one for one in tuning.whole if not any(fnmatchcase(key, one) for key in keys)]
    if unused:
        raise LoraError(f"whole: the model has nothing of the name {', '.join(unused)}")
    twice = sorted({site.weight for site in sites if tuning.is_whole(site.weight)})
    if twice:
        raise LoraError(f"expected each weight to be trained whole or by pairs, not both: {', '.join(twice)}")
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(tuning.is_whole(key))
    # All weights first: under its key, a weight with a pair is no parameter any more.
    weights = {site.weight: model.get_parameter(site.weight) for site in sites}
    for site in sites:
        layer = model.get_submodule(site.weight.removesuffix(".weight"))
        pair = LowRank(site, weights[site.weight], tuning.lora)
        # Unsafe only in that torch does not try it out first: the sum has the weight's shape and type.
        parametrize.register_parametrization(layer, "weight", pair, unsafe=True)
    return sites


def trainable_parameters(config: SamConfig, tuning: Tuning) -> int:
    """Count what is trained of a model, without building it.

    Args:
        config: Shape of the model.
        tuning: What is to be trained.
    """
    model = outline(config)
    tune(model, tuning)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def split_state(
    state: Mapping[str, Tensor], sites: list[LoraSite]
) -> tuple[dict[str, Tensor], dict[LoraSite, tuple[Tensor, Tensor]]]:
    """Take a tuned model's state dict apart.

    Args:
        state: As `tune`d models have it.
        sites: Of the model.

    Returns:
        The tensors under the keys that they have without pairs, of weights the frozen ones; and A and B of each site.
    """
    pairs, plain = {}, dict(state)
    seen: dict[str, int] = {}
    for site in sites:
        prefix = f"{site.weight.removesuffix('.weight')}.parametrizations.weight."
        number = seen[site.weight] = seen.get(site.weight, -1) + 1
        pairs[site] = (plain.pop(f"{prefix}{number}.a"), plain.pop(f"{prefix}{number}.b"))
        if number == 0:
            plain[site.weight] = plain.pop(f"{prefix}original")
    return plain, pairs


@dataclass(frozen=True, eq=False)
class Base:
    """A checkpoint that adapters are trained on and belong to; see `load_base`.

    Attributes:
        checkpoint: The checkpoint.
        sha256: Of its tensor file.
    """

    checkpoint: Checkpoint
    sha256: str

    def tensors(self, config: SamConfig) -> dict[str, Tensor]:
        """The tensors, fitted to the shape of a model; parts that are new in it are left out."""
        fitted, drawn = self._fit(config)
        return {key: tensor for key, tensor in fitted.state.items() if key not in drawn}

    def tuned(self, tuning: Tuning, config: SamConfig | None = None) -> Sam:
        """Build the model that training starts with, in training mode, on the CPU.

        Args:
            tuning: What is to be trained.
            config: Shape of the model, as `fit_checkpoint` takes it; None for the base's own.

        Raises:
            CheckpointError: The shapes do not go together.
            LoraError: See `tune`.
        """
        wanted = config or SamConfig.from_dict(self.checkpoint.model)
        fitted, _ = self._fit(wanted)
        model = build_sam(wanted)
        model.load_state_dict(fitted.state)
        tune(model, tuning)
        return model

    def _fit(self, config: SamConfig) -> tuple[Checkpoint, set[str]]:
        fitted = fit_checkpoint(self.checkpoint, config)
        if fitted is self.checkpoint:
            return fitted, set()
        return fitted, set(fitted.lineage["resized"]["drawn"])


def load_base(folder: str | os.PathLike[str]) -> Base:
    """Read a checkpoint to train an adapter on, or to merge one into.

    Raises:
        CheckpointError: See `load_checkpoint`; or the model is for volumes.
        LoraError: An adapter was merged into this checkpoint. A second one would be trained on, or added to, weights
            that are no one's base.
    """
    checkpoint, source = load_checkpoint(folder), Path(folder)
    if checkpoint.task == VOLUME:
        raise CheckpointError(f"{str(source)!r} is a model for volumes, expected one for images")
    if checkpoint.lineage.get("merged"):
        raise LoraError(
            f"low-rank weights were merged into {str(source)!r} already: it is neither a base to train on nor one to "
            f"merge into again; take the checkpoint that they were merged into{_known_base(checkpoint.lineage)}"
        )
    # A slim checkpoint's numbers are of 16 bits; what is trained on them is of 32.
    state = {key: one.float() if one.is_floating_point() else one for key, one in checkpoint.state.items()}
    # load_checkpoint has compared this with the file.
    sha256 = json.loads((source / JSON_FILE).read_bytes())["tensors"]["sha256"]
    return Base(replace(checkpoint, state=state), sha256)


def _known_base(lineage: Mapping[str, Any]) -> str:
    base = lineage.get("base")
    return f", of sha256 {base['sha256']}" if isinstance(base, Mapping) and "sha256" in base else ""


def outline(config: SamConfig) -> Sam:
    """A model without values, on the meta device, where it costs no memory and no initialisation."""
    with torch.device("meta"):
        return build_sam(config)
