"""The checkpoints that recipes start from, by name or folder.

The default model's own weights come with the training room: what users fine-tune is what the runtime ships with.
"""

import os
from pathlib import Path

from samsdk import hub
from samsdk.hub import DEFAULT_MODEL, cache_dir
from samsdk.io.locks import exclusive_lock
from samsdk_training.checkpoints import JSON_FILE, CheckpointError, load_checkpoint, save_checkpoint
from samsdk_training.importers import KINDS, import_weights
from samsdk_training.tuning import Base, load_base

PACKAGED = {DEFAULT_MODEL: Path(__file__).parent / "weights" / DEFAULT_MODEL}


def find_base(base: str | os.PathLike[str]) -> Base:
    """Load a base to train on.

    Args:
        base: A checkpoint's folder; the default model's name; or the name of a known model whose weights were pulled,
            of which a checkpoint is then made in the cache.

    Raises:
        CheckpointError: There is no such thing, or its weights were not pulled yet.
        LoraError: See `load_base`.
    """
    folder = Path(base)
    if (folder / JSON_FILE).is_file():
        return load_base(folder)
    name = os.fspath(base)
    if name in PACKAGED:
        return load_base(PACKAGED[name])
    if name not in hub.MODELS or name not in KINDS:
        known = ", ".join((*PACKAGED, *(one for one in hub.MODELS if one in KINDS)))
        raise CheckpointError(f"no checkpoint at {name!r}: expected its folder or the name of a known model ({known})")
    weights = hub.weights_path(name)
    if not weights.is_file():
        raise CheckpointError(f"the weights of {name!r} are not on this machine: run `samsdk models pull {name}` first")
    target = cache_dir() / "checkpoints" / name
    with exclusive_lock(target.parent / f"{name}.lock"):
        # Made by an earlier version, it may lack what a checkpoint has today.
        if not _is_whole(target):
            save_checkpoint(import_weights(weights, name), target)
    return load_base(target)


def _is_whole(folder: Path) -> bool:
    try:
        load_checkpoint(folder)
    except CheckpointError:
        return False
    return True
