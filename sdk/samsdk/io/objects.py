"""Objects of images as files name them: each with its mask, its name, and where both come from."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samsdk.auto import AutoResult
from samsdk.errors import ImageError
from samsdk.everything.labelling import numbered_regions
from samsdk.everything.result import EverythingResult
from samsdk.io.dicom import Source
from samsdk.io.dicom_spacing import Spacing
from samsdk.masks import Region
from samsdk.results import Result
from samsdk.semantic import SemanticResult

UNNAMED: Final = "object"
"""The name of objects whose kind nobody said."""


@dataclass(frozen=True, eq=False)
class ObjectMask:
    """One object of one image.

    Attributes:
        region: its mask.
        name: of its kind, as "nucleus".
        score: the model's own estimate of the mask's IoU; None where there is none.
        bundle: name and content hash of the bundle that found it; None where it comes from elsewhere.
        prompted: whether somebody pointed at it.
        spacing: (x, y) millimetres a pixel of the image, None if unknown.
        source: the DICOM object that the image comes from, None if it comes from another file.
    """

    region: Region
    name: str = UNNAMED
    score: float | None = None
    bundle: str | None = None
    prompted: bool = True
    spacing: Spacing | None = None
    source: Source | None = None


def object_masks(result: Result | EverythingResult, name: str = UNNAMED) -> list[ObjectMask]:
    """The objects that a result found.

    Args:
        result: of a prompt, its best mask; of a semantic bundle, the mask of each class; of everything mode, each
            object.
        name: of what has none: classes have their own.

    Returns:
        Those that have a pixel: an empty mask is no object.
    """
    named: list[tuple[str, Region, float | None]]
    if isinstance(result, EverythingResult):
        named = [(name, one.region, one.score) for one in result.instances]
    elif isinstance(result, SemanticResult):
        named = [(label, region, None) for label, region in zip(result.labels.values(), result.regions, strict=True)]
    else:
        named = [(name, result.region, result.score)]
    return [_found(result, region, label, score) for label, region, score in named if region.area]


def numbered_objects(label_map: NDArray[np.integer], result: Result, name: str = UNNAMED) -> list[ObjectMask]:
    """The objects of a label map, as `Result.instances` makes them.

    Args:
        label_map: [H, W] integers, 0 is background, each other number one object.
        result: what it was made of.
        name: of all of them.

    Returns:
        In the order of their numbers; without scores, for the result's is that of all of them together.

    Raises:
        ImageError: the label map is of another size, or holds no numbers from 0 on.
    """
    if label_map.dtype.kind not in "ui" or label_map.shape != result.frame.original_size or label_map.min() < 0:
        raise ImageError(
            f"expected a label map of {result.frame.original_size} (H, W) integers from 0 on, got {label_map.dtype} of "
            f"{label_map.shape}"
        )
    return [_found(result, region, name, None) for region in numbered_regions(label_map)]


def _found(result: Result | EverythingResult, region: Region, name: str, score: float | None) -> ObjectMask:
    prompted = not isinstance(result, (SemanticResult, AutoResult, EverythingResult))
    return ObjectMask(region, name, score, result.bundle, prompted, result.spacing, result.source)
