"""How a volume becomes what a network for volumes sees: a part of every volume bundle and checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import VolumeError
from samsdk.transforms import Frame, Preprocessing, Window
from samsdk.volumes.intensity import VoxelIntensity

GEOMETRY_RULE: Final = "sliding_window"
# What manifests and checkpoints for volumes say of normalisation: the intensity rule has done it.
NO_NORMALISATION: Final = "none"
BLENDINGS: Final = ("gaussian", "constant")
ORIENTATION: Final = "RAS"
# A crop is held in memory as a whole, with all the network makes of it.
_LONGEST_SIDE: Final = 1024


@dataclass(frozen=True)
class VolumePreprocessing:
    """One declared way to the network, shared by training, export and runtime.

    Attributes:
        crop: (D, H, W) of the network's input in voxels.
        spacing: (z, y, x) in mm that a volume is resampled to; None leaves it as the file has it.
        orientation: `RAS` turns the axes so that x, y and z run to the patient's right, front and head, as nearly as
            turning by right angles can; None leaves them as the file has them.
        overlap: of neighbouring windows, as a part of the crop, 0 to below 1.
        blending: how windows that overlap are weighted: `gaussian`, the middle most, or `constant`.
        intensity: how voxels are scaled.

    Raises:
        ValueError: a value is not valid.
    """

    crop: tuple[int, int, int]
    intensity: VoxelIntensity
    spacing: tuple[float, float, float] | None = None
    orientation: str | None = None
    overlap: float = 0.5
    blending: str = "gaussian"

    def __post_init__(self) -> None:
        if len(self.crop) != 3 or not all(type(side) is int and 1 <= side <= _LONGEST_SIDE for side in self.crop):
            raise ValueError(f"geometry.crop must be three sides of 1 to {_LONGEST_SIDE} voxels, got {self.crop!r}")
        if self.spacing is not None and (len(self.spacing) != 3 or not all(map(_is_length, self.spacing))):
            raise ValueError(f"geometry.spacing must be null or three positive lengths in mm, got {self.spacing!r}")
        if self.orientation not in (None, ORIENTATION):
            raise ValueError(f"geometry.orientation must be null or {ORIENTATION!r}, got {self.orientation!r}")
        if isinstance(self.overlap, bool) or not isinstance(self.overlap, (int, float)) or not 0 <= self.overlap < 1:
            raise ValueError(f"geometry.overlap must be 0 to below 1, got {self.overlap!r}")
        if self.blending not in BLENDINGS:
            raise ValueError(f"geometry.blending is {self.blending!r}, expected: {', '.join(BLENDINGS)}")

    @classmethod
    def of(cls, geometry: Mapping[str, Any], intensity: Mapping[str, Any]) -> "VolumePreprocessing":
        """Read what a manifest or a checkpoint says.

        Args:
            geometry: its field `geometry`.
            intensity: its field `intensity`.

        Raises:
            ValueError: a field is missing or unknown, or a value is not valid.
        """
        expected = {"rule", "crop", "spacing", "orientation", "overlap", "blending"}
        if set(geometry) != expected:
            raise ValueError(
                f"geometry must have the fields {', '.join(sorted(expected))}, got {', '.join(sorted(geometry))}"
            )
        if geometry["rule"] != GEOMETRY_RULE:
            raise ValueError(f"geometry.rule is {geometry['rule']!r}, expected {GEOMETRY_RULE!r} of a volume bundle")
        crop, spacing = geometry["crop"], geometry["spacing"]
        if not isinstance(crop, list) or not isinstance(spacing, list | None):
            raise ValueError(f"geometry.crop and spacing must be lists, got {crop!r} and {spacing!r}")
        return cls(
            crop=tuple(crop),
            intensity=VoxelIntensity.of(intensity),
            spacing=None if spacing is None else tuple(spacing),
            orientation=geometry["orientation"],
            overlap=geometry["overlap"],
            blending=geometry["blending"],
        )

    def geometry(self) -> dict[str, Any]:
        """The field `geometry` of manifest and checkpoint; `intensity.to_dict()` is the other."""
        return {
            "rule": GEOMETRY_RULE,
            "crop": list(self.crop),
            "spacing": None if self.spacing is None else list(self.spacing),
            "orientation": self.orientation,
            "overlap": self.overlap,
            "blending": self.blending,
        }


class _NoImages(Preprocessing):
    """Stands where a volume bundle has nothing to say of images."""

    def apply_image(
        self, image: NDArray[np.generic], window: Window | None = None
    ) -> tuple[NDArray[np.float32], Frame]:
        raise VolumeError(EXPECTED_VOLUME)


EXPECTED_VOLUME: Final = (
    "this bundle segments volumes, not images: give segment() a samsdk.Volume (Volume.of(array, spacing)) or the path "
    "of a NIfTI file; for images load a bundle for images"
)
NO_IMAGES: Final = _NoImages(0)


def _is_length(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
