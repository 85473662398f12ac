"""Prompts files: which objects to segment in which files, as CSV or JSON.

    file,object,points,labels,box
    ward/a.png,gland,"316,400; 250,320",1;0,
    ward/a.png,lumen,,,"250,302,384,510"

A row, or an object of the JSON list, is one object of one file. Points are x,y pairs, boxes x0,y0,x1,y1, in pixels of
the image; `points_mm` and `box_mm` are the same in millimetres; `frame` is of DICOM files with several frames.
"""

import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from samsdk.errors import PromptError

SUFFIXES: Final = (".csv", ".json")
_NAMES: Final = ("file", "object")
_NUMBERS: Final = ("points", "labels", "box", "points_mm", "box_mm")
_FIELDS: Final = (*_NAMES, *_NUMBERS, "frame")
_DELIMITERS: Final = ",;\t"
# What may stand between the numbers of a cell, however a person or a program writes lists.
_BETWEEN: Final = re.compile(r"[\s,;\[\]()]+")
_BOX: Final = 4
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class ObjectPrompt:
    """One object of one file; all empty, it is for bundles that need no prompt.

    Attributes:
        name: of the object; empty where it has none.
        points: (x, y) pairs in pixels, None if there are none.
        labels: of the points, 1 or 0; None is all 1.
        box: (x0, y0, x1, y1) in pixels, None if there is none.
        points_mm: points in millimetres.
        box_mm: box in millimetres.
        frame: of a DICOM file or TIFF with several.
    """

    name: str = ""
    points: tuple[Numbers, ...] | None = None
    labels: Numbers | None = None
    box: Numbers | None = None
    points_mm: tuple[Numbers, ...] | None = None
    box_mm: Numbers | None = None
    frame: int | None = None


Prompts = Mapping[str, tuple[ObjectPrompt, ...]]


def read_prompts(path: str | os.PathLike[str]) -> Prompts:
    """Read a prompts file.

    Args:
        path: ends in `.csv` (comma, semicolon or tab, UTF-8) or `.json`.

    Returns:
        The objects of each file, in their order; the files' names relative to the folder, with `/`.

    Raises:
        PromptError: the file cannot be read, or one of its rows is not valid; the text says which.
    """
    place = Path(path)
    if place.suffix.lower() not in SUFFIXES:
        raise PromptError(f"expected a prompts file that ends in {' or '.join(SUFFIXES)}, got {place.name}")
    try:
        text = place.read_text(encoding="utf-8-sig")
        rows = list(_csv_rows(text) if place.suffix.lower() == ".csv" else _json_rows(text))
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PromptError(f"cannot read the prompts file {place.name}: {reason}") from error
    prompts: dict[str, list[ObjectPrompt]] = {}
    for where, row in rows:
        try:
            prompts.setdefault(_file_name(row.get("file")), []).append(_object(row))
        except ValueError as error:
            raise PromptError(f"{place.name}, {where}: {error}") from error
    if not prompts:
        raise PromptError(f"the prompts file {place.name} names no file")
    for file, objects in prompts.items():
        _check_names(file, objects)
    return {file: tuple(objects) for file, objects in prompts.items()}


def prompts_digest(prompts: Prompts) -> str:
    """A hash of what is asked for, however the prompts file writes it: 16 hexadecimal digits."""
    content = {file: [asdict(one) for one in objects] for file, objects in sorted(prompts.items())}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _csv_rows(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    header = text.partition("\n")[0]
    reader = csv.DictReader(text.splitlines(), delimiter=max(_DELIMITERS, key=header.count), skipinitialspace=True)
    _check_fields(reader.fieldnames or [], "its header")
    for row in reader:
        # DictReader files cells beyond the header under None.
        if None in row:
            raise PromptError(f"line {reader.line_num} has more cells than the header; quote cells that hold commas")
        yield f"line {reader.line_num}", {name: cell for name, cell in row.items() if (cell or "").strip()}


def _json_rows(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = json.loads(text)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PromptError('expected a JSON list of objects such as {"file": "a.png", "box": [250, 302, 384, 510]}')
    for number, row in enumerate(rows, 1):
        _check_fields(list(row), f"object {number}")
        yield f"object {number}", {name: value for name, value in row.items() if value is not None}


def _check_fields(names: Sequence[str], where: str) -> None:
    unknown = sorted(set(names) - set(_FIELDS))
    if unknown or "file" not in names:
        raise PromptError(
            f"{where} of the prompts file must name file and may name {', '.join(_FIELDS[1:])}; "
            f"got {', '.join(map(str, names)) or 'nothing'}"
        )


def _file_name(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected the name of a file, got {value!r}")
    path = PurePosixPath(value.strip().replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise ValueError(f"expected the name of a file relative to the folder and within it, got {value!r}")
    return str(path)


def _object(row: Mapping[str, Any]) -> ObjectPrompt:
    numbers = {name: _numbers(row.get(name), name) for name in _NUMBERS}
    frame = _numbers(row.get("frame"), "frame")
    if frame is not None and (len(frame) != 1 or frame[0] != int(frame[0])):
        raise ValueError(f"expected the number of a frame, got {row['frame']!r}")
    for name in ("box", "box_mm"):
        if len(numbers[name] or [0.0] * _BOX) != _BOX:
            raise ValueError(f"expected {name} as x0,y0,x1,y1, got {row[name]!r}")
    return ObjectPrompt(
        name=str(row.get("object", "")).strip(),
        points=_pairs(numbers["points"], "points"),
        labels=numbers["labels"],
        box=numbers["box"],
        points_mm=_pairs(numbers["points_mm"], "points_mm"),
        box_mm=numbers["box_mm"],
        frame=None if frame is None else int(frame[0]),
    )


def _numbers(value: object, name: str) -> Numbers | None:
    """The numbers of a cell or of nested lists, one after the other."""
    if value is None or value == []:
        return None
    try:
        found = tuple(float(word) for word in _BETWEEN.split(json.dumps(value).strip('"')) if word)
    except ValueError as error:
        raise ValueError(f"expected {name} as numbers, got {value!r}") from error
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(f"expected {name} as finite numbers, got {value!r}")
    return found


def _pairs(numbers: Numbers | None, name: str) -> tuple[Numbers, ...] | None:
    if numbers is None:
        return None
    if len(numbers) % 2:
        raise ValueError(f"expected {name} as pairs x,y, got {len(numbers)} numbers")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _check_names(file: str, objects: Sequence[ObjectPrompt]) -> None:
    names = [one.name for one in objects if one.name]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PromptError(f"{file} has several objects called {', '.join(twice)}; give each its own name")
