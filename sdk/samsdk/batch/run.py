"""A run over a folder: what is left to do is done, whatever an earlier run came to, and written down."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from samsdk import hub
from samsdk.batch.journal import Journal, open_journal
from samsdk.batch.outcome import FAILED
from samsdk.batch.plan import FileTask, Plan, plan_all, plan_prompted
from samsdk.batch.processes import cores, segment_in_processes
from samsdk.batch.prompts_file import Prompts, prompts_digest, read_prompts
from samsdk.batch.ray_engine import segment_on_ray
from samsdk.batch.report import BatchReport
from samsdk.batch.settings import (
    CONFIGURATION,
    EVERYTHING_FORMATS,
    IMAGE_FORMATS,
    JOURNAL,
    LOCK,
    VOLUME_FORMATS,
    Settings,
    check_configuration,
)
from samsdk.batch.table import table_rows, write_table
from samsdk.batch.worker import file_stamp
from samsdk.bundle import Bundle
from samsdk.errors import ImageError, OutputError, PromptError
from samsdk.everything.settings import EverythingSettings
from samsdk.io.atomic import atomic_write
from samsdk.io.locks import exclusive_lock
from samsdk.manifest import PROMPTABLE, VOLUME, Manifest

REPORT: Final = "report.json"
# How files are handed out, by the engine's name.
_ENGINES: Final = {"local": segment_in_processes, "ray": segment_on_ray}
# Temporary files and folders of `samsdk.io.atomic`.
_TEMPORARY: Final = re.compile(r"\.([0-9a-f]{32}\..+|.+\.[0-9a-f]{32}\.(partial|earlier))")
Progress = Callable[[int, int, int], None]


def run_batch(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    prompts: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    device: str = "auto",
    tier: str | None = None,
    zoom: bool | None = None,
    formats: Sequence[str] | None = None,
    measure: bool = False,
    variations: int = 0,
    everything: EverythingSettings | None = None,
    processes: int = 1,
    engine: str = "local",
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> BatchReport:
    """Segment the files of a folder, and of the folders in it.

    Called again with the same arguments it goes on where an earlier run ended, was interrupted or killed: files that
    are done are not done again, unless they were replaced or their masks are gone.

    Args:
        folder: of the files.
        out: the run's folder: `masks/FILE/OBJECT.png`, `results.csv`, `results.parquet` (with pyarrow) and
            `report.json`. Made if it is missing; else it must be empty, or of an earlier run of the same configuration.
        prompts: a prompts file, see `samsdk.batch.prompts_file`; None takes all files: bundles that need no prompt find
            what they know, and of others everything mode finds all objects.
        model: see `samsdk.load`; likewise `device` and `tier`.
        zoom: see `Predictor.segment`.
        formats: what is written for each object: `png`, `json`, `npz`, `nii.gz`, and of DICOM images `dcm`, a DICOM
            segmentation; None is `png`, of volumes `nii.gz`. Everything mode writes no `nii.gz`.
        measure: measure the masks, too; everything mode always does.
        variations: how many moved prompts give each measured value a range, see `samsdk.segment`.
        everything: how everything mode finds objects; None is as the default model needs it.
        processes: that segment at once; they share the processor's cores. With Ray, of a cluster that is started here.
        engine: `local` or `ray`.
        retry_failed: do again what failed in an earlier run.
        progress: called after each file with the number of files that are finished, of all, and of those that failed.

    Returns:
        What became of all files. One that fails does not raise.

    Raises:
        ImageError: there is no such folder.
        PromptError: the prompts file is not valid, or the bundle needs prompts, or takes none.
        OutputError: `out` is of another configuration, in use, or cannot be written.
        SamsdkError: the bundle cannot be loaded.
        ValueError: an argument is none of those that are possible.
    """
    begun = time.perf_counter()
    place, target = Path(folder).resolve(), Path(out).resolve()
    if not place.is_dir():
        raise ImageError(f"expected a folder of images, found none at {os.fspath(folder)}")
    bundle = Bundle.open(hub.resolve_bundle(model))
    asked = None if prompts is None else read_prompts(prompts)
    _check_task(bundle.manifest, asked)
    finds_all = asked is None and bundle.manifest.task == PROMPTABLE
    _check_fit(finds_all, everything, zoom, variations, measured=measure and asked is not None)
    if engine not in _ENGINES or processes < 1:
        raise ValueError(
            f"expected an engine of {', '.join(_ENGINES)} and 1 or more processes, got {engine}, {processes}"
        )
    settings = Settings(
        folder=place,
        out=target,
        model=_portable(model),
        bundle=bundle.identity,
        device=device,
        tier=tier,
        zoom=zoom,
        formats=_checked_formats(formats, bundle.manifest, finds_all),
        measure=measure,
        variations=variations,
        everything=(everything or EverythingSettings()) if finds_all else None,
        # Ray counts processors itself.
        threads=1 if engine == "ray" else max(1, cores() // processes),
    )
    with _run_folder(settings, None if asked is None else prompts_digest(asked)) as journal:
        plan = (
            plan_all(place, target, volumes=bundle.manifest.task == VOLUME)
            if asked is None
            else plan_prompted(place, asked, target)
        )
        left = [task for task in plan.tasks if not _is_finished(settings, journal, task, retry_failed)]
        _segment(settings, journal, plan, left, processes, engine, progress)
        return _write_report(settings, journal, plan, len(left), begun)


def _segment(
    settings: Settings,
    journal: Journal,
    plan: Plan,
    left: Sequence[FileTask],
    processes: int,
    engine: str,
    progress: Progress | None,
) -> None:
    """Do what is left, and note each file as it is finished."""
    again = {task.name for task in left}
    finished = len(plan.tasks) - len(left)
    failed = sum(journal.outcomes[task.name].state == FAILED for task in plan.tasks if task.name not in again)
    if not left:
        return
    outcomes = _ENGINES[engine](settings, left, processes)
    try:
        for outcome in outcomes:
            journal.add(outcome)
            finished += 1
            failed += outcome.state == FAILED
            if progress is not None:
                progress(finished, len(plan.tasks), failed)
    finally:
        # Ends the processes at once, not when this generator happens to be collected.
        outcomes.close()  # type: ignore[attr-defined]


def _is_finished(settings: Settings, journal: Journal, task: FileTask, retry_failed: bool) -> bool:
    outcome = journal.outcomes.get(task.name)
    if outcome is None or outcome.stamp != file_stamp(settings.folder / task.name):
        return False
    if outcome.state == FAILED and retry_failed:
        return False
    return all((settings.out / output).is_file() for output in outcome.outputs)


def _check_task(manifest: Manifest, prompts: Prompts | None) -> None:
    if prompts is None and manifest.task == PROMPTABLE and "points" not in manifest.prompt_kinds:
        raise PromptError(
            f"{manifest.name} takes no points, by which everything mode finds objects: give it a prompts file, or name "
            "another bundle"
        )
    if prompts is not None and not manifest.prompt_kinds:
        raise PromptError(f"{manifest.name} takes no prompts, it finds what it knows by itself: leave the prompts out")


def _check_fit(
    finds_all: bool, everything: EverythingSettings | None, zoom: bool | None, variations: int, *, measured: bool
) -> None:
    """Check that what was asked for is of one kind of run."""
    if everything is not None and not finds_all:
        raise ValueError("settings of everything mode are for bundles that take prompts, without a prompts file")
    if finds_all and zoom:
        raise ValueError("everything mode looks at tiles of each size already; leave zoom out")
    if variations < 0 or (variations and not measured):
        raise ValueError(
            "variations move the prompts of a prompts file, for ranges of what is measured: give both, or none, "
            f"not {variations}"
        )


def _checked_formats(formats: Sequence[str] | None, manifest: Manifest, finds_all: bool) -> tuple[str, ...]:
    known = VOLUME_FORMATS if manifest.task == VOLUME else EVERYTHING_FORMATS if finds_all else IMAGE_FORMATS
    if formats is None:
        return known[:1]
    wanted = tuple(dict.fromkeys(formats))
    if not wanted or not set(wanted) <= set(known):
        raise ValueError(f"expected formats of {', '.join(known)}, got {', '.join(wanted) or 'none'}")
    return wanted


def _portable(model: str | os.PathLike[str] | None) -> str | None:
    """What names the bundle in other processes, wherever they run."""
    if model is None:
        return None
    return str(Path(model).resolve()) if Path(model).exists() else os.fspath(model)


@contextmanager
def _run_folder(settings: Settings, prompts: str | None) -> Iterator[Journal]:
    """Take hold of the run's folder, check whose it is, and clear away what a killed run left half-written."""
    out = settings.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(out / LOCK, wait=False):
            _claim(out, settings.configuration(prompts))
            _clear(out)
            try:
                with open_journal(out / JOURNAL) as journal:
                    yield journal
            finally:
                _clear(out)
    except BlockingIOError as error:
        raise OutputError(f"{out.name} is in use by another run; wait for it, or choose another -o") from error
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise OutputError(f"cannot write to the folder {out.name}: {error.strerror}; choose another -o") from error


def _claim(out: Path, configuration: dict[str, Any]) -> None:
    path = out / CONFIGURATION
    if path.exists():
        try:
            earlier = json.loads(path.read_bytes())
        except ValueError as error:
            raise OutputError(f"{path.name} in {out.name} is damaged; choose another -o") from error
        check_configuration(earlier, configuration, out)
        return
    if any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise OutputError(f"{out.name} is not empty and not of an earlier run; choose another -o")
    with atomic_write(path) as file:
        file.write(json.dumps(configuration, indent=1).encode())


def _clear(out: Path) -> None:
    for place, folders, files in os.walk(out):
        for name in [name for name in folders if _TEMPORARY.fullmatch(name)]:
            shutil.rmtree(Path(place, name), ignore_errors=True)
            folders.remove(name)
        for name in files:
            if _TEMPORARY.fullmatch(name):
                Path(place, name).unlink(missing_ok=True)


def _write_report(settings: Settings, journal: Journal, plan: Plan, fresh: int, begun: float) -> BatchReport:
    # Files that were segmented and are no longer there keep their rows, as they keep their masks.
    known = {**{outcome.file: outcome for outcome in plan.others}, **journal.outcomes}
    outcomes = [known[name] for name in sorted(known)]
    written = write_table(settings.out, table_rows(outcomes))
    report = BatchReport(outcomes, fresh, time.perf_counter() - begun, settings.bundle, written)
    with atomic_write(settings.out / REPORT) as file:
        file.write(json.dumps(report.to_dict(), indent=1).encode())
    return report
