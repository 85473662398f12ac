"""How large a pixel of a DICOM image is, in millimetres."""

import math
from collections.abc import MutableSequence
from typing import Any, Final

Spacing = tuple[float, float]
"""(x, y) millimetres a pixel: the distance between the centres of neighbours in a row, and in a column."""

# In the order in which they are believed. DICOM gives the distance of rows first. `PixelSpacing` is in the patient, or
# what somebody calibrated; of a projection `ImagerPixelSpacing` is at the detector, where an object appears larger than
# it is; `NominalScannedPixelSpacing` is on the film that was scanned.
_SPACINGS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
# PS3.3 C.8.5.5: what a region of an ultrasound image shows, and the unit of its axes.
_TISSUE: Final = 1
_CENTIMETRES: Final = 3
# Regions of one probe that differ by less agree: their numbers were rounded.
_AGREEMENT: Final = 1e-3

SPACING_TAGS: Final = (*_SPACINGS, "SequenceOfUltrasoundRegions")


def pixel_spacing(dataset: Any) -> Spacing | None:
    """The spacing that a data set gives.

    Args:
        dataset: a pydicom data set, its functional groups merged into it.

    Returns:
        The spacing, or None where there is none, or where it is no positive number.
    """
    for name in _SPACINGS:
        values = _numbers(dataset.get(name))
        if len(values) == 2:
            return checked_spacing(values[1], values[0])
    return _ultrasound_spacing(dataset)


def checked_spacing(x: float, y: float) -> Spacing | None:
    """The spacing, or None if one of the two is no positive number."""
    return (x, y) if all(math.isfinite(length) and length > 0 for length in (x, y)) else None


def _ultrasound_spacing(dataset: Any) -> Spacing | None:
    """The spacing on which all regions of tissue agree.

    A region that reaches out of the image says that the image was cut or made smaller after its regions were written:
    then what they say of its pixels cannot be believed.
    """
    found: list[Spacing] = []
    for region in dataset.get("SequenceOfUltrasoundRegions") or ():
        units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
        if region.get("RegionSpatialFormat") != _TISSUE or units != (_CENTIMETRES, _CENTIMETRES):
            continue
        deltas = _numbers([region.get("PhysicalDeltaX"), region.get("PhysicalDeltaY")])
        spacing = checked_spacing(deltas[0] * 10, deltas[1] * 10) if len(deltas) == 2 else None
        if spacing is None or not _inside(region, dataset):
            return None
        found.append(spacing)
    if not found:
        return None
    (x, y), *others = found
    agree = all(math.isclose(x, a, rel_tol=_AGREEMENT) and math.isclose(y, b, rel_tol=_AGREEMENT) for a, b in others)
    return (x, y) if agree else None


def _inside(region: Any, dataset: Any) -> bool:
    # The last column and row are the region's own; some devices write those after.
    right, bottom = region.get("RegionLocationMaxX1"), region.get("RegionLocationMaxY1")
    return right is not None and bottom is not None and right <= dataset.Columns and bottom <= dataset.Rows


def _numbers(values: Any) -> list[float]:
    """The values as floats; none where one is missing or no number."""
    if not isinstance(values, MutableSequence):
        return []
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        return []
