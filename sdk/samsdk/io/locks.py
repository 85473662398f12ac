"""One process at a time: a lock file that the system releases by itself when its holder dies."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_POLL_SECONDS = 0.2


@contextmanager
def exclusive_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock file while the block runs; wait for whoever holds it, or refuse.

    Args:
        path: The lock file; it and its folder are made if missing, and the file is left behind, because removing it
            would let a third process lock a new one while a second waits for the old one.
        wait: Whether to wait.

    Raises:
        BlockingIOError: Someone holds it, and this is not to wait.
        OSError: The file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        _acquire(file, wait)
        try:
            yield
        finally:
            _release(file)


if sys.platform == "win32":

    def _acquire(file: IO[bytes], wait: bool) -> None:
        while True:
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                return
            except OSError as error:
                if not wait:
                    raise BlockingIOError(error.errno, "the file is locked") from error
                # LK_LOCK gives up after ten seconds, and a download takes longer.
                time.sleep(_POLL_SECONDS)

    def _release(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:

    def _acquire(file: IO[bytes], wait: bool) -> None:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _release(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
