"""Reading the files in which others publish weights. This is the only place that opens a `.pth` file."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from samsdk_training.checkpoints import CheckpointError

# Keys under which training scripts keep the model's tensors, beside the optimiser and the epoch.
_WRAPPERS = ("model", "state_dict")
# What torch's DataParallel puts before every key.
_PARALLEL = "module."


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """What one file of weights holds.

    Attributes:
        name: The file's own name.
        sha256: Of the whole file.
        state: The model's tensors by key.
        ignored: What lies beside them and is not read, such as an optimiser's state.
    """

    name: str
    sha256: str
    state: dict[str, Tensor]
    ignored: tuple[str, ...]


def read_weights(path: str | os.PathLike[str], hint: str = "") -> WeightsFile:
    """Read a file of tensors; code in it is never run (`weights_only=True`).

    Args:
        path: A torch file: a state dict, or one under the key `model` or `state_dict`; the keys may have the prefix of
            `DataParallel`.
        hint: What to do if there is no such file.

    Raises:
        CheckpointError: The file is missing, truncated or no torch file, holds code or anything but tensors, or a
            tensor holds NaN or infinity; the text lists everything.
    """
    source = Path(path)
    try:
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read the weights {str(source)!r}: {error.strerror or error}{hint}") from error
    except Exception as error:
        # On bytes that are no torch file its unpickler raises whatever the bytes lead it to.
        raise CheckpointError(f"{str(source)!r} is not a torch file that holds only tensors: {error}") from error
    content, ignored = _unwrap(content)
    return WeightsFile(source.name, sha256, _tensors(source, content), ignored)


def _unwrap(content: object) -> tuple[object, tuple[str, ...]]:
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            return content[wrapper], tuple(sorted(str(key) for key in content if key != wrapper))
    return content, ()


def _tensors(source: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(source)!r}: expected a state dict, got {type(content).__name__}")
    others = [f"not a tensor: {key}" for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{str(source)!r} is not a state dict:", others)
    broken = [
        f"not finite: {key} ({count} of {tensor.numel()} values)"
        for key, tensor in content.items()
        if tensor.is_floating_point() and (count := int((~tensor.isfinite()).sum()))
    ]
    if broken:
        raise CheckpointError(f"the weights in {str(source)!r} hold NaN or infinity:", broken)
    parallel = bool(content) and all(str(key).startswith(_PARALLEL) for key in content)
    return {str(key).removeprefix(_PARALLEL if parallel else ""): tensor for key, tensor in content.items()}
