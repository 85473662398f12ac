"""Results as files: those that they write themselves, and those that refer to the file that was segmented."""

import os
from pathlib import Path
from typing import Final

from samsdk.errors import OutputError
from samsdk.everything.result import EverythingResult
from samsdk.io.coco import CocoImage, write_coco
from samsdk.io.dicom import has_dicom_name
from samsdk.io.dicom_seg import segment_each, write_segmentation
from samsdk.io.objects import UNNAMED, object_masks
from samsdk.results import Result

COCO_SUFFIX: Final = ".coco.json"


def save_result(
    result: Result | EverythingResult,
    path: str | os.PathLike[str],
    image: str | os.PathLike[str] | bytes,
    *,
    name: str = UNNAMED,
    polygons: bool = False,
) -> None:
    """Write a result, by the path's suffix, under a temporary name first.

    Args:
        result: to write.
        path: `.dcm` is a DICOM segmentation of what was found, see `samsdk.io.dicom_seg`; else see the result's `save`.
        image: the file that was segmented; a DICOM segmentation belongs to its patient and study.
        name: of what has none.
        polygons: of `.coco.json`, tell masks as polygons, see `samsdk.io.coco`.

    Raises:
        OutputError: as the result's `save`; a DICOM segmentation is asked for, but the image is no DICOM file, or
            nothing was found in it; polygons are asked for in another file.
        ImageError: the DICOM file's header is not as the standard demands.
        MissingExtraError: the file's format needs an extra that is not installed.
    """
    file = Path(path).name
    if polygons:
        if not file.lower().endswith(COCO_SUFFIX):
            raise OutputError(f"cannot write {file}: polygons are for COCO files; end its name in {COCO_SUFFIX}")
        size = result.label_map.shape if isinstance(result, EverythingResult) else result.frame.original_size
        found = CocoImage((size[0], size[1]), object_masks(result, name), spacing=result.spacing)
        write_coco(path, [found], polygons=True)
    elif not has_dicom_name(path):
        result.save(path)
    elif result.source is None:
        raise OutputError(
            f"cannot write {file}: a DICOM segmentation refers to the DICOM image that was segmented, and this image "
            "is none; write another format"
        )
    else:
        masks = object_masks(result, name)
        if not masks:
            raise OutputError(f"cannot write {file}: nothing was found, and a DICOM segmentation holds what was found")
        write_segmentation(path, segment_each(masks), image)
