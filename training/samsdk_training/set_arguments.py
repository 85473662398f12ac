"""What a command's `--data` names: one set, or a folder of sets."""

from pathlib import Path

from samsdk.command import WrongCallError
from samsdk_training.set_folder import SetFolder


def find_sets(data: Path, list_name: str) -> list[Path]:
    """The folder itself if it has this list, else all folders in it whose list names images, sorted.

    Raises:
        WrongCallError: there is none.
        DataError: a set says in a way that nobody understands how it is read.
    """
    if SetFolder(data).has_ids(list_name):
        return [data]
    folders = [SetFolder(path) for path in sorted(data.iterdir()) if path.is_dir()] if data.is_dir() else []
    found = [one.path for one in folders if one.has_ids(list_name) and one.ids(list_name)]
    if not found:
        raise WrongCallError(f"{data} is no set and holds none: found no {list_name} with ids in it")
    return found
