"""What people see while a run goes on: a bar on a terminal, counts elsewhere."""

import io
import sys

import pytest

from samsdk.batch.progress import Counter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def follow() -> None:
    counter = Counter()
    for finished in range(4, 8):
        counter(finished, 7, failed=finished // 7)
    counter.close()


def test_on_a_terminal_there_is_a_bar_that_begins_where_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm", reason="needs the extra batch")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    follow()
    bars = terminal.getvalue().split("\r")
    assert " 3/7 " in bars[1]
    assert "100%" in bars[-1]
    assert " 7/7 " in bars[-1]
    assert "failed=1" in bars[-1]


@pytest.mark.parametrize("terminal", [True, False])
def test_without_a_terminal_or_tqdm_there_are_counts(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    said = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    if terminal:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    follow()
    # At once, then every two seconds, and at the end.
    assert said.getvalue().splitlines() == [
        "samsdk batch: 4 of 7 files, 0 failed",
        "samsdk batch: 7 of 7 files, 1 failed",
    ]
