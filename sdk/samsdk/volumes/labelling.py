"""A volume, window by window through a network, becomes a label map: whatever runs the network."""

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from samsdk.errors import CancelledError
from samsdk.volumes.blending import LabelWriter, blended_planes
from samsdk.volumes.grid import NetworkGrid, Sampler
from samsdk.volumes.preprocessing import VolumePreprocessing
from samsdk.volumes.sliding import WindowPlan, window_weights
from samsdk.volumes.volume import Volume

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From windows [N, 1, D, H, W] to logits [N, classes, D, H, W], the background's first."""
Progress = Callable[[int, int], None]
"""Called with the number of windows that are done and that of all."""


def label_volume(
    volume: Volume,
    grid: NetworkGrid,
    preprocessing: VolumePreprocessing,
    classes: int,
    plan: WindowPlan,
    network: Network,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Name the class of each voxel.

    Args:
        volume: what is segmented.
        grid: the network's, of this volume.
        preprocessing: the model's.
        classes: how many there are, the background included.
        plan: of the windows, for this grid.
        network: what runs.

    Returns:
        [D, H, W], on the grid of the volume as given: uint8, above 256 classes uint16.

    Raises:
        CancelledError, BackendError: as the network.
    """
    scale = preprocessing.intensity.scale(volume.array)
    voxels = grid.turn.view(volume.array).transpose(plan.order)
    first, second, last = (axis.size for axis in plan.axes)
    sampler = Sampler(voxels, scale, (first, second, last))
    weights = window_weights(preprocessing.crop, preprocessing.blending)
    labels = np.zeros(volume.shape, np.uint8 if classes <= 256 else np.uint16)
    turned = grid.turn.view(labels).transpose(plan.order)
    for strip in plan.strips:
        writer = LabelWriter(plan, strip, turned)
        for planes in blended_planes(plan, strip, sampler, scale.fill, weights, network):
            writer.write(planes)
    return labels


class Watched:
    """The network of one volume: counts its windows, and stops when it is told to.

    Args:
        run: the network.
        plan: of the volume's windows.
        progress: called after each call of the network.
        cancel: when it is set, the next call does not take place.

    Attributes:
        seconds: that the network took so far.
    """

    def __init__(
        self, run: Network, plan: WindowPlan, progress: Progress | None = None, cancel: threading.Event | None = None
    ) -> None:
        self._run, self._progress, self._cancel = run, progress, cancel
        self._done, self._all = 0, plan.windows
        self.seconds = 0.0

    def __call__(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        Raises:
            CancelledError: it was told to stop.
        """
        if self._cancel is not None and self._cancel.is_set():
            raise CancelledError(f"segmenting the volume was cancelled after {self._done} of {self._all} windows")
        start = time.perf_counter()
        logits = self._run(windows)
        self.seconds += time.perf_counter() - start
        self._done += len(windows)
        if self._progress is not None:
            self._progress(self._done, self._all)
        return logits
