"""The objects of one file: each prompt's answer, a label map's classes, or a volume's, as rows and as files."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from samsdk.auto import AutoResult
from samsdk.batch.outcome import FAILED, ObjectRow
from samsdk.batch.plan import FileTask, output_stems
from samsdk.batch.prompts_file import ObjectPrompt
from samsdk.batch.settings import MASKS, Settings
from samsdk.errors import PromptError
from samsdk.io.scans import Scan, read_scan
from samsdk.masks import Region
from samsdk.measuring import measure
from samsdk.predictor import Predictor
from samsdk.results import Result
from samsdk.semantic import SemanticResult
from samsdk.volumes.predictor import VolumePredictor
from samsdk.volumes.result import VolumeResult

_LABELS: Final = "labels"
_INSTANCES: Final = "instances.png"


def segment_objects(predictor: Predictor, settings: Settings, task: FileTask, partial: Path) -> list[ObjectRow]:
    """Segment the objects of an image; one whose prompt cannot be used fails alone.

    Args:
        predictor: of a bundle for images.
        settings: the run's.
        task: the image and its objects.
        partial: folder to write to.

    Returns:
        A row for each object, or for each class of a label map.

    Raises:
        SamsdkError: the image cannot be read or used, or a result not be written.
    """
    scans: dict[int | None, Scan] = {}
    rows: list[ObjectRow] = []
    for one, stem in zip(task.objects, output_stems(task.objects), strict=True):
        begun = time.perf_counter()
        if one.frame not in scans:
            # One at a time: a file may hold hundreds of frames.
            scans = {one.frame: read_scan(settings.folder / task.name, frame=one.frame)}
        name = one.name or stem
        try:
            result = _segment(predictor, settings, scans[one.frame], one)
        except PromptError as error:
            found = [ObjectRow(name, FAILED, type(error).__name__, str(error))]
        else:
            stem = _LABELS if isinstance(result, SemanticResult) and not one.name else stem
            mask = _save(result.save, settings.formats, task, partial, stem)
            found = _describe(result, settings, name, mask)
            if isinstance(result, AutoResult) and result.splitting is not None and "png" in settings.formats:
                result.save_instances(partial / (_INSTANCES if len(task.objects) == 1 else f"{stem}.{_INSTANCES}"))
        rows += _timed(found, begun)
    return rows


def label_volume(predictor: Predictor, settings: Settings, task: FileTask, partial: Path) -> list[ObjectRow]:
    """Name the class of each voxel of a NIfTI volume.

    Args:
        predictor: of a bundle for volumes.
        settings: the run's.
        task: the volume.
        partial: folder to write to.

    Returns:
        A row for each class.

    Raises:
        SamsdkError: the volume cannot be read or used, or the label map not be written.
    """
    begun = time.perf_counter()
    assert isinstance(predictor, VolumePredictor)
    result: VolumeResult = predictor.segment(settings.folder / task.name)
    mask = _save(result.save, settings.formats, task, partial, _LABELS)
    z, y, x = result.grid.spacing
    millilitres = result.volumes_ml()
    rows = [
        ObjectRow(name, spacing=(x, y, z), voxels=voxels, ml=round(millilitres[name], 6), mask=mask)
        for name, voxels in result.voxels.items()
    ]
    return _timed(rows, begun)


def _segment(predictor: Predictor, settings: Settings, scan: Scan, one: ObjectPrompt) -> Result:
    return predictor.segment(
        scan,
        points=one.points,
        labels=one.labels,
        box=one.box,
        points_mm=one.points_mm,
        box_mm=one.box_mm,
        zoom=settings.zoom,
    )


def _save(save: Callable[[Path], None], formats: Sequence[str], task: FileTask, partial: Path, stem: str) -> str:
    """Write a result in each format; the first file's path within the run's folder."""
    for suffix in formats:
        save(partial / f"{stem}.{suffix}")
    return f"{MASKS}/{task.name}/{stem}.{formats[0]}"


def _describe(result: Result, settings: Settings, name: str, mask: str) -> list[ObjectRow]:
    if isinstance(result, SemanticResult):
        regions = zip(result.labels.values(), result.regions, strict=True)
        return [_row(label, region, result, settings, mask) for label, region in regions]
    row = replace(_row(name, result.region, result, settings, mask), score=round(result.score, 6))
    if isinstance(result, AutoResult) and result.splitting is not None:
        row = replace(row, instances=int(result.instances().max(initial=0)))
    return [row]


def _row(name: str, region: Region, result: Result, settings: Settings, mask: str) -> ObjectRow:
    values = measure(region, result.spacing).values() if settings.measure else {}
    measurements = {key: round(value, 6) for key, value in values.items()}
    return ObjectRow(
        name, area=region.area, box=region.box, spacing=result.spacing, measurements=measurements, mask=mask
    )


def _timed(rows: Sequence[ObjectRow], begun: float) -> list[ObjectRow]:
    """The rows, with the seconds since `begun` at the first, for what they share was done for it."""
    seconds = round(time.perf_counter() - begun, 4)
    return [replace(row, seconds=0.0 if index else seconds) for index, row in enumerate(rows)]
