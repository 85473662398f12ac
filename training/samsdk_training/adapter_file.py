"""Adapters: what a tuning added to a base checkpoint and replaced in it, in a folder of a few megabytes.

The folder holds `adapter.safetensors` and `adapter.json`. The latter has the description of the whole model that base
and adapter are together, and the SHA-256 of the base's tensor file, as the base's own `model.json` has it.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from samsdk.io.atomic import atomic_folder
from samsdk.io.wheels import file_sha256
from samsdk_training.checkpoints import Checkpoint, state_problems
from samsdk_training.lora import LoraError, LoraSite, lora_sites
from samsdk_training.models.sam_config import SamConfig
from samsdk_training.tensor_file import save_tensors
from samsdk_training.tuning import Base, Tuning, outline, split_state

FORMAT = 1
METHOD = "lora"
TENSORS_FILE = "adapter.safetensors"
JSON_FILE = "adapter.json"

_TUNING = ("rank", "alpha", "targets", "whole")
_FIELDS = {"format", "method", "scale", *_TUNING, "replaced", "base_sha256", "checkpoint", "tensors"}
# What a description says of the model, and what of that no description may lack.
_SECTIONS = tuple(one.name for one in fields(Checkpoint) if one.name != "state")
_REQUIRED = {
    one.name for one in fields(Checkpoint) if one.name in _SECTIONS and one.default is one.default_factory is MISSING
}
Pairs = dict[LoraSite, tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """What a tuning added and replaced; not valid without its base.

    Attributes:
        tuning: What was trained.
        base_sha256: Of the base's tensor file.
        description: Everything that `Checkpoint` says of base and adapter together but the tensors, by its names.
        pairs: A and B by their site.
        replaced: Tensors by state-dict key that take the place of the base's.
    """

    tuning: Tuning
    base_sha256: str
    description: dict[str, Any]
    pairs: Pairs = field(repr=False)
    replaced: dict[str, Tensor] = field(repr=False)

    @classmethod
    def of(cls, checkpoint: Checkpoint, tuning: Tuning, base: Base) -> "LoraAdapter":
        """Take out of a tuned model what is not its base's.

        Args:
            checkpoint: Description of the model, with the state dict that it has in training.
            tuning: What was trained.
            base: What it was trained on.

        Raises:
            LoraError: The state is not of this tuning, holds NaN or infinity, or differs from the base in a tensor that
                the tuning leaves alone; the text lists every problem.
        """
        config = SamConfig.from_dict(checkpoint.model)
        sites = lora_sites(outline(config), tuning.lora)
        try:
            plain, pairs = split_state({key: tensor.detach().cpu() for key, tensor in checkpoint.state.items()}, sites)
        except KeyError as error:
            raise LoraError(f"the state is not of a model with this tuning: {error} is missing") from None
        replaced = {key: tensor for key, tensor in plain.items() if tuning.is_whole(key)}
        own = base.tensors(config)
        problems = [
            f"differs from the base, but was not to be trained: {key}"
            for key in sorted(plain.keys() - replaced.keys())
            if key not in own or not _same(plain[key], own[key])
        ]
        description = {name: getattr(checkpoint, name) for name in _SECTIONS}
        adapter = cls(tuning, base.sha256, description, pairs, replaced)
        _raise_if("the model cannot be kept as an adapter:", [*problems, *adapter.problems()])
        return adapter

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by the names that they have in the file."""
        pairs = {
            f"{site.name}.{part}": one
            for site, pair in self.pairs.items()
            for part, one in zip("ab", pair, strict=True)
        }
        return {**pairs, **self.replaced}

    def problems(self) -> list[str]:
        """List what does not fit to the model, is not finite, or is there although the tuning does not have it."""
        model = outline(SamConfig.from_dict(self.description["model"]))
        expected, rank = model.state_dict(), self.tuning.lora.rank
        problems = [
            f"wrong shape: {site.name}: {problem}"
            for site, (a, b) in self.pairs.items()
            if (problem := site.problem(expected[site.weight], a, b))
        ]
        problems += [f"not of rank {rank}: {site.name}" for site, (a, _) in self.pairs.items() if len(a) != rank]
        whole = {key: tensor for key, tensor in expected.items() if self.tuning.is_whole(key)}
        others = {key: tensor for key, tensor in expected.items() if key not in whole}
        problems += state_problems(self.description["model"], {**others, **self.replaced})
        problems += [f"unexpected: {key}" for key in sorted(self.replaced.keys() & others.keys())]
        problems += [
            f"not finite: {name} ({count} of {tensor.numel()} values)"
            for name, tensor in self.tensors().items()
            if tensor.is_floating_point() and (count := int((~tensor.isfinite()).sum()))
        ]
        return problems


def save_adapter(adapter: LoraAdapter, folder: str | os.PathLike[str]) -> None:
    """Write an adapter so that the folder holds all of it or is not touched; see `atomic_folder`.

    Args:
        adapter: What to write.
        folder: Target folder; missing parents are made. It may hold an earlier adapter, but nothing else.

    Raises:
        LoraError: Tensors do not fit or are not finite, the description is not JSON, or the target holds other files.
        OutputError: The system refuses the write.
    """
    _raise_if("the adapter cannot be saved:", adapter.problems())
    target = Path(folder)
    if target.exists() or target.is_symlink():
        replaceable = target.is_dir() and not target.is_symlink()
        if not replaceable or any(path.name not in (JSON_FILE, TENSORS_FILE) for path in target.iterdir()):
            raise LoraError(f"cannot write the adapter {str(target)!r}: other files are there; choose another folder")
    with atomic_folder(target) as partial:
        save_tensors(adapter.tensors(), partial / TENSORS_FILE)
        content = _content(adapter, file_sha256(partial / TENSORS_FILE))
        try:
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise LoraError(f"the adapter's description is not plain JSON: {error}") from error
        (partial / JSON_FILE).write_text(text + "\n", encoding="utf-8")


def load_adapter(folder: str | os.PathLike[str]) -> LoraAdapter:
    """Read an adapter and verify all of it but that the base is there.

    Raises:
        LoraError: A file is missing or damaged, the format is not known, or the tensors are not those of the
            description or not finite; the text lists every problem.
    """
    source = Path(folder)
    try:
        content = json.loads((source / JSON_FILE).read_bytes())
        _raise_if(f"{str(source / JSON_FILE)!r} is not an adapter's description:", _content_problems(content))
        found = file_sha256(source / TENSORS_FILE)
        if found != content["tensors"]["sha256"]:
            raise LoraError(
                f"{str(source / TENSORS_FILE)!r} is damaged or belongs to another adapter: expected sha256 "
                f"{content['tensors']['sha256']}, got {found}"
            )
        tensors = load_file(source / TENSORS_FILE)
        tuning = Tuning.from_dict({name: content[name] for name in _TUNING})
        if content["scale"] != tuning.lora.scale:
            raise LoraError(f"{str(source / JSON_FILE)!r}: the scale {content['scale']!r} is not alpha / rank")
        sites = lora_sites(outline(SamConfig.from_dict(content["checkpoint"]["model"])), tuning.lora)
    except LoraError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise LoraError(f"{str(source)!r} cannot be read as an adapter: {error}") from error
    names = {f"{site.name}.{part}" for site in sites for part in "ab"} | set(content["replaced"])
    problems = [f"missing: {name}" for name in sorted(names - tensors.keys())]
    problems += [f"unexpected: {name}" for name in sorted(tensors.keys() - names)]
    if not problems:
        pairs = {site: (tensors[f"{site.name}.a"], tensors[f"{site.name}.b"]) for site in sites}
        replaced = {name: tensors[name] for name in content["replaced"]}
        adapter = LoraAdapter(tuning, content["base_sha256"], content["checkpoint"], pairs, replaced)
        problems = adapter.problems()
    _raise_if(f"the tensors of the adapter {str(source)!r} are not those of its description:", problems)
    return adapter


def _content(adapter: LoraAdapter, sha256: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "method": METHOD,
        "scale": adapter.tuning.lora.scale,
        **adapter.tuning.to_dict(),
        "replaced": sorted(adapter.replaced),
        "base_sha256": adapter.base_sha256,
        "checkpoint": adapter.description,
        "tensors": {"file": TENSORS_FILE, "sha256": sha256},
    }


def _content_problems(content: Any) -> list[str]:
    if not isinstance(content, dict):
        return [f"expected an object, got {type(content).__name__}"]
    if (content.get("format"), content.get("method")) != (FORMAT, METHOD):
        return [f"expected format {FORMAT} of {METHOD}, got {content.get('format')!r} of {content.get('method')!r}"]
    problems = [f"missing field: {name}" for name in sorted(_FIELDS - content.keys())]
    problems += [f"unknown field: {name}" for name in sorted(content.keys() - _FIELDS)]
    if problems:
        return problems
    tensors, replaced, described = content["tensors"], content["replaced"], content["checkpoint"]
    if not isinstance(tensors, dict) or not isinstance(tensors.get("sha256"), str):
        problems.append("tensors: expected the sha256 of the tensor file")
    if not isinstance(replaced, list) or not all(isinstance(name, str) for name in replaced):
        problems.append("replaced: expected a list of names")
    if not isinstance(content["base_sha256"], str):
        problems.append("base_sha256: expected the sha256 of the base's tensor file")
    if not isinstance(described, dict) or not _REQUIRED <= described.keys() <= set(_SECTIONS):
        problems.append(f"checkpoint: expected the fields {', '.join(_SECTIONS)}")
    elif not all(isinstance(described[name], dict) for name in _REQUIRED):
        problems.append(f"checkpoint: expected an object in each of the fields {', '.join(sorted(_REQUIRED))}")
    return problems


def _raise_if(summary: str, problems: Iterable[str]) -> None:
    listed = list(problems)
    if listed:
        raise LoraError("\n  ".join([summary, *listed]))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
