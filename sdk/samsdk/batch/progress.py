"""How far a run is, for people: a bar where tqdm and a terminal are there, else counts now and then."""

import sys
import time
from typing import Any, Final

_SECONDS: Final = 2.0


class Counter:
    """Shows how many files are finished, on stderr; called as `run_batch` calls its `progress`."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._begun = False
        self._said = 0.0

    def __call__(self, finished: int, files: int, failed: int) -> None:
        """Show the counts.

        Args:
            finished: files that are done or failed.
            files: all of them.
            failed: of those that are finished.
        """
        if not self._begun:
            self._begun, self._bar = True, _bar(files, finished - 1)
        if self._bar is not None:
            self._bar.set_postfix(failed=failed, refresh=False)
            self._bar.update(finished - self._bar.n)
        elif finished == files or time.monotonic() - self._said >= _SECONDS:
            self._said = time.monotonic()
            sys.stderr.write(f"samsdk batch: {finished} of {files} files, {failed} failed\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _bar(files: int, finished: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    # Into a file, a bar writes a line for every change.
    return tqdm(total=files, initial=finished, unit="file", file=sys.stderr) if sys.stderr.isatty() else None
