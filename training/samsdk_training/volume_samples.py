"""Training samples of models for volumes: crops around objects and around background, with the class of each voxel."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from samsdk.volumes.grid import NetworkGrid
from samsdk.volumes.preprocessing import VolumePreprocessing
from samsdk_training.labelled_volumes import read_labelled
from samsdk_training.set_folder import DataError, SetFolder

BACKGROUND, FOREGROUND = "background", "foreground"
_ATTEMPTS = 100


class NetworkVolume(NamedTuple):
    """A labelled volume as the network sees it.

    Attributes:
        name: its id.
        voxels: [D, H, W] float32 on the network's grid, scaled.
        labels: [D, H, W] integers on the same grid, 0 is background.
        fill: what stands for no signal where a crop reaches out of the volume.
        objects: flat indices of all labelled voxels.
    """

    name: str
    voxels: NDArray[np.float32]
    labels: NDArray[np.integer]
    fill: float
    objects: NDArray[np.intp]


class VolumeBatch(NamedTuple):
    """Crops [N, 1, D, H, W] float32 and the classes of their voxels [N, D, H, W] int64."""

    crops: Tensor
    labels: Tensor


@dataclass(frozen=True)
class VolumeAugmentation:
    """What may happen to a crop. The defaults are AutoProSAM's; the last four are ours, for sets of few volumes.

    Attributes:
        flip: probability along each axis.
        quarter_turn: probability of one to three quarter turns in the plane of H and W.
        affine: probability of a turn and a zoom at once.
        angle: largest turn of `affine` about each axis, in degrees.
        zoom: largest change of size of `affine`, as a part of it.
        brightness: probability of another contrast and mean, by up to a tenth each.
    """

    flip: float = 0.1
    quarter_turn: float = 0.1
    affine: float = 0.0
    angle: float = 15.0
    zoom: float = 0.15
    brightness: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "quarter_turn", "affine", "brightness"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation: {name}: expected a probability, got {getattr(self, name)!r}")
        if not 0 <= self.angle <= 180 or not 0 <= self.zoom < 1:
            raise ValueError(
                f"augmentation: expected an angle of 0 to 180 and a zoom of 0 to below 1, got {self.angle}, {self.zoom}"
            )


class VolumeSource:
    """A stream of crops, each a pure function of its number: every volume once, in a random order, before any again.

    Args:
        sets: folders of NIfTI volumes.
        list_name: of the list in each of them that names the volumes.
        preprocessing: the model's.
        augmentation: what may happen to a crop.
        classes: how many there are, the background included.
        balance: how often a crop has a labelled voxel in its middle, and how often another, as two weights.
        cached: how many volumes are held in memory.
        union: whether all labels are class 1.
        seed: another seed is another stream.

    Raises:
        DataError: a set has no such list, or there is no volume.
    """

    def __init__(
        self,
        sets: Sequence[Path],
        list_name: str,
        preprocessing: VolumePreprocessing,
        augmentation: VolumeAugmentation,
        *,
        classes: int,
        balance: tuple[float, float] = (2.0, 1.0),
        cached: int = 64,
        union: bool = False,
        seed: int = 0,
    ) -> None:
        self._places = [(folder, name) for folder in map(SetFolder, sets) for name in folder.ids(list_name)]
        if not self._places:
            raise DataError(f"expected at least one volume in {list_name} of {', '.join(map(str, sets))}, got none")
        self.preprocessing, self.augmentation, self.classes, self.seed = preprocessing, augmentation, classes, seed
        self._union = union
        self._share = balance[0] / sum(balance)
        self._volume = lru_cache(maxsize=cached)(self._read)

    def summary(self) -> dict[str, int]:
        """How many volumes there are in each set."""
        return dict(Counter(folder.path.name for folder, _ in self._places))

    def sample(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The crop of a number from 0 on and its classes, [D, H, W] both."""
        epoch, place = divmod(index, len(self._places))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self._places))
        # Not the seed of an epoch's order: those are pairs.
        rng = np.random.default_rng((self.seed, index, 1))
        volume, augmentation = self._volume(int(order[place])), self.augmentation
        turns = int(rng.integers(1, 4)) if rng.random() < augmentation.quarter_turn else 0
        depth, height, width = self.preprocessing.crop
        size = (depth, width, height) if turns % 2 else (depth, height, width)
        voxels, labels = _cut(volume, _middle(volume, self._share, rng), size)
        flipped = tuple(axis for axis in range(3) if rng.random() < augmentation.flip)
        voxels, labels = (np.flip(np.rot90(one, turns, (1, 2)), flipped) for one in (voxels, labels))
        if rng.random() < augmentation.affine:
            voxels, labels = _deformed(voxels, labels, augmentation, rng)
        if rng.random() < augmentation.brightness:
            contrast, mean = rng.uniform(0.9, 1.1), rng.uniform(-0.1, 0.1)
            voxels = voxels * contrast + mean
        return np.ascontiguousarray(voxels, np.float32), np.ascontiguousarray(labels, np.int64)

    def batch(self, number: int, size: int) -> VolumeBatch:
        """The samples `number * size` up to `(number + 1) * size`, stacked along N."""
        crops, labels = zip(*(self.sample(index) for index in range(number * size, (number + 1) * size)), strict=True)
        return VolumeBatch(torch.from_numpy(np.stack(crops))[:, None], torch.from_numpy(np.stack(labels)))

    def _read(self, place: int) -> NetworkVolume:
        folder, name = self._places[place]
        return network_volume(folder, name, self.preprocessing, self.classes, union=self._union)


def network_volume(
    folder: SetFolder, name: str, preprocessing: VolumePreprocessing, classes: int, *, union: bool = False
) -> NetworkVolume:
    """A volume of a set on the network's grid; with `union` all its labels are class 1.

    Raises:
        DataError: see `labelled_volumes.read_labelled`; or a label is above the classes.
    """
    volume, labels = read_labelled(folder, name, union=union)
    if labels.max() >= classes:
        raise DataError(f"{name} in {folder.path}: expected labels from 0 to {classes - 1}, got {labels.max()}")
    grid, scale = NetworkGrid.of(volume, preprocessing), preprocessing.intensity.scale(volume.array)
    placed = np.ascontiguousarray(grid.place(labels))
    return NetworkVolume(name, grid.sample(volume.array, scale), placed, scale.fill, np.flatnonzero(placed))


def volume_classes(sets: Sequence[Path], list_name: str, *, union: bool = False) -> dict[str, str]:
    """Name of each class by its number as text, out of `labels.json`; without one, as many as the labels show.

    With `union` there is one, whatever the sets name.

    Raises:
        DataError: the sets name different classes, or no voxel is labelled.
    """
    if union:
        return {"0": BACKGROUND, "1": FOREGROUND}
    folders = [SetFolder(folder) for folder in sets]
    named = [folder.class_names() for folder in folders]
    if any(one != named[0] for one in named):
        raise DataError(f"the sets name different classes: {'; '.join(map(str, named))}")
    highest = max(named[0], default=0) if named else 0
    if not highest:
        highest = max((int(labels.max()) for labels in _labels(folders, list_name)), default=0)
    if not highest:
        raise DataError(f"no voxel of {', '.join(map(str, sets)) or 'no set'} is labelled in {list_name}")
    return {"0": BACKGROUND, **{str(one): named[0].get(one, f"class {one}") for one in range(1, highest + 1)}}


def _labels(folders: Sequence[SetFolder], list_name: str) -> Iterator[NDArray[np.integer]]:
    for folder in folders:
        for name in folder.ids(list_name):
            yield read_labelled(folder, name)[1]


def _middle(volume: NetworkVolume, share: float, rng: np.random.Generator) -> tuple[int, ...]:
    """The voxel that a crop shall have in its middle."""
    flat = volume.labels.reshape(-1)
    if len(volume.objects) and rng.random() < share:
        chosen = int(rng.choice(volume.objects))
    else:
        # Most voxels are background: looking for one takes less memory than a list of all.
        drawn = rng.integers(flat.size, size=_ATTEMPTS)
        free = drawn[flat[drawn] == 0]
        chosen = int(free[0] if len(free) else drawn[0])
    return tuple(int(one) for one in np.unravel_index(chosen, volume.labels.shape))


def _cut(
    volume: NetworkVolume, middle: tuple[int, ...], size: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """A box of this size around a voxel, moved into the volume; filled on both sides alike where that is smaller."""
    inside, pads = [], []
    for centre, wanted, side in zip(middle, size, volume.labels.shape, strict=True):
        start = min(max(centre - wanted // 2, 0), max(side - wanted, 0))
        inside.append(slice(start, start + wanted))
        missing = max(wanted - side, 0)
        pads.append((missing // 2, missing - missing // 2))
    box = tuple(inside)
    voxels = np.pad(volume.voxels[box], pads, constant_values=volume.fill)
    return voxels, np.pad(volume.labels[box], pads)


def _deformed(
    voxels: NDArray[np.float32], labels: NDArray[np.integer], augmentation: VolumeAugmentation, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """A crop turned about its middle and zoomed; what comes in from outside repeats the border."""
    sides = np.array(voxels.shape[::-1], np.float64)  # (x, y, z), as torch has it
    matrix = np.eye(3) / (1 + rng.uniform(-augmentation.zoom, augmentation.zoom))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = math.radians(rng.uniform(-augmentation.angle, augmentation.angle))
        turn = np.eye(3)
        turn[[first, second], [first, second]] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    # In torch's coordinates each side is 2 long, so that a turn of a box that is no cube would shear it.
    matrix = matrix * sides / sides[:, None]
    theta = torch.from_numpy(np.concatenate([matrix, np.zeros((3, 1))], axis=1))[None].float()
    places = functional.affine_grid(theta, [1, 1, *voxels.shape], align_corners=False)

    def sampled(array: NDArray[np.float32], mode: str) -> NDArray[np.float32]:
        tensor = torch.from_numpy(np.ascontiguousarray(array))[None, None]
        moved = functional.grid_sample(tensor, places, mode=mode, padding_mode="border", align_corners=False)
        return np.asarray(moved[0, 0].numpy())

    return sampled(voxels, "bilinear"), sampled(labels.astype(np.float32), "nearest").astype(labels.dtype)
