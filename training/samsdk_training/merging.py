"""Merging: an adapter and its base become one checkpoint of the base's architecture, without a cost at inference."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

import torch

from samsdk_training.adapter_file import LoraAdapter
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.lora import LoraError, merge_pairs, retained_adapters
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.tuning import Base, load_base, outline


class NotMergeable(LoraError):
    """A model has adapters that no weight can take in, and the caller wants none to be left."""


@dataclass(frozen=True)
class MergeReport:
    """What became of an adapter.

    Attributes:
        rank: Of the pairs.
        scale: Of their products.
        merged: Names of the sites whose pairs went into the weights.
        replaced: Keys of the tensors that took the place of the base's.
        retained: Names of the modules that stay in the graph, because what they compute depends on the data.
    """

    rank: int
    scale: float
    merged: tuple[str, ...]
    replaced: tuple[str, ...]
    retained: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def merge_adapter(adapter: LoraAdapter, base: Base, *, strict: bool = False) -> tuple[Checkpoint, MergeReport]:
    """Merge an adapter into its base. Products and sums are computed in the base's precision, but at least in 32 bits.

    Args:
        adapter: What to merge.
        base: The checkpoint that it was trained on.
        strict: Whether an adapter that has to stay in the graph is an error.

    Returns:
        The merged checkpoint, whose lineage says `merged`, and the report.

    Raises:
        LoraError: The adapter belongs to another base.
        NotMergeable: `strict`, and there is an adapter that has to stay.
        CheckpointError: Base and adapter do not make the model that the adapter describes.
    """
    if adapter.base_sha256 != base.sha256:
        raise LoraError(
            f"the adapter belongs to another base: expected one of sha256 {adapter.base_sha256}, got {base.sha256}"
        )
    config = SamConfig.from_dict(adapter.description["model"])
    retained = retained_adapters(outline(config))
    if strict:
        _expect_none_retained(retained)
    lora, lineage = adapter.tuning.lora, adapter.description["lineage"]
    report = MergeReport(
        rank=lora.rank,
        scale=lora.scale,
        merged=tuple(site.name for site in adapter.pairs),
        replaced=tuple(sorted(adapter.replaced)),
        retained=tuple(retained),
    )
    merged = {
        # What was trained whole alone is a base again, like any other.
        "merged": bool(adapter.pairs),
        "lora": {**adapter.tuning.to_dict(), "scale": lora.scale, "merged": len(report.merged)},
        "base": {"sha256": base.sha256, "lineage": base.checkpoint.lineage},
    }
    # Tensors of the base that the model does not have, of masks that it does without, are not taken along.
    keys = outline(config).state_dict().keys()
    state = {key: tensor for key, tensor in {**base.tensors(config), **adapter.replaced}.items() if key in keys}
    checkpoint = Checkpoint(
        **{**adapter.description, "lineage": {**lineage, **merged}},
        state=merge_pairs(state, adapter.pairs, lora.scale),
    )
    checkpoint.check()
    return checkpoint, report


def refuse_checkpoint(folder: str | os.PathLike[str], *, strict: bool = False) -> NoReturn:
    """Say why a checkpoint alone cannot be merged.

    Args:
        folder: A checkpoint's.
        strict: As in `merge_adapter`.

    Raises:
        LoraError: An adapter was merged into it already, or it holds none: always.
        NotMergeable: As in `merge_adapter`.
        CheckpointError: It is no checkpoint.
    """
    base = load_base(folder)
    retained = retained_adapters(outline(SamConfig.from_dict(base.checkpoint.model)))
    if strict:
        _expect_none_retained(retained)
    stay = f"; its {len(retained)} adapters have to stay in the graph" if retained else ""
    raise LoraError(
        f"there is nothing to merge in the checkpoint {os.fspath(folder)!r}{stay}: give an adapter, and this as base"
    )


def _expect_none_retained(retained: Sequence[str]) -> None:
    if retained:
        raise NotMergeable(
            f"{len(retained)} adapters cannot be merged, because what they compute depends on the data; they stay in "
            f"the graph: {', '.join(retained)}"
        )


def combine(adapters: Sequence[tuple[LoraAdapter, float]]) -> LoraAdapter:
    """Make one adapter that adds the weighted sum of several adapters' products: `sum_k w_k s_k B_k A_k`.

    The sum is exact as an operator: A's and B's are stacked, and the ranks add up. What the tasks do to each other is
    another matter.

    Args:
        adapters: At least one adapter and its weight; all of the same base, model and targets. The description is the
            first one's.

    Raises:
        LoraError: They do not go together, or one has tensors that replace the base's, of which there is no sum.
    """
    first = adapters[0][0]
    for one, _ in adapters:
        if one.replaced:
            raise LoraError("expected adapters of pairs alone; tensors that were trained whole cannot be summed")
        same = (one.base_sha256, one.description["model"]) == (first.base_sha256, first.description["model"])
        if not same or one.pairs.keys() != first.pairs.keys():
            raise LoraError("expected adapters of the same base, model and targets")
    pairs = {}
    for site in first.pairs:
        scaled = [(one.pairs[site], weight * one.tuning.lora.scale) for one, weight in adapters]
        pairs[site] = torch.cat([a for (a, _), _ in scaled]), torch.cat([by * b for (_, b), by in scaled], dim=1)
    parts = [{"weight": weight, "lineage": one.description["lineage"]} for one, weight in adapters]
    tuning = replace(
        first.tuning, lora=replace(first.tuning.lora, rank=sum(one.tuning.lora.rank for one, _ in adapters), alpha=None)
    )
    description = {**first.description, "lineage": {"recipe": "combined adapters", "adapters": parts}}
    return replace(first, tuning=tuning, description=description, pairs=pairs)
