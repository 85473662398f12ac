"""The planes of a volume as images: 8 bits by one scale for all of them, and standing upright."""

import math
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samsdk.errors import PromptError, VolumeError
from samsdk.prompts import FOREGROUND, Prompt
from samsdk.volumes.grid import Turn
from samsdk.volumes.volume import Volume

_Number = TypeVar("_Number", bound=np.generic)

AXES: Final = "zyx"
Scale = tuple[float, float]
"""(lowest, highest) of a volume's numbers; they become 0 and 255, what lies beyond is clipped."""

# Soft tissue, in Hounsfield units (MedSAM: level 40, width 400).
_CT: Final = (-160.0, 240.0)
# Air is -1000 HU; no MR or z-score volume reaches so low.
_CT_FLOOR: Final = -500.0
_PERCENTILES: Final = (0.5, 99.5)
# So many voxels tell the percentiles of any volume; sorting all of a large one would take as much memory as it does.
_ENOUGH: Final = 2**22


def choose_scale(array: NDArray[Any]) -> Scale:
    """What 8 bits shall hold of a volume: one scale for all planes, for else a plane's own extremes would make it
    brighter or darker than its neighbours.

    Args:
        array: [D, H, W], finite.

    Returns:
        0 to 255 of 8-bit volumes, as they are; -160 to 240 HU of CT, which is known by its air; else the percentiles
        0.5 and 99.5 of all voxels.
    """
    if array.dtype in (np.uint8, np.bool_):
        return 0.0, 255.0 if array.dtype == np.uint8 else 1.0
    if float(array.min()) <= _CT_FLOOR:
        return _CT
    step = max(1, math.ceil((array.size / _ENOUGH) ** (1 / 3)))
    low, high = np.percentile(array[::step, ::step, ::step], _PERCENTILES)
    return float(low), max(float(high), float(low) + 1e-6)


@dataclass(frozen=True)
class _Upright:
    """How the two axes of a plane become an image's rows and columns."""

    exchanged: bool
    rows_backwards: bool
    columns_backwards: bool

    @classmethod
    def of(cls, affine: NDArray[np.float64], axis: int) -> "_Upright":
        turn = Turn.to_ras(affine)
        first, second = (turn.order.index(other) for other in range(3) if other != axis)
        # In the turned volume heads come before fronts, and those before right hands: rows run along the earlier.
        rows, columns = min(first, second), max(first, second)
        return cls(first > second, not turn.backwards[rows], turn.backwards[columns])

    def view(self, plane: NDArray[_Number]) -> NDArray[_Number]:
        return (plane.T if self.exchanged else plane)[self._steps]

    def back(self, image: NDArray[_Number]) -> NDArray[_Number]:
        turned = image[self._steps]
        return turned.T if self.exchanged else turned

    @property
    def _steps(self) -> tuple[slice, slice]:
        rows, columns = (-1 if back else 1 for back in (self.rows_backwards, self.columns_backwards))
        return slice(None, None, rows), slice(None, None, columns)


class Planes:
    """The planes across one axis of a volume.

    They are turned to stand as the planes do that models are trained with: heads and fronts are up, and columns run to
    the patient's right or front. Prompts are given in voxel indices of the volume as it is.

    Args:
        volume: of any orientation.
        axis: across which it is cut, out of `AXES`: the volume's own axes [D, H, W].
        scale: see `choose_scale`, which chooses where it is left out.

    Raises:
        VolumeError: there is no such axis, or the scale is empty.
    """

    def __init__(self, volume: Volume, axis: str = "z", scale: Scale | None = None) -> None:
        if len(axis) != 1 or axis not in AXES:
            raise VolumeError(f"the axis must be one of {', '.join(AXES)}, got {axis!r}")
        low, high = choose_scale(volume.array) if scale is None else scale
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise VolumeError(f"the scale must be two finite numbers, the lower one first, got ({low}, {high})")
        self.volume = volume
        self.axis = axis
        self.scale = (low, high)
        self._place = AXES.index(axis)
        self._upright = _Upright.of(volume.affine, self._place)
        height, width = self.view(volume.array, 0).shape
        self.size = (height, width)

    def __len__(self) -> int:
        """Number of planes."""
        return self.volume.shape[self._place]

    def view(self, array: NDArray[_Number], index: int) -> NDArray[_Number]:
        """One plane of an array [D, H, W] on the volume's grid, upright; what is written to it is written to the array.

        Args:
            array: of the volume, or for instance a label map of it.
            index: of the plane.
        """
        plane = array[(slice(None),) * self._place + (index,)]
        return self._upright.view(plane)

    def as_stored(self, upright: NDArray[_Number]) -> NDArray[_Number]:
        """An upright image as the volume's own slice has it, [rows, columns]."""
        return self._upright.back(upright)

    def image(self, index: int) -> NDArray[np.uint8]:
        """One plane, upright, [H, W] uint8."""
        low, high = self.scale
        values = self.view(self.volume.array, index).astype(np.float32)
        np.clip(values, np.float32(low), np.float32(high), out=values)
        values -= np.float32(low)
        values *= np.float32(255 / (high - low))
        return np.ascontiguousarray(np.rint(values).astype(np.uint8))

    def prompt(self, points: ArrayLike | None, labels: ArrayLike | None, box: ArrayLike | None) -> Prompt:
        """A prompt on the upright image, from one in voxel indices.

        Args:
            points: [K, 2], the plane's last axis first: (x, y) across z, (x, z) across y, (y, z) across x.
            labels: see `Prompt`.
            box: two corners in the order of `points`, the second exclusive.

        Raises:
            PromptError: points or box do not lie in the plane, or are none.
        """
        height, width = self.size[::-1] if self._upright.exchanged else self.size
        turned = None
        if points is not None:
            pairs = _pairs(points, "points", (width, height), exclusive=False)
            # A pixel's right part may come to lie left of the first pixel's name.
            turned = self._flip(pairs, 1).clip(0)
            labels = _numbers_of(labels, len(pairs))
        corners = None
        if box is not None:
            pairs = _pairs(box, "box", (width, height), exclusive=True)
            if len(pairs) != 2 or not (pairs[0] < pairs[1]).all():
                raise PromptError(
                    f"box must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got {np.ravel(box).tolist()}"
                )
            # Corners are edges of pixels, points are pixels.
            flipped = self._flip(pairs, 0)
            corners = np.concatenate([flipped.min(axis=0), flipped.max(axis=0)])
        return Prompt(turned, labels, corners)

    def _flip(self, pairs: NDArray[np.float64], last: int) -> NDArray[np.float64]:
        turned = pairs[:, ::-1].copy() if self._upright.exchanged else pairs.copy()
        height, width = self.size
        if self._upright.columns_backwards:
            turned[:, 0] = width - last - turned[:, 0]
        if self._upright.rows_backwards:
            turned[:, 1] = height - last - turned[:, 1]
        return turned


def _pairs(values: ArrayLike, what: str, ends: tuple[int, int], *, exclusive: bool) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
        pairs = array.reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise PromptError(f"{what} must be pairs of numbers, got {values!r}") from error
    over = (pairs > ends) if exclusive else (pairs >= ends)
    if len(pairs) == 0 or not np.isfinite(pairs).all() or (pairs < 0).any() or over.any():
        raise PromptError(
            f"{what} must lie inside the slice of {ends[0]} x {ends[1]} pixels (across x down), got {pairs.tolist()}"
        )
    return pairs


def _numbers_of(labels: ArrayLike | None, count: int) -> NDArray[np.float64]:
    try:
        numbers = np.atleast_1d(np.asarray(FOREGROUND if labels is None else labels, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise PromptError(f"labels must be numbers, got {labels!r}") from error
    if labels is None:
        return numbers.repeat(count)
    if numbers.shape != (count,):
        raise PromptError(f"labels must have one entry per point, expected {count}, got shape {list(numbers.shape)}")
    return numbers
