"""Which data a run was started with, as hashes: a run does not go on with other images, labels or lists."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from samsdk.io.wheels import file_sha256
from samsdk_training.set_folder import DataError, SetFolder
from samsdk_training.split import TRAIN_LIST, VALIDATION_LIST


def set_digests(sets: Sequence[Path], lists: Sequence[str] = (TRAIN_LIST, VALIDATION_LIST)) -> dict[str, str]:
    """Hash what some sets hold: the ids of their lists in their order, the files of each, and how the set is read.

    Args:
        sets: folders, whose names differ.
        lists: which of their lists.

    Returns:
        A SHA-256 by the name of folder and list, as `knee/val.txt`.

    Raises:
        DataError: a list is missing, or a file cannot be read.
    """
    found = {}
    for folder in map(SetFolder, sets):
        settings = folder.settings
        rules = [settings.axis, settings.window, settings.instances, folder.class_names()]
        for list_name in lists:
            ids = folder.ids(list_name)
            files = (
                (name, path) for name in ids for path in (*folder.images.get(name, ()), *folder.masks.get(name, ()))
            )
            found[f"{folder.path.name}/{list_name}"] = file_digest(files, json.dumps(rules))
    return found


def file_digest(files: Iterable[tuple[str, Path]], more: str = "") -> str:
    """SHA-256 of some files' contents under their ids, in their order; wherever they lie.

    Args:
        files: id and path of each.
        more: what else belongs to them.

    Raises:
        DataError: a file cannot be read.
    """
    total = hashlib.sha256(more.encode())
    for name, path in files:
        try:
            total.update(f"\n{name} {path.suffix} {file_sha256(path)}".encode())
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
    return total.hexdigest()
