"""Which images are for training and which are held back for validation: by patient, never one patient in both."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from samsdk.io.atomic import atomic_write
from samsdk_training.data import read_stored
from samsdk_training.entries import holds_instances, whole_labels
from samsdk_training.set_folder import LISTS, PATIENTS_FILE, SETTINGS_FILE, DataError, SetFolder, shortened

TRAIN_LIST: Final = "train.txt"
VALIDATION_LIST: Final = "val.txt"


@dataclass(frozen=True)
class Split:
    """The two parts of a set.

    Attributes:
        train: ids, in the set's order.
        validation: ids that are held back.
        patients: patient by id; empty where they are unknown, and each image counted as a patient.
        only_train: classes of the set that no image held back shows.
        only_validation: classes that no training image shows.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    patients: Mapping[str, str]
    only_train: tuple[int, ...]
    only_validation: tuple[int, ...]


def split_set(
    folder: str | os.PathLike[str], held_back: float = 0.33, *, patients: str | None = None, seed: int = 0
) -> Split:
    """Split a set by its patients and its masks.

    Args:
        folder: of the set; its `list.txt` is split, or all of its images without one.
        held_back: share of the images that validation should get, between 0 and 1.
        patients: a regular expression whose first group is the patient; None takes `patients.csv`. Without either each
            image, or volume, counts as a patient of its own.
        seed: another seed is another split.

    Raises:
        DataError: the set is malformed, `patients.csv` lacks some of its images, or it has fewer than two patients.
        MissingExtraError: the set holds NIfTI volumes, and nibabel is not installed.
    """
    source = SetFolder(folder)
    ids = source.ids(LISTS[0])
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"{LISTS[0]} of {source.path} names more than once: {shortened(twice)}")
    known = source.patients(ids, patients)
    strangers = [name for name in ids if name not in known] if known else []
    if strangers:
        raise DataError(f"{PATIENTS_FILE} of {source.path} lacks {shortened(strangers)}")
    classes = {name: _classes(source, name) for name in ids}
    validation = held_back_patients({name: known.get(name, name) for name in ids}, classes, held_back, seed)
    parts = [[name for name in ids if (known.get(name, name) in validation) == held] for held in (False, True)]
    train, held = (frozenset().union(*(classes[name] for name in part)) for part in parts)
    return Split(tuple(parts[0]), tuple(parts[1]), known, tuple(sorted(train - held)), tuple(sorted(held - train)))


def held_back_patients(
    patients: Mapping[str, str], classes: Mapping[str, Set[int]], held_back: float, seed: int
) -> frozenset[str]:
    """Choose the patients whose images are held back.

    In a random order, first patients who show classes that no one held back shows yet, those of the rarest class
    first; then whoever is next. Patients who would exceed the share come after those who do not, and only if they bring
    the number of images nearer to it; none is chosen who would take a class's last patient from training.

    Args:
        patients: patient by image id.
        classes: which classes each image shows.
        held_back: share of the images that should be held back, between 0 and 1.
        seed: of the order.

    Raises:
        DataError: the share is not between 0 and 1, the seed is negative, or there are fewer than two patients.
    """
    if not 0 < held_back < 1 or seed < 0:
        raise DataError(f"expected a share between 0 and 1 and a seed from 0 on, got {held_back} and {seed}")
    images = Counter(patients.values())
    if len(images) < 2:
        raise DataError(f"nothing can be held back: expected images of at least two patients, got {len(images)}")
    shown: dict[str, set[int]] = {patient: set() for patient in images}
    for name, patient in patients.items():
        shown[patient] |= classes[name]
    names = sorted(images)
    order = [names[int(place)] for place in np.random.default_rng(seed).permutation(len(names))]
    showing = Counter(label for labels in shown.values() for label in labels)
    wanted, chosen, count = held_back * len(patients), set[str](), 0

    def fits(patient: str, exceed: bool) -> bool:
        after = count + images[patient]
        near = abs(after - wanted) < abs(count - wanted) if exceed else after <= wanted
        spared = all(showing[label] > 1 for label in shown[patient])
        return near and spared and patient not in chosen and len(chosen) + 1 < len(images)

    # After the classes, None: whoever is next.
    for label in (*sorted(showing, key=lambda label: (showing[label], label)), None):
        for patient, exceed in [(patient, exceed) for exceed in (False, True) for patient in order]:
            if label is not None and any(label in shown[one] for one in chosen):
                break
            if (label is None or label in shown[patient]) and fits(patient, exceed):
                chosen.add(patient)
                count += images[patient]
                showing.subtract(shown[patient])
    # Every patient may be too large, or show a class alone: the smallest is then the least harm.
    return frozenset(chosen or {min(order, key=lambda patient: images[patient])})


def write_split(
    split: Split, folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, replace: bool = False
) -> Path:
    """Write `train.txt` and `val.txt`, and `patients.csv` where a pattern told the patients.

    Args:
        split: of the set.
        folder: of the set.
        output: folder to write into instead, made if it is not there, whose `set.json` points to the set.
        replace: whether files that are there already are replaced.

    Returns:
        The folder with the lists.

    Raises:
        DataError: the files are there already, the output has a `set.json` for another set, or the set itself points to
            another one.
        OutputError: the system refuses the write.
    """
    target, source = Path(folder if output is None else output), SetFolder(folder)
    files = {}
    if target.resolve() != source.path.resolve():
        files[SETTINGS_FILE] = _pointer(source, target)
    if split.patients and source.patients(list(split.patients)) != split.patients:
        files[PATIENTS_FILE] = _table([("id", "patient"), *split.patients.items()])
    for name, ids in ((VALIDATION_LIST, split.validation), (TRAIN_LIST, split.train)):
        files[name] = "".join(f"{one}\n" for one in ids)
    there = [name for name in files if name != SETTINGS_FILE and (target / name).exists()]
    if there and not replace:
        raise DataError(f"{target} has {' and '.join(there)} already; choose to replace them, or another folder")
    target.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with atomic_write(target / name) as file:
            file.write(text.encode())
    return target


def _pointer(source: SetFolder, target: Path) -> str:
    """The settings of a folder that stands for a set."""
    if source.settings.source is not None:
        raise DataError(f"{source.path} points to another set; split {source.source}, or split in place")
    settings = json.loads((source.path / SETTINGS_FILE).read_bytes()) if source.file(SETTINGS_FILE) else {}
    text = json.dumps({**settings, "source": str(source.path.resolve())}, indent=2) + "\n"
    path = target / SETTINGS_FILE
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise DataError(f"{target} has a {SETTINGS_FILE} for another set; choose another folder")
    return text


def _classes(source: SetFolder, name: str) -> frozenset[int]:
    entry, stored = read_stored(source, name)
    labels = whole_labels(stored.labels)
    present = frozenset(int(label) for label in np.unique(labels) if label)
    return frozenset({1}) & {int(bool(present))} if holds_instances(entry, stored, source.settings) else present


def _table(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
