"""One holder at a time, who may be waited for or not."""

import threading
from pathlib import Path

import pytest

from samsdk.io.locks import exclusive_lock


def test_a_lock_that_is_held_refuses_who_does_not_wait(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    with exclusive_lock(path), pytest.raises(BlockingIOError), exclusive_lock(path, wait=False):
        pass
    with exclusive_lock(path, wait=False):
        pass


def test_who_waits_gets_the_lock_afterwards(tmp_path: Path) -> None:
    path, order = tmp_path / ".lock", []

    def second() -> None:
        with exclusive_lock(path):
            order.append("second")

    with exclusive_lock(path):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.3)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
