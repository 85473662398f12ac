"""Validation of models for volumes: Dice of each class on whole volumes that were held back, by sliding windows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray
from torch import nn

from samsdk.volumes.preprocessing import VolumePreprocessing
from samsdk_training.metrics.overlap import dice
from samsdk_training.set_folder import DataError, SetFolder
from samsdk_training.split import VALIDATION_LIST
from samsdk_training.volume_samples import NetworkVolume, network_volume

Validate = Callable[[nn.Module], dict[str, float]]


def volume_validation(
    sets: Sequence[Path],
    preprocessing: VolumePreprocessing,
    classes: Mapping[str, str],
    cases: int,
    *,
    union: bool = False,
) -> Validate:
    """Dice of a model by class, averaged over volumes first, on the network's grid.

    Args:
        sets: folders with a `val.txt`.
        preprocessing: the model's.
        classes: name by number as text, `0` the background.
        cases: of each set, the first so many volumes; they are held in memory.
        union: whether all labels are class 1.

    Returns:
        A function from a model to `dice`, the mean over classes, and `dice_NAME` of each class.

    Raises:
        DataError: a set has no `val.txt`, a volume is malformed, or nothing is labelled.
    """
    volumes = [
        network_volume(folder, name, preprocessing, len(classes), union=union)
        for folder in map(SetFolder, sets)
        for name in folder.ids(VALIDATION_LIST)[:cases]
    ]
    if not any(len(volume.objects) for volume in volumes):
        raise DataError(f"nothing to validate on: no label in the first {cases} volumes of {VALIDATION_LIST}")

    def validate(model: nn.Module) -> dict[str, float]:
        found = [(predict(model, volume, preprocessing), volume.labels) for volume in volumes]
        means = {}
        for number, name in list(classes.items())[1:]:
            values = [dice(labels == int(number), truth == int(number)) for labels, truth in found]
            # A class that no volume shows, and none was taken for, says nothing.
            if not np.isnan(values).all():
                means[f"dice_{name}"] = float(np.nanmean(values))
        return {"dice": float(np.mean(list(means.values()))), **means}

    return validate


def predict(model: nn.Module, volume: NetworkVolume, preprocessing: VolumePreprocessing) -> NDArray[np.integer]:
    """The class of each voxel on the network's grid, [D, H, W] uint8 or uint16.

    Windows lie and are weighted as in the runtime's `VolumePredictor`.

    Args:
        model: in evaluation mode, on any device.
        volume: what is segmented.
        preprocessing: the model's.
    """
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = sliding_window_inference(
            torch.from_numpy(volume.voxels)[None, None],
            roi_size=preprocessing.crop,
            sw_batch_size=1,
            predictor=model,
            overlap=preprocessing.overlap,
            mode=preprocessing.blending,
            cval=volume.fill,
            sw_device=device,
            device="cpu",
        )
    if not isinstance(logits, torch.Tensor):
        raise TypeError(f"expected one tensor of logits, got {type(logits).__name__}")
    labels = logits[0].argmax(0).numpy()
    return labels.astype(np.uint8 if logits.shape[1] <= 256 else np.uint16)
