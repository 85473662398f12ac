"""One file of a run: segmented and written, or the reason why not. Every engine runs this."""

import os
import shutil
import time
from functools import lru_cache
from pathlib import Path
from typing import Final

import samsdk
from samsdk.batch.objects import find_everything, label_volume, segment_objects
from samsdk.batch.outcome import FAILED, ObjectRow, Outcome, Stamp
from samsdk.batch.plan import FileTask
from samsdk.batch.settings import MASKS, Settings
from samsdk.errors import BundleError, SamsdkError
from samsdk.io.atomic import atomic_folder
from samsdk.predictor import Predictor
from samsdk.volumes.predictor import VolumePredictor

PROCESS_DIED: Final = "ProcessDied"
_UNEXPECTED: Final = "an error that samsdk does not expect; segment this file alone to see it whole"


@lru_cache(maxsize=1)
def open_predictor(settings: Settings) -> Predictor:
    """The run's bundle, loaded once in a process.

    Raises:
        BundleError: it is not the bundle that the run began with; or as `samsdk.load`.
        BackendError, MissingExtraError: as `samsdk.load`.
    """
    predictor = samsdk.load(settings.model, device=settings.device, tier=settings.tier, threads=settings.threads)
    if predictor.bundle.identity != settings.bundle:
        raise BundleError(
            f"the run is with {settings.bundle}, but this process finds {predictor.bundle.identity}: bring the same "
            "bundle to every machine, and do not replace it while a run goes on"
        )
    return predictor


def segment_file(settings: Settings, task: FileTask) -> Outcome:
    """Segment one file of a run and write what was found: all of it appears at once, or none.

    Args:
        settings: the run's.
        task: the file and its objects.

    Returns:
        What became of it; whatever is wrong with the file is in there.

    Raises:
        SamsdkError: the bundle cannot be loaded, see `open_predictor`.
    """
    predictor = open_predictor(settings)
    answer = find_everything if settings.everything is not None else segment_objects
    if isinstance(predictor, VolumePredictor):
        answer = label_volume
    begun, stamp = time.perf_counter(), file_stamp(settings.folder / task.name)
    target = settings.out / MASKS / task.name
    names: list[str] = []
    try:
        with atomic_folder(target) as partial:
            rows = answer(predictor, settings, task, partial)
        names = sorted(file.name for file in target.iterdir())
    except Exception as error:
        # Whatever is wrong with one file is no reason to leave the others undone.
        seconds = time.perf_counter() - begun
        rows = [ObjectRow("", FAILED, type(error).__name__, _explain(error, settings), round(seconds, 4))]
    finally:
        predictor.forget()
    if not names:
        # Nothing was found out now, and what an earlier run found may be of another file of this name.
        shutil.rmtree(target, ignore_errors=True)
    outputs = tuple(f"{MASKS}/{task.name}/{name}" for name in names)
    return Outcome(task.name, tuple(rows), outputs, stamp, settings.bundle, predictor.provider)


def process_died(settings: Settings, task: FileTask, how: str) -> Outcome:
    """What became of a file whose process did not live to tell.

    Args:
        settings: the run's.
        task: the file.
        how: the process died.
    """
    message = f"the process that segmented it died {how}; the file may be damaged, or too large for the memory"
    stamp = file_stamp(settings.folder / task.name)
    return Outcome(task.name, (ObjectRow("", FAILED, PROCESS_DIED, message),), stamp=stamp, bundle=settings.bundle)


def file_stamp(path: Path) -> Stamp | None:
    """Size and time of the last change (ns) of a file, None if there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def _explain(error: Exception, settings: Settings) -> str:
    """An error's text without where the folders are, which may name a patient."""
    if not isinstance(error, SamsdkError):
        return _UNEXPECTED
    text = str(error)
    for folder in (settings.out, settings.folder):
        for place in {str(folder) + os.sep, repr(str(folder) + os.sep)[1:-1]}:
            text = text.replace(place, "")
    return text
