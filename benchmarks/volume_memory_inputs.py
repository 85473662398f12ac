"""What benchmarks/volume_memory.py segments, and the bundle for volumes that does it.

python benchmarks/volume_memory_inputs.py FOLDER

Writes scan.nii.gz, 512 x 512 x 300 voxels of int16 that look like a CT of a trunk, and a bundle of random weights: what
it takes can be measured, what it finds not.
"""

import argparse
from pathlib import Path

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from samsdk_export.bundle_writer import write_bundle
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.models.swin_unetr import SwinUnetrConfig
from samsdk_training.models.volume import build_volume_model

SIDE, DEPTH = 512, 300
SPACING = (0.8, 0.8, 1.5)
"""(x, y, z) of a voxel in mm."""
CLASSES = 16
# The published tiny student, on a crop that two cores can work through.
NAME, MODEL = "swin_unetr", SwinUnetrConfig((64, 64, 64), CLASSES, 12)


def plane(index: int) -> NDArray[np.int16]:
    """One slice [y, x] in Hounsfield units: air, a trunk of fat and muscle, an organ, a spine; with noise."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    level = index / DEPTH - 0.5
    trunk, muscle, organ, spine = (
        ((x - left) / wide) ** 2 + ((y - top) / high) ** 2 < 1
        for left, top, wide, high in (
            (0, 0, 0.42, 0.32),
            (0, 0, 0.37, 0.27),
            (-0.12, -0.05 + 0.05 * level, 0.15 * np.cos(level), 0.12),
            (0, 0.18, 0.05, 0.05),
        )
    )
    values = np.select([spine, organ, muscle, trunk], [600, 110, 50, -90], -1000)
    return (values + np.random.default_rng(index).normal(0, 12, values.shape)).astype(np.int16)


def main() -> None:
    """Write the volume and the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    voxels = np.stack([plane(index) for index in range(DEPTH)])
    nibabel.save(nibabel.Nifti1Image(voxels.T, np.diag([*SPACING, 1.0])), folder / "scan.nii.gz")
    torch.manual_seed(0)
    network = build_volume_model(MODEL)
    with torch.no_grad():
        # A head that hardly listens: random features are ill-conditioned and random classes tie, so that backends round
        # apart by more than a certificate allows. What the network takes is the same.
        network.out.conv.conv.weight.mul_(0.01)
        network.out.conv.conv.bias.copy_(2.0 * torch.arange(CLASSES))
    checkpoint = Checkpoint(
        model=MODEL.to_dict(),
        # On the volume's own grid: resampled to the usual 1.5 mm it would have a third of the voxels.
        geometry={
            "rule": "sliding_window",
            "crop": list(MODEL.crop),
            "spacing": None,
            "orientation": "RAS",
            # Which costs time, not memory.
            "overlap": 0.0,
            "blending": "gaussian",
        },
        intensity={"rule": "window_zscore", "lowest": -991.0, "highest": 362.0, "mean": 50.0, "std": 141.0},
        normalisation={"rule": "none"},
        prompts={"kinds": [], "trained": [], "mask": "logits"},
        classes={str(number): f"class {number}" if number else "background" for number in range(CLASSES)},
        licence={"id": "CC0-1.0", "source": "random weights", "attribution": "none"},
        lineage={"recipe": "random weights"},
        state=network.state_dict(),
        task="volume",
    )
    write_bundle(checkpoint, folder / NAME, name=NAME)


if __name__ == "__main__":
    main()
