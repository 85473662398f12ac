"""Intensity rules of volumes: from the numbers of a scanner to what a network was trained on.

A rule is a part of the bundle's manifest, never a guess from the numbers. Training, export and runtime all scale by
`VoxelIntensity`, so that no two of them can differ.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

INTENSITY_RULES: Final = ("zscore_nonzero", "window_zscore")
_NUMBERS: Final = ("lowest", "highest", "mean", "std")


@dataclass(frozen=True)
class VoxelScale:
    """One volume's way to the network's numbers: clip, subtract, divide.

    Attributes:
        lowest: values below it become it; minus infinity clips nothing.
        highest: values above it become it.
        mean: is subtracted.
        std: is divided by.
        keep_zeros: whether voxels of exactly 0, where no signal was measured, stay 0.
    """

    lowest: float
    highest: float
    mean: float
    std: float
    keep_zeros: bool

    @property
    def fill(self) -> float:
        """What stands for no signal, where a window reaches out of the volume; as the network sees it."""
        return 0.0 if self.keep_zeros else (self.lowest - self.mean) / self.std

    def apply(self, voxels: NDArray[Any]) -> NDArray[np.float32]:
        """Scale any part of the volume, in a new array of the same shape."""
        values = voxels.astype(np.float32)
        if math.isfinite(self.lowest):
            np.clip(values, np.float32(self.lowest), np.float32(self.highest), out=values)
        values -= np.float32(self.mean)
        values /= np.float32(self.std)
        if self.keep_zeros:
            values[voxels == 0] = 0
        return values


@dataclass(frozen=True)
class VoxelIntensity:
    """An intensity rule of volumes, as manifest and checkpoint hold it.

    `zscore_nonzero` (MR, whose units are arbitrary): less the mean and by the standard deviation of the volume's own
    voxels that are not 0; those that are stay 0. As MONAI's `NormalizeIntensity(nonzero=True)`.
    `window_zscore` (CT): clipped to `lowest` and `highest`, less `mean`, by `std`; all in the file's units.

    Attributes:
        rule: one of `INTENSITY_RULES`.
        lowest: of `window_zscore` alone, and likewise the others; None with other rules.
        highest: above `lowest`.
        mean: of the training set's voxels.
        std: of the training set's voxels; positive.

    Raises:
        ValueError: the rule is unknown, or its numbers are missing or do not fit together.
    """

    rule: str
    lowest: float | None = None
    highest: float | None = None
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        if self.rule not in INTENSITY_RULES:
            raise ValueError(f"intensity.rule is {self.rule!r}, expected: {', '.join(INTENSITY_RULES)}")
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        if self.rule == "zscore_nonzero":
            extra = [name for name, value in numbers.items() if value is not None]
            if extra:
                raise ValueError(f"intensity: zscore_nonzero takes no numbers, got {', '.join(extra)}")
            return
        bad = [name for name, value in numbers.items() if not _is_number(value)]
        if bad:
            raise ValueError(f"intensity: window_zscore needs finite numbers for {', '.join(bad)}")
        if not numbers["lowest"] < numbers["highest"] or not numbers["std"] > 0:
            raise ValueError(f"intensity: expected lowest below highest and a positive std, got {numbers}")

    @classmethod
    def of(cls, intensity: Mapping[str, Any]) -> "VoxelIntensity":
        """Read what a manifest or a checkpoint says.

        Args:
            intensity: its field `intensity`.

        Raises:
            ValueError: a field is unknown, or as the class.
        """
        unknown = sorted(set(intensity) - {"rule", *_NUMBERS})
        if unknown:
            raise ValueError(f"intensity: unknown fields {', '.join(unknown)}")
        return cls(**{"rule": None, **intensity})

    def to_dict(self) -> dict[str, Any]:
        """The field `intensity` of manifest and checkpoint."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def scale(self, array: NDArray[Any]) -> VoxelScale:
        """What the rule means for one volume.

        Args:
            array: [D, H, W], all of it: `zscore_nonzero` looks at every voxel.
        """
        if self.rule == "zscore_nonzero":
            return VoxelScale(-math.inf, math.inf, *_statistics(array), keep_zeros=True)
        lowest, highest, mean, std = (float(getattr(self, name)) for name in _NUMBERS)
        return VoxelScale(lowest, highest, mean, std, keep_zeros=False)

    def apply(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Scale a whole volume [D, H, W]."""
        return self.scale(array).apply(array)


def _statistics(array: NDArray[Any]) -> tuple[float, float]:
    """Mean and standard deviation of what is not 0; 0 and 1 where they would mean nothing."""
    count = sum(len(values) for values in _signal(array))
    if count == 0:
        return 0.0, 1.0
    mean = sum(float(values.sum()) for values in _signal(array)) / count
    # A second pass, because the difference of two large sums has few places left.
    variance = sum(float(np.square(values - mean).sum()) for values in _signal(array)) / count
    return mean, math.sqrt(variance) or 1.0


def _signal(array: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """The voxels that are not 0, plane by plane, for which 64 bits cost no memory."""
    for plane in array:
        yield plane[plane != 0].astype(np.float64)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
