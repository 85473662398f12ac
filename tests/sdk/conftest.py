"""What the runtime's tests share: the program, called as a user calls it."""

import logging
from collections.abc import Callable, Iterator

import pytest

from samsdk import cli


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Call `samsdk` with these words: its exit status, what it printed, and what it logged."""
    handlers = list(logging.getLogger().handlers)

    def call(*argv: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(arg) for arg in argv])
        except SystemExit as stop:
            code = int(str(stop.code))
        out, err = capsys.readouterr()
        return code, out, err

    yield call
    # A handler of the program's holds the captured stream of this test.
    logging.getLogger().handlers[:] = handlers
