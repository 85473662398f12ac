"""What there is to do: the files of a folder, each with the objects that are wanted of it."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samsdk.batch.outcome import FAILED, ObjectRow, Outcome
from samsdk.batch.prompts_file import ObjectPrompt, Prompts
from samsdk.errors import ImageError
from samsdk.io import dicom, nifti

# Of what `samsdk.io.images.read_image` reads.
IMAGE_SUFFIXES: Final = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm"),
    *dicom.SUFFIXES,
)
# DICOM's mark is at byte 128.
_HEADER: Final = 132
_LONGEST_NAME: Final = 80


@dataclass(frozen=True)
class FileTask:
    """One file to segment.

    Attributes:
        name: relative to the folder, with `/`.
        objects: that are wanted of it; a single empty one where the bundle finds what it knows.
    """

    name: str
    objects: tuple[ObjectPrompt, ...] = (ObjectPrompt(),)


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Attributes:
        tasks: files to segment, by name.
        others: of files that are not for this run, and of folders that cannot be read.
    """

    tasks: tuple[FileTask, ...]
    others: tuple[Outcome, ...]


def plan_prompted(folder: Path, prompts: Prompts, out: Path) -> Plan:
    """Plan the files that a prompts file names.

    Args:
        folder: the files are in; those images in it that the prompts file does not name are skipped.
        prompts: the objects of each file.
        out: the run's folder, which may lie in `folder`.
    """
    tasks = tuple(FileTask(name, prompts[name]) for name in sorted(prompts))
    suffixes = (*IMAGE_SUFFIXES, *nifti.SUFFIXES)
    others = [
        found if isinstance(found, Outcome) else Outcome.skip(found, "the prompts file does not name it")
        for found in _walk(folder, out)
        if isinstance(found, Outcome) or found.lower().endswith(suffixes)
    ]
    return Plan(tasks, tuple(other for other in others if other.file not in prompts))


def plan_all(folder: Path, out: Path, *, volumes: bool) -> Plan:
    """Plan all files of a folder, for bundles that need no prompt.

    Args:
        folder: with all folders in it; hidden files are left out.
        out: the run's folder, which may lie in `folder`.
        volumes: whether the bundle takes NIfTI volumes, or images.
    """
    tasks, others = [], []
    for found in _walk(folder, out):
        reason = None if isinstance(found, Outcome) else _unfit(folder, found, volumes)
        if isinstance(found, Outcome):
            others.append(found)
        elif reason:
            others.append(Outcome.skip(found, reason))
        else:
            tasks.append(FileTask(found))
    return Plan(tuple(tasks), tuple(others))


def output_stems(objects: Sequence[ObjectPrompt]) -> list[str]:
    """A file name without suffix for each object of a file, no two alike even where upper case is no difference."""
    stems: list[str] = []
    taken: set[str] = set()
    for number, one in enumerate(objects, 1):
        plain = re.sub(r"[^\w.-]+", "_", one.name)[:_LONGEST_NAME].strip("._")
        wanted = stem = plain or ("object" if len(objects) == 1 else f"object-{number}")
        count = 1
        while stem.casefold() in taken:
            count += 1
            stem = f"{wanted}-{count}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def _walk(folder: Path, out: Path) -> Iterator[str | Outcome]:
    """The names of all files, in order; an outcome for what looks like a file and is none, or cannot be looked at."""
    unread: list[OSError] = []
    left_out = out.resolve()
    for place, folders, files in os.walk(folder, onerror=unread.append):
        here = Path(place)
        for name in sorted(folders):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield Outcome.skip((here / name).relative_to(folder).as_posix(), "a folder; the files in it are taken")
        folders[:] = sorted(one for one in folders if not one.startswith(".") and (here / one).resolve() != left_out)
        yield from ((here / name).relative_to(folder).as_posix() for name in sorted(files) if not name.startswith("."))
    for error in unread:
        name = Path(error.filename).relative_to(folder).as_posix()
        message = f"the folder {name} cannot be read: {error.strerror}"
        yield Outcome(name, (ObjectRow("", FAILED, ImageError.__name__, message),))


def _unfit(folder: Path, name: str, volumes: bool) -> str | None:
    """Why a file is not for a bundle, by its name or its first bytes; None if it may be."""
    if nifti.is_nifti(name):
        return None if volumes else "a volume; the bundle is for images"
    if volumes:
        return "not a NIfTI volume (.nii or .nii.gz) by its name"
    if name.lower().endswith(IMAGE_SUFFIXES) or _has_dicom_header(folder / name):
        return None
    return "not an image by its name, and no DICOM file"


def _has_dicom_header(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return dicom.is_dicom(file.read(_HEADER))
    except OSError:
        return False
