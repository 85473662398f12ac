"""Silence for what pydicom and highdicom say of a file: their warnings and logs quote what is in it."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_LOGGERS: Final = ("highdicom", "pydicom")
# Filters of warnings belong to the whole process; a thread that is inside may come in again.
_lock = threading.RLock()


@contextmanager
def silence() -> Iterator[None]:
    """Keep what pydicom and highdicom say to themselves. One thread at a time, so nothing slow belongs in there."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
