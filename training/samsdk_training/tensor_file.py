"""The one way in which tensors are written: safetensors, whose failures are told as those of any other file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors of any device, inside of `atomic_folder` or `atomic_path`, which name the target in their error.

    Args:
        tensors: By name. They may share memory and need not be contiguous.
        path: The file, of safetensors.

    Raises:
        OSError: The system refuses the write, as where the disk is full.
    """
    # Copies, because safetensors refuses tensors that share memory and those that are not contiguous.
    copies = {name: one.detach().cpu().clone(memory_format=torch.contiguous_format) for name, one in tensors.items()}
    try:
        save_file(copies, path)
    except SafetensorError as error:
        # It is no OSError, though what it tells of is one.
        raise OSError(str(error)) from error
