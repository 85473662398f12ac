"""Which slices to annotate: the few exemplars that everything else is synthesised from.

The publication does not say how its exemplars were picked. `richest` follows the premise of the technique that it
builds on (ELSNet: one image can show all organs); `quantiles` spreads over the sizes of a lesion.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from samsdk_training.data import DataError, LabelledImage
from samsdk_training.synthesis.config import SynthesisConfig

# How slices of volumes are named: the volume, the axis that they were cut across, and their number along it.
_SLICE_NAME: Final = re.compile(r"(?P<volume>.+)_(?P<axis>[xyz])(?P<index>\d+)")


@dataclass(frozen=True)
class SliceSummary:
    """What the choice needs to know of one labelled image.

    Attributes:
        name: its id.
        patient: whose it is; the volume where that is not known.
        volume: what it was cut from; an image on its own is its own volume.
        axis: across which it was cut; slices of one volume are near or far only along one axis.
        index: its place along that axis.
        areas: pixels of each class that it shows.
    """

    name: str
    patient: str
    volume: str
    axis: str
    index: int
    areas: Mapping[int, int]

    @property
    def area(self) -> int:
        """Labelled pixels of all classes."""
        return sum(self.areas.values())


def place_of(name: str) -> tuple[str, str, int]:
    """Volume, axis and index of a slice named `<volume>_<x, y or z><number>`; any other name is a volume of its own."""
    match = _SLICE_NAME.fullmatch(name)
    return (match["volume"], match["axis"], int(match["index"])) if match else (name, "", 0)


def summarise_slice(labelled: LabelledImage) -> SliceSummary:
    """Count the classes of one labelled image, whose label numbers are classes."""
    volume, axis, index = place_of(labelled.name)
    classes, counts = np.unique(labelled.label[labelled.label > 0], return_counts=True)
    areas = dict(zip(classes.tolist(), counts.tolist(), strict=True))
    return SliceSummary(labelled.name, labelled.patient or volume, volume, axis, index, areas)


def choose_exemplars(
    slices: Iterable[SliceSummary], count: int, config: SynthesisConfig, *, seed: int = 0
) -> list[str]:
    """Choose the images to learn from.

    `richest`, one image after the other: the one with the most classes that none so far has (where
    `config.cover_classes`), then one of the patient who was taken least, then the one with the most classes, the most
    labelled pixels, the first in the order given. `quantiles`: slices in the order of their area are cut into `count`
    runs of the same length, and out of each one is drawn, of a patient who was taken least so far.

    Args:
        slices: of the labelled images; those without a label are passed over.
        count: how many to choose.
        config: the rule, and the least distance of two slices of one volume; a slice that brings a new class need not
            keep it.
        seed: of the draws of `quantiles`.

    Returns:
        Names in the order of choice: of `richest` the first N are what would be chosen for N.

    Raises:
        DataError: there are not so many images to choose.
    """
    candidates = [one for one in slices if one.areas]
    if not 1 <= count <= len(candidates):
        raise DataError(
            f"expected a number of exemplars from 1 to the {len(candidates)} images with a label, got {count}"
        )
    if config.exemplar_rule == "quantiles":
        return [one.name for one in _by_quantiles(candidates, count, config, seed)]
    chosen: list[SliceSummary] = []
    while len(chosen) < count:
        chosen.append(_richest(candidates, chosen, config))
    return [one.name for one in chosen]


def slice_levels(names: Iterable[str]) -> dict[str, tuple[str, float]]:
    """How far through its volume each slice lies.

    Args:
        names: of all slices, see `place_of`; the first and the last of a volume and axis are its ends.

    Returns:
        Axis, and 0 (first slice) to 1 (last), of those names that say it.
    """
    places = {name: place_of(name) for name in names}
    ends: dict[tuple[str, str], list[int]] = {}
    for volume, axis, index in places.values():
        ends.setdefault((volume, axis), []).append(index)
    levels = {}
    for name, (volume, axis, index) in places.items():
        first, last = min(ends[volume, axis]), max(ends[volume, axis])
        if axis and first < last:
            levels[name] = axis, (index - first) / (last - first)
    return levels


def _richest(
    candidates: Sequence[SliceSummary], chosen: Sequence[SliceSummary], config: SynthesisConfig
) -> SliceSummary:
    covered = {one for picked in chosen for one in picked.areas}
    taken = Counter(picked.patient for picked in chosen)
    names = {picked.name for picked in chosen}

    def rank(one: SliceSummary) -> tuple[int, int, int, int]:
        new = len(one.areas.keys() - covered) if config.cover_classes else 0
        return new, -taken[one.patient], len(one.areas), one.area

    free = [
        one for one in candidates if one.name not in names and (rank(one)[0] or _apart(one, chosen, config.spacing))
    ]
    if not free:
        raise DataError(
            f"only {len(chosen)} exemplars lie {config.spacing} slices apart; ask for fewer, or set a smaller spacing"
        )
    return max(free, key=rank)


def _by_quantiles(
    candidates: Sequence[SliceSummary], count: int, config: SynthesisConfig, seed: int
) -> list[SliceSummary]:
    rng = np.random.default_rng(seed)
    ordered = sorted(candidates, key=lambda one: one.area)
    chosen: list[SliceSummary] = []
    for places in np.array_split(np.arange(len(ordered)), count):
        run = [ordered[place] for place in places]
        taken = Counter(picked.patient for picked in chosen)
        # Distance is a wish here: each run must give one, or the sizes would not be spread.
        run = [one for one in run if _apart(one, chosen, config.spacing)] or run
        least = min(taken[one.patient] for one in run)
        run = [one for one in run if taken[one.patient] == least]
        chosen.append(run[int(rng.integers(len(run)))])
    return chosen


def _apart(one: SliceSummary, chosen: Sequence[SliceSummary], spacing: int) -> bool:
    same = (picked for picked in chosen if (picked.volume, picked.axis) == (one.volume, one.axis))
    return all(abs(picked.index - one.index) >= spacing for picked in same)
