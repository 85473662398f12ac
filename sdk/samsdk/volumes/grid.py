"""The grid that a network sees: a volume turned by right angles and resampled along its axes.

Turning and resampling keep the axes apart, so that each of them has its own table of neighbours, and no voxel is
touched before it is wanted.
"""

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.errors import VolumeError
from samsdk.volumes.intensity import VoxelScale
from samsdk.volumes.preprocessing import ORIENTATION, VolumePreprocessing
from samsdk.volumes.volume import MAX_VOXELS, Volume

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class Turn:
    """Right angles: which axes of an array [D, H, W] change places, and which then run backwards.

    Attributes:
        order: the axis that comes to each place.
        backwards: whether the axis in this place is reversed.
    """

    order: tuple[int, int, int] = (0, 1, 2)
    backwards: tuple[bool, bool, bool] = (False, False, False)

    @classmethod
    def to_ras(cls, affine: NDArray[np.float64]) -> "Turn":
        """The turn after which x, y and z run most nearly to the right, the front and the head.

        Args:
            affine: of the volume; oblique ones come to lie as near as they can.
        """
        matrix = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        left, _, right = np.linalg.svd(matrix)
        # The nearest matrix without shear, so that a tilted gantry does not decide; the clearest axis chooses first.
        nearest = left @ right
        order, backwards = [0, 0, 0], [False, False, False]
        for axis in np.argsort(-np.abs(nearest).max(axis=0), kind="stable"):
            place = int(np.argmax(np.abs(nearest[:, axis])))
            # Arrays have z first, affines x.
            order[2 - place] = 2 - int(axis)
            backwards[2 - place] = bool(nearest[place, axis] < 0)
            nearest[place] = 0
        return cls((order[0], order[1], order[2]), (backwards[0], backwards[1], backwards[2]))

    def view(self, array: NDArray[_Number]) -> NDArray[_Number]:
        """The array turned, without copying it: what is written to the view is written to the array."""
        steps = tuple(slice(None, None, -1) if back else slice(None) for back in self.backwards)
        return array.transpose(self.order)[steps]

    def sides(self, lengths: tuple[float, float, float]) -> tuple[float, float, float]:
        """What belongs to the axes, in the order of their new places."""
        first, second, third = (lengths[axis] for axis in self.order)
        return first, second, third


@dataclass(frozen=True)
class NetworkGrid:
    """How a volume's voxels lie in what the network sees.

    Attributes:
        turn: comes first.
        turned: (D, H, W) after it.
        shape: (D, H, W) after resampling, which keeps the extent: a side of n voxels becomes round(n * from / to).
    """

    turn: Turn
    turned: tuple[int, int, int]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, volume: Volume, preprocessing: VolumePreprocessing) -> "NetworkGrid":
        """The grid for one volume.

        Raises:
            VolumeError: it would have too many voxels; the volume's spacing is hardly right then.
        """
        turn = Turn.to_ras(volume.affine) if preprocessing.orientation == ORIENTATION else Turn()
        turned = turn.view(volume.array).shape
        wanted = preprocessing.spacing
        if wanted is None:
            return cls(turn, turned, turned)
        spacing = turn.sides(volume.spacing)
        depth, height, width = (
            max(1, round(side * here / there)) for side, here, there in zip(turned, spacing, wanted, strict=True)
        )
        if depth * height * width > MAX_VOXELS:
            raise VolumeError(
                f"{turned} voxels of {spacing} mm would become {(depth, height, width)} of {wanted} mm, more than "
                f"{MAX_VOXELS}; check the volume's spacing, or crop it"
            )
        return cls(turn, turned, (depth, height, width))

    def sample(self, array: NDArray[np.generic], scale: VoxelScale) -> NDArray[np.float32]:
        """A whole volume as the network sees it, for training.

        Args:
            array: [D, H, W] of the volume.
            scale: of its intensities.

        Returns:
            [D, H, W] of `shape`, float32.
        """
        return Sampler(self.turn.view(array), scale, self.shape).planes(0, self.shape[0])

    def place(self, labels: NDArray[_Number]) -> NDArray[_Number]:
        """A label map of the volume on the network's grid, each voxel by its nearest; for training.

        Args:
            labels: [D, H, W] of the volume.

        Returns:
            [D, H, W] of `shape`, in the labels' dtype.
        """
        placed = self.turn.view(labels)
        for axis, side in enumerate(self.shape):
            below, above, weight = neighbours(placed.shape[axis], side)
            placed = placed.take(np.where(weight < 0.5, below, above), axis=axis)
        return placed


def neighbours(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Where the voxels of one axis lie between those of another one of the same extent.

    Args:
        source: number of voxels there are.
        target: number of voxels wanted.

    Returns:
        For each wanted voxel the one below, the one above, and the weight of the one above; [target] each.
    """
    places = ((np.arange(target) + 0.5) * (source / target) - 0.5).clip(0, source - 1)
    below = np.floor(places).astype(np.intp)
    weight = (places - below).astype(np.float32)
    return below, below + (weight > 0), weight


class Sampler:
    """Makes planes of the network's grid when they are asked for, by trilinear interpolation.

    Args:
        voxels: [A, B, C], the volume turned; the first axis is the one that planes are asked for along.
        scale: of the intensities, which comes before interpolation.
        shape: (A', B', C') of the network's grid.
    """

    def __init__(self, voxels: NDArray[np.generic], scale: VoxelScale, shape: tuple[int, int, int]) -> None:
        self._voxels, self._scale, self._shape = voxels, scale, shape
        self._below, self._above, self._weight = neighbours(voxels.shape[0], shape[0])

    def planes(self, start: int, stop: int) -> NDArray[np.float32]:
        """Planes `start` to `stop` (exclusive), [stop - start, B', C']."""
        _, height, width = self._shape
        planes = np.empty((stop - start, height, width), np.float32)
        kept: dict[int, NDArray[np.float32]] = {}
        for index in range(start, stop):
            below, above, weight = int(self._below[index]), int(self._above[index]), self._weight[index]
            kept = {source: kept[source] if source in kept else self._plane(source) for source in (below, above)}
            planes[index - start] = kept[below] if weight == 0 else blend(kept[below], kept[above], weight)
        return planes

    def _plane(self, index: int) -> NDArray[np.float32]:
        plane = self._scale.apply(np.ascontiguousarray(self._voxels[index]))
        _, height, width = self._shape
        if plane.shape == (height, width):
            return plane
        return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def blend(
    below: NDArray[np.float32], above: NDArray[np.float32], weight: NDArray[np.float32] | np.float32
) -> NDArray[np.float32]:
    """Between two arrays, by the weight of the second."""
    return np.asarray(below + (above - below) * weight, dtype=np.float32)
