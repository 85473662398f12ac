"""The folder of a labelled set: which files belong to which id, and what the small files beside them say.

    images/<id>.png   masks/<id>.png         images (PNG, JPEG, TIFF ...; 8 or 16 bits; grey or RGB), label numbers
    images/<id>.nii.gz  masks/<id>.nii.gz    volumes, read as slices
    images/<id>.npz                          both in one file (`entries`); without images/ the .npz beside the lists
    train.txt  val.txt  list.txt             ids, one a line; a set without list.txt counts all of its images, sorted
    labels.json                              names of the classes: {"1": "kidney"} or {"kidney": 1}
    patients.csv                             id,patient
    set.json                                 how to read the set (`SetSettings`), and where it lies if elsewhere

All but images and masks is optional. A set that cannot be written to is split in a folder beside it, whose `set.json`
names the set as `source`: whatever that folder does not hold itself is looked up there.
"""

import csv
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

from samsdk.errors import SamsdkError
from samsdk_training.volumes import AXES

# Ids are in the order that "the first N images" of a set means.
LISTS: Final = ("list.txt", "val.txt", "train.txt")
SETTINGS_FILE: Final = "set.json"
PATIENTS_FILE: Final = "patients.csv"
LABELS_FILE: Final = "labels.json"
VOLUME_SUFFIXES: Final = (".nii.gz", ".nii")
NPZ_SUFFIX: Final = ".npz"
_PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".ppm")
_SUFFIXES: Final = (*VOLUME_SUFFIXES, NPZ_SUFFIX, *_PICTURE_SUFFIXES)
_SHOWN: Final = 5


class DataError(SamsdkError, ValueError):
    """A set of labelled images is incomplete or malformed."""


class Entry(NamedTuple):
    """The files of one id; `mask` is None where the image's file holds the labels too."""

    name: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class SetSettings:
    """How a set is read: what `set.json` says.

    Attributes:
        source: folder of the images, masks and lists that this folder lacks, relative to it; None is itself.
        axis: volumes are cut across it: `x` (sagittal), `y` (coronal) or `z` (axial).
        window: (lowest, highest) Hounsfield units of CT volumes; None takes soft tissue, -160 to 240.
        instances: whether each number in a mask is one object rather than one class; None takes 16-bit masks of images
            for instances, and all others for classes.
    """

    source: str | None = None
    axis: str = "z"
    window: tuple[float, float] | None = None
    instances: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.source, str | None):
            raise ValueError(f"source must be a folder, got {self.source!r}")
        if self.axis not in tuple(AXES):
            raise ValueError(f"axis must be x, y or z, got {self.axis!r}")
        if not isinstance(self.instances, bool | None):
            raise ValueError(f"instances must be true or false, got {self.instances!r}")
        if self.window is not None:
            low, high = self.window
            if not float(low) < float(high):
                raise ValueError(f"window must be [lowest, highest], got {list(self.window)}")


class SetFolder:
    """A set's folder, listed once.

    Attributes:
        path: of the folder.
        settings: what its `set.json` says.
        source: where what it lacks is looked up; the folder itself if nowhere else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the settings.

        Raises:
            DataError: `set.json` is malformed, or names a source that is not there.
        """
        self.path = Path(path)
        self.settings = self._settings()
        self.source = self.path / (self.settings.source or ".")
        if self.settings.source is not None and not self.source.is_dir():
            raise DataError(f"{self.path / SETTINGS_FILE} names the source {self.settings.source}, which is no folder")

    def file(self, name: str) -> Path | None:
        """A file of the set, its own before its source's; None where there is none."""
        return next((path for path in (self.path / name, self.source / name) if path.is_file()), None)

    @cached_property
    def images(self) -> Mapping[str, tuple[Path, ...]]:
        """The image files of each id, sorted by id; more than one file is one too many."""
        folder = self._folder("images")
        return _listed(folder, _SUFFIXES) if folder else _listed(self.source, (NPZ_SUFFIX,))

    @cached_property
    def masks(self) -> Mapping[str, tuple[Path, ...]]:
        """The mask files of each id, sorted by id."""
        folder = self._folder("masks")
        return _listed(folder, _SUFFIXES) if folder else {}

    def has_ids(self, list_name: str) -> bool:
        """Whether the set has this list; one without any list has its images for `list.txt`."""
        if self.file(list_name) is not None:
            return True
        return list_name == LISTS[0] and not any(map(self.file, LISTS)) and bool(self.images)

    def ids(self, list_name: str) -> list[str]:
        """The ids that a list holds; without `list.txt`, those of all images.

        Raises:
            DataError: there is no such list, or it is no text.
        """
        path = self.file(list_name)
        if path is not None:
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path} cannot be read as a list of ids: {error}") from error
            return [line.strip() for line in lines if line.strip()]
        if list_name == LISTS[0] and self.images:
            return list(self.images)
        hint = "; `samsdk data split` makes train.txt and val.txt" if self.images else ""
        raise DataError(
            f"{self.path} has no {list_name}; expected a set with images/, masks/ and one of {', '.join(LISTS)}{hint}"
        )

    def entry(self, name: str) -> Entry:
        """The files of one id.

        Raises:
            DataError: an image or a mask is missing, there are several, or the two are not of one kind.
        """
        image = self._only(name, "image", self.images)
        if image.name.lower().endswith(NPZ_SUFFIX):
            return Entry(name, image, None)
        mask = self._only(name, "mask", self.masks)
        if is_volume(image) != is_volume(mask) or mask.name.lower().endswith(NPZ_SUFFIX):
            raise DataError(f"{name} in {self.path}: {image.name} and {mask.name} are no image and mask of one kind")
        return Entry(name, image, mask)

    def class_names(self) -> dict[int, str]:
        """The names of the classes by number, out of `labels.json`; empty without one.

        Raises:
            DataError: the file is malformed.
        """
        path = self.file(LABELS_FILE)
        if path is None:
            return {}
        try:
            content = json.loads(path.read_bytes())
            # "*" names all objects of a set of instances.
            pairs = [(key, value) for key, value in content.items() if key != "*"]
            named = [(int(value), key) if isinstance(value, int) else (int(key), value) for key, value in pairs]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f'{path}: expected names of classes as {{"1": "kidney"}}, got something else') from error
        if not all(isinstance(name, str) for _, name in named) or len(dict(named)) < len(named):
            raise DataError(f'{path}: expected one name a class, as {{"1": "kidney"}}, got {str(content)[:80]}')
        return {number: name for number, name in sorted(named) if number != 0}

    def patients(self, ids: Sequence[str], pattern: str | None = None) -> dict[str, str]:
        """Whose images these are.

        Args:
            ids: of images.
            pattern: a regular expression that is searched in each id, its first group is the patient; None takes
                `patients.csv`.

        Returns:
            Patient by id; empty where nothing is known of patients. From `patients.csv` only the ids that it has.

        Raises:
            DataError: the pattern is none, has no group or does not match some id; `patients.csv` is malformed.
        """
        if pattern is None:
            known = self._patients_file()
            return {name: known[name] for name in ids if name in known}
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise DataError(f"{pattern!r} is no regular expression: {error}") from error
        if expression.groups < 1:
            raise DataError(f"the pattern {pattern!r} needs a group around the patient, as in '(pat[0-9]+)_'")
        found = {name: match[1] for name in ids if (match := expression.search(name)) and match[1]}
        strangers = [name for name in ids if name not in found]
        if strangers:
            raise DataError(f"the pattern {pattern!r} finds no patient in {shortened(strangers)}")
        return found

    def _settings(self) -> SetSettings:
        path = self.path / SETTINGS_FILE
        if not path.is_file():
            return SetSettings()
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
            unknown = sorted(content.keys() - {field.name for field in fields(SetSettings)})
            if unknown:
                raise ValueError(f"unknown: {', '.join(unknown)}")
            if content.get("window") is not None:
                low, high = content["window"]
                content["window"] = (float(low), float(high))
            return SetSettings(**content)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path} does not say how to read a set: {error}") from error

    def _folder(self, name: str) -> Path | None:
        return next((path for path in (self.path / name, self.source / name) if path.is_dir()), None)

    def _only(self, name: str, kind: str, files: Mapping[str, tuple[Path, ...]]) -> Path:
        found = files.get(name, ())
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"{name} in {self.path} has several {kind}s: {', '.join(path.name for path in found)}")
        raise DataError(f"{name} in {self.path} has no {kind}: found no {kind}s/{name}.png (or {', '.join(_SUFFIXES)})")

    def _patients_file(self) -> dict[str, str]:
        path = self.file(PATIENTS_FILE)
        if path is None:
            return {}
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        patients: dict[str, str] = {}
        for number, row in enumerate(rows, start=2):
            name, patient = (row.get("id") or "").strip(), (row.get("patient") or "").strip()
            if not name or not patient or patients.get(name, patient) != patient:
                raise DataError(f"{path}, line {number}: expected `id,patient` and each id with one patient, got {row}")
            patients[name] = patient
        return patients


def is_volume(path: Path) -> bool:
    """Whether a file's name is that of a NIfTI volume."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def shortened(names: Iterable[str]) -> str:
    """The first few of some names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


def _listed(folder: Path, suffixes: tuple[str, ...]) -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        suffix = next((one for one in suffixes if path.name.lower().endswith(one)), None)
        if suffix and not path.name.startswith(".") and path.is_file():
            name = path.name[: -len(suffix)]
            found[name] = (*found.get(name, ()), path)
    return dict(sorted(found.items()))
