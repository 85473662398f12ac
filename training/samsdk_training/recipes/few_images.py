"""A few images of a set: the first of a list, or slices from all over the volumes that it names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from samsdk_training.data import DataError, LabelledImage, read_ids, read_set
from samsdk_training.evaluation.objects import SMALLEST
from samsdk_training.samples import SampleSet
from samsdk_training.split import TRAIN_LIST, VALIDATION_LIST

# The golden ratio's fraction: its multiples, less their whole parts, spread evenly however many are taken.
_SPREAD: Final = 0.6180339887498949


def choose_images(folder: Path, list_name: str, count: int | None) -> list[LabelledImage]:
    """Choose some of a list's images that have an object of at least 30 pixels.

    Args:
        folder: of the set.
        list_name: of the list file in it.
        count: how many: of images the first of the list; of volumes so many slices in all, as many of each, from
            different heights, or one of each of the first volumes. None takes all.

    Returns:
        Fewer than `count` where there are no more; none where no image has such an object.

    Raises:
        DataError: the list, an image or its mask is missing or malformed.
    """
    known = read_ids(folder, list_name)
    sources = len(known) if count is None else min(count, len(known))
    found: dict[str, list[LabelledImage]] = {}
    for one in read_set(folder, list_name, slice(sources)):
        if one.objects(smallest=SMALLEST):
            found.setdefault(one.volume or one.name, []).append(one)
    if count is None:
        return [one for group in found.values() for one in group]
    chosen: list[LabelledImage] = []
    for number, group in enumerate(found.values()):
        wanted = (count - len(chosen)) / (len(found) - number)
        chosen += _spread(group, round(wanted), number * _SPREAD % 1)
    return chosen


def _spread(group: Sequence[LabelledImage], count: int, start: float) -> list[LabelledImage]:
    """So many of a volume's slices in equal steps, the first one a share of a step from the beginning."""
    if count >= len(group):
        return list(group)
    return [group[int(len(group) * (step + start) / count)] for step in range(count)]


def held_back_images(folder: Path, first: int, count: int) -> list[LabelledImage]:
    """Choose images of a set's `val.txt`.

    Args:
        folder: of the set.
        first: how many for early stopping.
        count: how many in all.

    Returns:
        Those for early stopping, then others.

    Raises:
        DataError: see `choose_images`; or there is none.
    """
    stopping = choose_images(folder, VALIDATION_LIST, first)
    if not stopping:
        raise DataError(f"{VALIDATION_LIST} of {folder} names no image with an object to validate on")
    names = {one.name for one in stopping}
    more = choose_images(folder, VALIDATION_LIST, count) if count > first else []
    return stopping + [one for one in more if one.name not in names][: max(0, count - len(stopping))]


def training_set(folder: Path, count: int | None) -> SampleSet:
    """A set's `train.txt` as something to draw samples from, without what is beyond a number of images.

    Args:
        folder: of the set.
        count: see `choose_images`.
    """
    if count is None:
        return SampleSet(folder, TRAIN_LIST)
    chosen = choose_images(folder, TRAIN_LIST, count)
    names = {one.name for one in chosen}
    volumes = {one.volume for one in chosen if one.volume is not None}
    others = [one for one in read_ids(folder, TRAIN_LIST) if one not in names | volumes]
    if volumes:
        others += [one.name for one in read_set(folder, TRAIN_LIST) if one.volume in volumes and one.name not in names]
    return SampleSet(folder, TRAIN_LIST, exclude=tuple(others))
