"""The objects of one file: each prompt's answer, all there are, or an image's or a volume's classes; rows and files."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from samsdk.auto import AutoResult
from samsdk.batch.outcome import FAILED, ObjectRow
from samsdk.batch.plan import FileTask, output_stems
from samsdk.batch.prompts_file import ObjectPrompt
from samsdk.batch.settings import DICOM, MASKS, Settings
from samsdk.errors import PromptError
from samsdk.everything.generator import segment_everything
from samsdk.everything.result import EverythingResult
from samsdk.io.objects import UNNAMED, object_masks
from samsdk.io.saving import save_result
from samsdk.io.scans import Scan, read_scan
from samsdk.masks import Region
from samsdk.measuring import Measurement, measure
from samsdk.measuring.sizes import summary
from samsdk.predictor import Predictor
from samsdk.results import Result
from samsdk.semantic import SemanticResult
from samsdk.volumes.predictor import VolumePredictor
from samsdk.volumes.result import VolumeResult

_LABELS: Final = "labels"
_EVERYTHING: Final = "everything"
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
            mask = _save(result, settings, task, partial, stem, one.name)
            found = _describe(result, settings, name, mask)
            if isinstance(result, AutoResult) and result.splitting is not None and "png" in settings.formats:
                result.save_instances(partial / (_INSTANCES if len(task.objects) == 1 else f"{stem}.{_INSTANCES}"))
        rows += _timed(found, begun)
    return rows


def find_everything(predictor: Predictor, settings: Settings, task: FileTask, partial: Path) -> list[ObjectRow]:
    """Find all objects of an image without a prompt.

    Args:
        predictor: of a bundle that takes points.
        settings: the run's, with those of everything mode.
        task: the image.
        partial: folder to write to.

    Returns:
        One row: how many objects there are, and how their sizes are distributed, as `area_mm2_median`.

    Raises:
        SamsdkError: the image cannot be read or used, or the label map not be written.
    """
    begun = time.perf_counter()
    assert settings.everything is not None
    scan = read_scan(settings.folder / task.name, frame=task.objects[0].frame)
    result = segment_everything(predictor, scan, settings.everything)
    mask = _save(result, settings, task, partial, _LABELS)
    sizes = result.sizes()
    row = ObjectRow(
        _EVERYTHING,
        area=int(sizes.areas_px2.sum()),
        spacing=result.spacing,
        instances=sizes.count,
        instances_cut=int(np.count_nonzero(sizes.cut)),
        measurements={
            f"{name}_{how}": _rounded(value)
            for name, values in (sizes.values().items() if sizes.count else ())
            for how, value in summary(values).items()
        },
        mask=mask,
    )
    return _timed([row], begun)


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
    names = [f"{_LABELS}.{suffix}" for suffix in settings.formats]
    for name in names:
        result.save(partial / name)
    mask = f"{MASKS}/{task.name}/{names[0]}"
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
        variations=settings.variations,
    )


def _save(
    result: Result | EverythingResult, settings: Settings, task: FileTask, partial: Path, stem: str, name: str = ""
) -> str | None:
    """Write a result in each format; the first file's path within the run's folder, None where there is none."""
    # A DICOM segmentation of nothing is no valid one: a DICOM image in which nothing was found has none.
    nothing = result.source is not None and not object_masks(result)
    names = [f"{stem}.{suffix}" for suffix in settings.formats if not (nothing and suffix == DICOM)]
    for file in names:
        save_result(result, partial / file, settings.folder / task.name, name=name or UNNAMED)
    return f"{MASKS}/{task.name}/{names[0]}" if names else None


def _describe(result: Result, settings: Settings, name: str, mask: str | None) -> list[ObjectRow]:
    if isinstance(result, SemanticResult):
        regions = zip(result.labels.values(), result.regions, strict=True)
        measured = [
            (label, region, measure(region, result.spacing) if settings.measure else None) for label, region in regions
        ]
        return [_row(*one, result, mask) for one in measured]
    row = _row(name, result.region, result.measure() if settings.measure else None, result, mask)
    row = replace(row, score=round(result.score, 6))
    if isinstance(result, AutoResult) and result.splitting is not None:
        row = replace(row, instances=int(result.instances().max(initial=0)))
    return [row]


def _row(name: str, region: Region, measured: Measurement | None, result: Result, mask: str | None) -> ObjectRow:
    return ObjectRow(
        name,
        area=region.area,
        box=region.box,
        spacing=result.spacing,
        measurements={key: _rounded(value) for key, value in _values(measured).items()} if measured else {},
        mask=mask,
    )


def _values(measured: Measurement) -> dict[str, float]:
    """The values by name and unit; with the ends of each one's range, as `area_mm2_low`, and the masks' agreement."""
    values = measured.values()
    if measured.stability is not None:
        for name, (low, high) in measured.stability.ranges.items():
            values |= {f"{name}_low": low, f"{name}_high": high}
        values["agreement"] = measured.stability.agreement
    return values


def _rounded(value: float) -> float:
    """To 9 digits, wherever the point is: areas of cells in mm2 begin behind many zeros."""
    return float(f"{value:.9g}")


def _timed(rows: Sequence[ObjectRow], begun: float) -> list[ObjectRow]:
    """The rows, with the seconds since `begun` at the first, for what they share was done for it."""
    seconds = round(time.perf_counter() - begun, 4)
    return [replace(row, seconds=0.0 if index else seconds) for index, row in enumerate(rows)]
