"""The journal of a run: a line of JSON for each file as it is finished, on disk before the next one counts."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from samsdk.batch.outcome import Outcome
from samsdk.errors import OutputError

_log = logging.getLogger(__name__)


class Journal:
    """The journal, open for more lines; `open_journal` gives it.

    Attributes:
        outcomes: the last one of each file, by its name.
    """

    def __init__(self, file: BinaryIO, outcomes: dict[str, Outcome]) -> None:
        self._file = file
        self.outcomes = outcomes

    def add(self, outcome: Outcome) -> None:
        """Write a line and wait until it is on disk.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self._file.write(json.dumps(outcome.to_dict()).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write the journal: {error.strerror}; what is in it is kept") from error
        self.outcomes[outcome.file] = outcome


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Read a journal and open it for more lines.

    The last line of a run that was killed may be torn: it is cut off, and its file counts as not done. The same holds
    for a line that something else damaged.

    Args:
        path: of the journal; made if it is missing. One process at a time.

    Raises:
        OutputError: it cannot be read or written.
    """
    try:
        file = path.open("a+b")
    except OSError as error:
        raise OutputError(f"cannot open the journal {path.name}: {error.strerror}") from error
    with file:
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            # Else the next line would be added to the torn one, and be lost with it.
            file.truncate(whole)
        yield Journal(file, _outcomes(content[:whole]))


def _outcomes(content: bytes) -> dict[str, Outcome]:
    outcomes = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            outcome = Outcome.from_dict(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            _log.warning("line %d of the journal is damaged; its file is segmented again", number)
            continue
        outcomes[outcome.file] = outcome
    return outcomes
