import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from samsdk_training.data import DataError, read_set
from samsdk_training.split import Split, held_back_patients, split_set, write_split


def make_set(folder: Path, classes: dict[str, tuple[int, ...]], dtype: type = np.uint8) -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for index, (name, labels) in enumerate(classes.items()):
        mask = np.zeros((12, 40), dtype)
        for place, label in enumerate(labels):
            mask[2:8, 10 * place : 10 * place + 6] = label
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.full((12, 40), index, np.uint8))
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)
    return folder


def drawn(rng: np.random.Generator) -> tuple[dict[str, str], dict[str, frozenset[int]]]:
    """Images of 20 patients, 1 to 6 each; class 1 in most, class 5 in about a sixth."""
    patients = {f"p{one}_{index}": f"p{one}" for one in range(20) for index in range(rng.integers(1, 7))}
    return patients, {name: frozenset(np.flatnonzero(rng.random(5) < 1 / np.arange(1, 6)) + 1) for name in patients}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("share", [0.2, 0.33, 0.5])
def test_the_share_is_met_and_every_class_lies_on_both_sides(seed: int, share: float) -> None:
    patients, classes = drawn(np.random.default_rng(seed))
    held = held_back_patients(patients, classes, share, seed)
    images = Counter(patients.values())
    count = sum(images[patient] for patient in held)
    assert abs(count - share * len(patients)) <= max(images.values()) / 2
    for label in range(1, 6):
        showing = {patients[name] for name in patients if label in classes[name]}
        assert len(showing) < 2 or (showing & held and showing - held), label
    assert held_back_patients(dict(reversed(patients.items())), classes, share, seed) == held


def test_seeds_differ_and_no_order_is_preferred() -> None:
    patients = {f"{index}": f"{index}" for index in range(12)}
    classes = {name: frozenset({1}) for name in patients}
    chosen = [held_back_patients(patients, classes, 1 / 3, seed) for seed in range(300)]
    assert {len(one) for one in chosen} == {4}
    counts = Counter(patient for one in chosen for patient in one)
    # 300 draws of 4 of 12: 100 each, standard deviation 8.
    assert min(counts.values()) > 60
    assert max(counts.values()) < 140


def test_a_large_patient_does_not_stand_for_the_share() -> None:
    patients = {f"{index}": "large" if index < 10 else f"{index}" for index in range(20)}
    classes = {name: frozenset({1}) for name in patients}
    for seed in range(20):
        held = held_back_patients(patients, classes, 0.3, seed)
        assert len(held) == 6
        assert "large" not in held


def test_training_keeps_a_class_that_one_patient_alone_shows() -> None:
    patients = {"a": "a", "b": "b", "c": "c", "d": "d"}
    classes = {"a": {1}, "b": {1}, "c": {1, 2}, "d": {1}}
    assert all("c" not in held_back_patients(patients, classes, 0.5, seed) for seed in range(20))
    # Where nobody can be spared, the smallest patient goes.
    alone = {"a1": {1}, "a2": {1}, "b": {2}}
    assert held_back_patients({"a1": "a", "a2": "a", "b": "b"}, alone, 0.33, 0) == {"b"}


@pytest.mark.parametrize(("share", "seed"), [(0.0, 0), (1.0, 0), (float("nan"), 0), (0.3, -1)])
def test_a_share_that_is_none(share: float, seed: int) -> None:
    with pytest.raises(DataError, match="expected a share between 0 and 1 and a seed from 0 on"):
        held_back_patients({"a": "a", "b": "b"}, {"a": {1}, "b": {1}}, share, seed)


def test_a_set_is_split_by_a_pattern_and_written(tmp_path: Path) -> None:
    names = {f"pat{one}_{kind}": (1, 2) for one in range(6) for kind in ("t1", "flair")}
    folder = make_set(tmp_path / "set", names)
    split = split_set(folder, 0.33, patients=r"^(pat\d+)_", seed=3)
    assert (len(split.train), len(split.validation)) == (8, 4)
    assert {*split.train, *split.validation} == {*names}
    whose = [{name[:4] for name in part} for part in (split.train, split.validation)]
    assert not whose[0] & whose[1]
    assert (split.only_train, split.only_validation) == ((), ())
    assert split_set(folder, 0.33, patients=r"^(pat\d+)_", seed=3) == split
    assert write_split(split, folder) == folder
    assert [one.name for one in read_set(folder, "val.txt")] == list(split.validation)
    assert [one.name for one in read_set(folder, "train.txt")] == list(split.train)
    # The patients are known from now on.
    assert all(one.patient == one.name[:4] for one in read_set(folder))
    assert split_set(folder, 0.33, seed=3) == split
    with pytest.raises(DataError, match=r"has val\.txt and train\.txt already"):
        write_split(split, folder)
    other = split_set(folder, 0.33, seed=4)
    assert other != split
    write_split(other, folder, replace=True)
    assert [one.name for one in read_set(folder, "val.txt")] == list(other.validation)


def test_patients_that_are_there_are_not_lost(tmp_path: Path) -> None:
    folder = make_set(tmp_path, {name: (1,) for name in ("a1", "a2", "b1", "b2")})
    (folder / "patients.csv").write_text("id,patient\na1,x\na2,y\nb1,x\nb2,y\n")
    split = split_set(folder, 0.5, patients="^(.)")
    with pytest.raises(DataError, match=r"has patients\.csv already"):
        write_split(split, folder)
    assert not (folder / "train.txt").exists()
    write_split(split, folder, replace=True)
    assert {one.patient for one in read_set(folder, "val.txt")} in ({"a"}, {"b"})


def test_a_set_that_stays_as_it_is_gets_its_lists_elsewhere(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", {name: (1, 2) for name in "abcdef"})
    (folder / "labels.json").write_text('{"1": "one"}')
    (folder / "set.json").write_text('{"instances": true}')
    before = sorted(folder.rglob("*"))
    split = split_set(folder, 0.5)
    beside = write_split(split, folder, tmp_path / "runs" / "first")
    assert sorted(folder.rglob("*")) == before
    assert [one.name for one in read_set(beside, "val.txt")] == list(split.validation)
    assert all(one.instances for one in read_set(beside))
    assert json.loads((beside / "set.json").read_text())["source"] == str(folder)
    write_split(split_set(folder, 0.5, seed=1), folder, beside, replace=True)
    with pytest.raises(DataError, match=r"has a set\.json for another set"):
        write_split(split, make_set(tmp_path / "other", {"a": (1,)}), beside, replace=True)
    with pytest.raises(DataError, match="points to another set"):
        write_split(split, beside, tmp_path / "third")


def test_instances_count_as_one_class(tmp_path: Path) -> None:
    # As classes, number 9 would keep image d in training.
    folder = make_set(tmp_path, {"a": (1,), "b": (1, 2), "c": (1,), "d": (1, 9)}, np.uint16)
    assert any("d" in split_set(folder, 0.25, seed=seed).validation for seed in range(10))
    assert all(split_set(folder, 0.25, seed=seed).only_validation == () for seed in range(10))


def test_classes_on_one_side_are_told(tmp_path: Path) -> None:
    split = split_set(make_set(tmp_path, {"a": (1,), "b": (1, 2), "c": (1,)}), 0.3)
    assert isinstance(split, Split)
    assert (split.only_train, split.only_validation) == ((2,), ())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is no regular expression"),
        (r"a\d", "needs a group around the patient"),
        (r"(a\d)", "finds no patient in b1, b2"),
        (r"(x?)", "finds no patient in a1, a2, b1, b2"),
        ("(.)x?", None),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, message: str | None) -> None:
    folder = make_set(tmp_path, dict.fromkeys(("a1", "a2", "b1", "b2"), (1,)))
    if message is None:
        assert split_set(folder, patients=pattern).patients == {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
        return
    with pytest.raises(DataError, match=message):
        split_set(folder, patients=pattern)


def test_what_cannot_be_split(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", {"a": (1,), "b": (1,)})
    with pytest.raises(DataError, match="at least two patients, got 1"):
        split_set(make_set(tmp_path / "one", {"a": (1,)}))
    (folder / "list.txt").write_text("a\nb\na\n")
    with pytest.raises(DataError, match="names more than once: a"):
        split_set(folder)
    (folder / "list.txt").unlink()
    (folder / "patients.csv").write_text("id,patient\na,x\n")
    with pytest.raises(DataError, match=r"patients\.csv of .* lacks b"):
        split_set(folder)
    (folder / "patients.csv").write_text("id,patient\na,x\na,y\n")
    with pytest.raises(DataError, match="line 3: expected `id,patient`"):
        split_set(folder)
    (folder / "patients.csv").unlink()
    (folder / "masks" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b in .* has no mask"):
        split_set(folder)
