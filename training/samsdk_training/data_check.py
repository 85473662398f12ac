"""What is in a labelled set, and all that is wrong with it, before hours of training are spent on it."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from samsdk_training.set_folder import LISTS, PATIENTS_FILE, DataError, SetFolder, shortened
from samsdk_training.set_report import TITLES, Problem, SetReport
from samsdk_training.split import TRAIN_LIST, VALIDATION_LIST
from samsdk_training.survey import Survey

# Of the images with one problem, so many are named in a report for programs, and of a fault's text so much is quoted.
_NAMED: Final = 20
_QUOTED: Final = 200


def check_set(folder: str | os.PathLike[str], *, patients: str | None = None) -> SetReport:
    """Read all of a set and say what it holds and what is wrong with it.

    Args:
        folder: of the set.
        patients: a regular expression whose first group is the patient; None takes `patients.csv`.

    Returns:
        The report. Files that are malformed are told in it, whatever they are.

    Raises:
        DataError: there is no such folder, or its `set.json` is malformed.
        MissingExtraError: the set holds NIfTI volumes, and nibabel is not installed.
    """
    source = SetFolder(folder)
    if not source.path.is_dir():
        raise DataError(f"{source.path} is no folder")
    survey = Survey(source)
    if not source.images:
        survey.add("empty", str(source.path))
    elif len(source.images) == 1:
        survey.add("one image", next(iter(source.images)))
    for name in source.images:
        survey.look(name)
    for name in source.masks:
        if name not in source.images:
            survey.add("no image", name)
    if survey.masks and not survey.labels:
        survey.add("no objects", source.path.name, f"{survey.masks} masks")
    known = _patients(source, survey, patients)
    lists = _lists(source, survey)
    copies = [names for names in survey.digests.values() if len(names) > 1]
    _compare(survey, lists, known, copies)
    return SetReport(
        **survey.facts(),
        patients=len(set(known.values())) or None,
        lists={
            name: {"images": len(ids), "patients": len({known[one] for one in ids if one in known}) or None}
            for name, ids in lists.items()
        },
        duplicates=copies[:_NAMED],
        notes=_notes(source, survey, lists, copies),
        problems=[_problem(kind, survey.problems[kind]) for kind in TITLES if survey.problems[kind]],
    )


def _patients(source: SetFolder, survey: Survey, pattern: str | None) -> dict[str, str]:
    ids = list(source.images)
    try:
        known = source.patients(ids, pattern)
    except DataError as error:
        survey.add("malformed", "patients", str(error))
        return {}
    strangers = [name for name in ids if name not in known] if known else []
    if strangers:
        survey.add("malformed", PATIENTS_FILE, f"{PATIENTS_FILE} lacks {shortened(strangers)}")
    return known


def _lists(source: SetFolder, survey: Survey) -> dict[str, list[str]]:
    lists = {}
    for list_name in LISTS:
        if source.file(list_name) is None:
            continue
        try:
            lists[list_name] = source.ids(list_name)
        except DataError as error:
            survey.add("malformed", list_name, str(error))
            continue
        for name, count in Counter(lists[list_name]).items():
            if name not in source.images:
                survey.add("lists", f"{name} ({list_name})", "without image")
            elif count > 1:
                survey.add("lists", f"{name} ({list_name})", f"{count} times")
    return lists


def _compare(
    survey: Survey, lists: Mapping[str, Sequence[str]], patients: Mapping[str, str], copies: Sequence[Sequence[str]]
) -> None:
    train, validation = (set(lists.get(name, ())) for name in (TRAIN_LIST, VALIDATION_LIST))
    for name in sorted(train & validation):
        survey.add("in both", name)
    whose = [{patients[name] for name in part if name in patients} for part in (train, validation)]
    for patient in sorted(whose[0] & whose[1]):
        survey.add("patients", patient)
    for names in copies:
        if train & {*names} and validation & {*names}:
            survey.add("duplicates", " = ".join(names))


def _notes(
    source: SetFolder, survey: Survey, lists: Mapping[str, Sequence[str]], copies: Sequence[Sequence[str]]
) -> list[str]:
    notes = [f"{text}: {shortened(names)}" for text, names in survey.notes.items()]
    listed = {name for ids in lists.values() for name in ids}
    left = [name for name in source.images if name not in listed]
    if lists and left:
        notes.append(f"images in no list: {len(left)} ({shortened(left)})")
    notes += [f"{name} is empty" for name, ids in lists.items() if not ids]
    if copies:
        groups = shortened(" = ".join(names[:3]) for names in copies)
        notes.append(f"groups of images with the same pixels: {len(copies)} ({groups})")
    if survey.labels and survey.labels != list(range(1, len(survey.labels) + 1)):
        numbers = shortened(map(str, survey.labels))
        notes.append(f"the masks show classes {numbers}, not 1 to {len(survey.labels)}")
    return notes


def _problem(kind: str, found: Mapping[str, str]) -> Problem:
    names = list(found)
    text = TITLES[kind] if kind in ("empty", "one image") else f"{TITLES[kind]}: {len(names)} ({shortened(names)})"
    first = next((detail for detail in found.values() if detail), "")
    return Problem(kind, len(names), tuple(names[:_NAMED]), text + (f"; first: {first}"[:_QUOTED] if first else ""))
