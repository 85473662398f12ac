"""What makes a set another one, and what does not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from samsdk_training.data import DataError
from samsdk_training.data_digest import file_digest, set_digests


@pytest.fixture
def knees(tmp_path: Path) -> Path:
    folder = tmp_path / "knees"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
        for name in "abcd":
            (folder / part / f"{name}.png").write_bytes(f"{part} of {name}".encode())
    (folder / "train.txt").write_text("a\nb\n")
    (folder / "val.txt").write_text("c\n")
    (folder / "labels.json").write_text('{"1": "meniscus"}')
    return folder


def exchange(folder: Path, part: str) -> None:
    one, other = (folder / part / f"{name}.png" for name in "ab")
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


CHANGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "images": (lambda folder: exchange(folder, "images"), {"train.txt"}),
    "masks": (lambda folder: exchange(folder, "masks"), {"train.txt"}),
    "order": (lambda folder: (folder / "train.txt").write_text("b\na\n"), {"train.txt"}),
    "held back": (lambda folder: (folder / "val.txt").write_text("d\n"), {"val.txt"}),
    "mask gone": (lambda folder: (folder / "masks" / "c.png").unlink(), {"val.txt"}),
    "classes": (lambda folder: (folder / "labels.json").write_text('{"1": "bone"}'), {"train.txt", "val.txt"}),
    "rules": (lambda folder: (folder / "set.json").write_text('{"axis": "x"}'), {"train.txt", "val.txt"}),
    "blank lines": (lambda folder: (folder / "train.txt").write_text("a\n\nb"), set()),
    "in no list": (lambda folder: (folder / "images" / "d.png").write_bytes(b"other"), set()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_digest_changes_with_what_its_list_means(knees: Path, change: str) -> None:
    before = set_digests([knees])
    alter, lists = CHANGES[change]
    alter(knees)
    after = set_digests([knees])
    assert {name for name in before if before[name] != after[name]} == {f"knees/{one}" for one in lists}


def test_a_set_may_lie_elsewhere(knees: Path, tmp_path: Path) -> None:
    before = set_digests([knees])
    assert before.keys() == {"knees/train.txt", "knees/val.txt"}
    (tmp_path / "deep").mkdir()
    moved = tmp_path / "deep" / "knees"
    shutil.move(knees, moved)
    assert set_digests([moved]) == before
    # Lists in a folder beside a set that cannot be written to.
    beside = tmp_path / "knees"
    beside.mkdir()
    (beside / "set.json").write_text(json.dumps({"source": "../deep/knees"}))
    assert set_digests([beside]) == before


def test_the_same_name_for_other_bytes_and_the_other_way_round(tmp_path: Path) -> None:
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    digests = {file_digest(files) for files in ([("a", one)], [("a", other)], [("b", one)], [], [("a", one)] * 2)}
    assert len(digests) == 5
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        file_digest([("a", tmp_path / "gone.png")])


def test_a_list_that_is_missing_is_told(knees: Path) -> None:
    (knees / "val.txt").unlink()
    with pytest.raises(DataError, match=r"has no val\.txt"):
        set_digests([knees])
