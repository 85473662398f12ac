"""The answer to a volume: the class of each voxel, on the grid of the volume as given."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import OutputError
from samsdk.io.atomic import atomic_write
from samsdk.volumes.volume import Volume

SUFFIXES: Final = (".nii.gz", ".nii", ".npz", ".json")


@dataclass(frozen=True, eq=False)
class VolumeResult:
    """A label map of the volume as given.

    Attributes:
        label_map: [D, H, W] uint8 or uint16, the number of each voxel's class, 0 where there is none.
        labels: name of each class by its number as text, without the background.
        grid: where the voxels lie: the volume as given without its voxels, see `Volume.without_voxels`.
        timings: milliseconds of each stage.
        provider: the execution provider that ran the network.
        bundle: name and content hash of the bundle.
    """

    label_map: NDArray[np.uint8] | NDArray[np.uint16]
    labels: Mapping[str, str]
    grid: Volume
    timings: Mapping[str, float]
    provider: str
    bundle: str

    @cached_property
    def voxels(self) -> dict[str, int]:
        """Number of voxels by the name of the class; 0 for one that was not found."""
        highest = max(map(int, self.labels), default=0)
        # Plane by plane: counting makes 64 bits of each voxel.
        planes = (np.bincount(plane.ravel(), minlength=highest + 1)[: highest + 1] for plane in self.label_map)
        counts = sum(planes, start=np.zeros(highest + 1, np.int64))
        return {name: int(counts[int(number)]) for number, name in self.labels.items()}

    def volumes_ml(self) -> dict[str, float]:
        """Millilitres by the name of the class; 0.0 for one that was not found."""
        return {name: count * self.grid.voxel_ml for name, count in self.voxels.items()}

    def mask(self, label: int | str) -> NDArray[np.bool_]:
        """The voxels of a class, [D, H, W].

        Args:
            label: its number or name.

        Raises:
            ValueError: there is no such class.
        """
        for number, name in self.labels.items():
            if str(label) in (number, name):
                return np.asarray(self.label_map == int(number))
        known = ", ".join(f"{number} ({name})" for number, name in self.labels.items())
        raise ValueError(f"unknown class {label!r}, expected one of: {known}")

    def to_dict(self) -> dict[str, Any]:
        """What there is to say of the result, without its voxels."""
        millilitres = self.volumes_ml()
        classes = [
            {"id": number, "name": name, "voxels": self.voxels[name], "ml": round(millilitres[name], 4)}
            for number, name in self.labels.items()
        ]
        return {
            "classes": classes,
            "size": list(self.grid.shape),
            "spacing_mm": list(self.grid.spacing),
            "timings": {stage: round(value, 3) for stage, value in self.timings.items()},
            "provider": self.provider,
            "bundle": self.bundle,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result, by the path's suffix, under a temporary name first.

        `.nii.gz`, `.nii`: the label map with the affine and the header of the volume as given; needs the extra
        `medical`. `.npz`: `label_map`, `affine` and `spacing` (z, y, x). `.json`: `to_dict()`.

        Raises:
            OutputError: the suffix is none of these, or the file cannot be written.
            MissingExtraError: NIfTI without nibabel.
        """
        name = Path(path).name.lower()
        if name.endswith((".nii", ".nii.gz")):
            from samsdk.io.nifti import write_nifti

            write_nifti(path, self.label_map, self.grid)
        elif name.endswith(".npz"):
            with atomic_write(path) as file:
                arrays = {"label_map": self.label_map, "affine": self.grid.affine, "spacing": self.grid.spacing}
                np.savez_compressed(file, allow_pickle=False, **arrays)
        elif name.endswith(".json"):
            with atomic_write(path) as file:
                file.write(json.dumps(self.to_dict(), indent=1).encode())
        else:
            raise OutputError(f"cannot write {os.fspath(path)}: expected a name that ends in {', '.join(SUFFIXES)}")
