import logging
from pathlib import Path

import pytest

from samsdk.batch.journal import open_journal
from samsdk.batch.outcome import ObjectRow, Outcome

ROW = ObjectRow("gland", score=0.5, area=12, box=(1, 2, 3, 4), spacing=(0.5, 0.25), measurements={"area_mm2": 1.5})
FIRST = Outcome("a/é.png", (ROW, ObjectRow("x", "failed", "PromptError", "outside")), ("m.png",), (5, 7), "b@1", "CPU")
SECOND = Outcome("b.png", (ObjectRow("", "failed", "ImageError", "empty"),))


def written(path: Path) -> bytes:
    with open_journal(path) as journal:
        journal.add(FIRST)
        journal.add(SECOND)
    return path.read_bytes()


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    assert written(tmp_path / "j").count(b"\n") == 2
    with open_journal(tmp_path / "j") as journal:
        assert journal.outcomes == {"a/é.png": FIRST, "b.png": SECOND}
        assert [outcome.state for outcome in journal.outcomes.values()] == ["failed", "failed"]


def test_a_line_is_on_disk_before_the_next_file_counts(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j") as journal:
        journal.add(FIRST)
        assert (tmp_path / "j").read_bytes().endswith(b"\n")


def test_torn_at_any_byte_the_lines_before_are_kept_and_the_next_one_is_whole(tmp_path: Path) -> None:
    content = written(tmp_path / "j")
    first = content.index(b"\n") + 1
    for length in range(0, len(content), 7):
        (tmp_path / "j").write_bytes(content[:length])
        with open_journal(tmp_path / "j") as journal:
            assert set(journal.outcomes) == ({"a/é.png"} if length >= first else set())
            journal.add(SECOND)
        with open_journal(tmp_path / "j") as journal:
            assert journal.outcomes["b.png"] == SECOND


@pytest.mark.parametrize("damage", [b"\0" * 40, b"[]", b'{"file": "a/\xc3"}', b"{}", b'{"file": 1, "rows": []}'])
def test_a_damaged_line_costs_its_own_file_only(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, _ = written(tmp_path / "j").split(b"\n")
    (tmp_path / "j").write_bytes(b"\n".join([first, damage, second, b""]))
    with caplog.at_level(logging.WARNING), open_journal(tmp_path / "j") as journal:
        assert journal.outcomes == {"a/é.png": FIRST, "b.png": SECOND}
    assert "line 2 of the journal" in caplog.text


def test_the_last_word_on_a_file_counts(tmp_path: Path) -> None:
    better = Outcome("b.png", (ROW,))
    with open_journal(tmp_path / "j") as journal:
        journal.add(SECOND)
        journal.add(better)
    with open_journal(tmp_path / "j") as journal:
        assert journal.outcomes == {"b.png": better}
