"""A torch model for volumes behind the runtime's interface: grids, windows and blending are the runtime's own."""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from samsdk.volumes.grid import NetworkGrid
from samsdk.volumes.labelling import Watched, label_volume
from samsdk.volumes.result import VolumeResult
from samsdk.volumes.sliding import WindowPlan
from samsdk.volumes.volume import Volume
from samsdk_training.checkpoints import Checkpoint
from samsdk_training.torch_predictor import PROVIDER


class TorchVolumePredictor:
    """Name the class of each voxel with a checkpoint's model, as its bundle will.

    Args:
        checkpoint: of a model for volumes.
        name: what results say they come from.
    """

    def __init__(self, checkpoint: Checkpoint, name: str = "torch model") -> None:
        self.network = checkpoint.build_network()
        self.preprocessing = checkpoint.volume
        self.classes = checkpoint.classes
        self.name = name

    def segment(self, image: Volume) -> VolumeResult:
        """Name the class of each voxel; see `samsdk.VolumePredictor.segment`."""
        begun = time.perf_counter()
        grid = NetworkGrid.of(image, self.preprocessing)
        plan = WindowPlan.of(grid, self.preprocessing, len(self.classes))
        network = Watched(self._run, plan)
        label_map = label_volume(image, grid, self.preprocessing, len(self.classes), plan, network)
        timings = {"run": network.seconds * 1e3, "total": (time.perf_counter() - begun) * 1e3}
        names = {number: name for number, name in self.classes.items() if number != "0"}
        return VolumeResult(label_map, names, image.without_voxels(), timings, PROVIDER, self.name)

    @torch.inference_mode()
    def _run(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.network(torch.from_numpy(windows)).numpy()
        return logits
