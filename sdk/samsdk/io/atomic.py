"""Writes that are whole or not there: a temporary file in the same folder, flushed to disk and renamed into place."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from samsdk.errors import OutputError, SamsdkError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open `path` for binary writing so that it changes only if the block ends without an exception.

    Args:
        path: File to create or replace. Its folder must exist. A symbolic link is followed; the permissions of a file
            that is replaced are kept.

    Yields:
        A writable binary file. It is flushed, synchronised to disk and renamed to `path` when the block ends, and
        removed if the block raises anything at all, `KeyboardInterrupt` included.

    Raises:
        OutputError: The folder is missing, `path` is a folder or a device, or the system refuses the write.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Like `atomic_write`, for writers that open a path themselves and look at its suffix (`.nii.gz`, `.npz`).

    Args:
        path: File to create or replace; see `atomic_write`.

    Yields:
        The path of an empty temporary file in the folder of `path`, its name ending in the same suffixes. Close
        whatever was opened on it before the block ends.

    Raises:
        OutputError: As for `atomic_write`.
    """
    with refused_writes(path):
        target, temporary = _reserve(Path(path))
        try:
            yield temporary
            _publish(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder that appears under its name only when it is complete.

    Args:
        path: Folder to create or replace; missing parents are made. Whether what is there may be replaced is for the
            caller to decide first.

    Yields:
        An empty hidden folder beside `path`. When the block ends its files are synchronised to disk and it is renamed;
        if the block raises anything at all, it is removed. An earlier folder is replaced by two renames: killed between
        them, `path` is absent and both lie beside it, whole.

    Raises:
        OutputError: The system refuses the write.
    """
    # Not Path.resolve: a link given as the target should be seen as what it is, not followed and renamed away.
    target = Path(path).absolute()
    partial = target.with_name(f".{target.name[-40:]}.{uuid4().hex}.partial")
    with refused_writes(target):
        try:
            partial.mkdir(parents=True)
            yield partial
            _publish_folder(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def refused_writes(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let a write that the system refuses in the block, as where the disk is full, end in an error that says so.

    For writes that are not whole or not there: what is added to a file, folders, locks.

    Args:
        path: What is written, for the error.

    Raises:
        OutputError: The block raised an OSError.
    """
    try:
        yield
    except SamsdkError:
        # Some of them are OSErrors too, and already say what happened.
        raise
    except OSError as error:
        raise OutputError(_explain(Path(path), error)) from error


def _publish_folder(partial: Path, target: Path) -> None:
    for file in (path for path in partial.rglob("*") if path.is_file()):
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
    if not target.exists():
        partial.replace(target)
        _sync_folder(target.parent)
        return
    # No system renames a folder over one that is not empty.
    earlier = partial.with_suffix(".earlier")
    target.replace(earlier)
    try:
        partial.replace(target)
    except BaseException:
        with suppress(OSError):
            earlier.replace(target)
        raise
    _sync_folder(target.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def _reserve(path: Path) -> tuple[Path, Path]:
    target = path.resolve()
    if target.is_dir():
        raise OutputError(f"cannot write {str(path)!r}: expected a file name, got a folder; add a file name to it")
    if target.exists() and not target.is_file():
        # Renaming over a device such as /dev/null would replace the device itself.
        raise OutputError(f"cannot write {str(path)!r}: expected a regular file, got a device or a pipe")
    # The tail of the name keeps every suffix and stays under the 255 bytes that file systems allow.
    temporary = target.with_name(f".{uuid4().hex}.{target.name[-40:]}")
    # Not tempfile.mkstemp: it makes files that only their owner can read, whatever the umask says.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return target, temporary


def _publish(temporary: Path, target: Path) -> None:
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    if target.exists():
        shutil.copymode(target, temporary)
    temporary.replace(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    # Makes the rename itself survive a power cut; Windows and some network file systems cannot do it.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _explain(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    if path.parent.exists() and not path.parent.is_dir():
        return f"cannot write {str(path)!r}: {str(path.parent)!r} is a file, not a folder"
    if not path.parent.is_dir():
        return f"cannot write {str(path)!r}: the folder {str(path.parent)!r} does not exist; create it first"
    if isinstance(error, PermissionError):
        return f"cannot write {str(path)!r}: {reason}; choose a folder that you may write to"
    return f"cannot write {str(path)!r}: {reason}; check the name and the free space, or choose another folder"
