"""The predictor of a volume bundle: a volume in, the class of each voxel out, on the volume's own grid."""

import os
import threading
import time
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samsdk.answers import check_finite
from samsdk.embedding import Embedding
from samsdk.errors import BackendError, BundleError, PromptError, VolumeError
from samsdk.io.nifti import is_nifti, read_nifti
from samsdk.predictor import Predictor
from samsdk.prompts import Prompt, check_kinds
from samsdk.results import Result
from samsdk.transforms import Window
from samsdk.volumes.grid import NetworkGrid
from samsdk.volumes.labelling import Progress, Watched, label_volume
from samsdk.volumes.preprocessing import EXPECTED_VOLUME, VolumePreprocessing
from samsdk.volumes.result import VolumeResult
from samsdk.volumes.sliding import WindowPlan
from samsdk.volumes.volume import Volume, warn_if_unoriented

INPUT: Final = "volume"
OUTPUT: Final = "logits"


class VolumePredictor(Predictor):
    """A volume bundle that is ready to run; `samsdk.load` gives it where the bundle is one.

    It has `segment` and `plan`; what other predictors have for images and prompts raises a `VolumeError`. Any number of
    threads may call `segment` at once, each with the memory that `plan` tells.

    Args as `Predictor`.

    Raises:
        BundleError: as `Predictor`; or the bundle is for images.
        BackendError, MissingExtraError: as `Predictor`.
    """

    @property
    def preprocessing(self) -> VolumePreprocessing:
        """How a volume becomes what the network sees.

        Raises:
            BundleError: the bundle is for images.
        """
        if self.manifest.volume is None:
            raise BundleError(f"bundle {self.manifest.name!r} is for images, not for volumes")
        return self.manifest.volume

    def warm_up(self) -> None:
        """Run the network once on nothing, so that what engines put off does not delay a user."""
        self.run(np.zeros((1, 1, *self.preprocessing.crop), np.float32))

    def run(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network on windows, as it takes them.

        Args:
            windows: [N, 1, D, H, W], D, H, W those of the bundle's crop.

        Returns:
            Logits [N, classes, D, H, W], the background's first.

        Raises:
            BackendError: the engine failed, or its output is not finite.
        """
        outputs = self._encoder.run({INPUT: windows})
        check_finite(outputs)
        logits, classes = outputs[OUTPUT], len(self.manifest.classes)
        if logits.shape != (len(windows), classes, *self.preprocessing.crop):
            raise BackendError(
                f"the network answers {logits.shape} to {windows.shape}, expected logits of {classes} classes; "
                "export the bundle again"
            )
        return logits

    def plan(self, volume: object, *, batch: int = 1) -> WindowPlan:
        """Say what `segment` will take, before it starts.

        Args:
            volume: as for `segment`.
            batch: as for `segment`.

        Raises:
            VolumeError: the volume cannot be read or used.
        """
        given = _as_volume(volume)
        return self._plan(given, NetworkGrid.of(given, self.preprocessing), batch)

    def _plan(self, volume: Volume, grid: NetworkGrid, batch: int) -> WindowPlan:
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise VolumeError(f"batch must be a whole number of windows of at least 1, got {batch!r}")
        plan = WindowPlan.of(grid, self.preprocessing, len(self.manifest.classes), batch)
        measured = (self.engines.certificate or {}).get("peak_memory_mb")
        if measured is None:
            return plan
        return replace(plan, process_bytes=int(measured * 1e6) + volume.array.nbytes + plan.peak_bytes)

    def segment(  # type: ignore[override]  # a label map instead of masks, and no prompts
        self,
        image: object,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | Result | None = None,
        points_mm: ArrayLike | None = None,
        box_mm: ArrayLike | None = None,
        multimask: bool = False,
        zoom: bool | None = None,
        variations: int = 0,
        batch: int = 1,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> VolumeResult:
        """Name the class of each voxel.

        Args:
            image: a `Volume`, or the path of a NIfTI file.
            points: no prompt is taken: this, `labels`, `box`, `mask`, `points_mm` and `box_mm` must be None.
            labels: see `points`.
            box: see `points`.
            mask: see `points`.
            points_mm: see `points`.
            box_mm: see `points`.
            multimask: there is one answer: this, `zoom` and `variations` must be left out.
            zoom: see `multimask`.
            variations: see `multimask`.
            batch: windows in one call of the engine. More than one pays on GPUs and takes more memory, see `plan`.
            progress: called after each call of the engine.
            cancel: when it is set, the next call of the engine does not take place.

        Returns:
            The label map, on the grid of the volume as given.

        Raises:
            VolumeError: the volume cannot be read or used, or something else came, whatever the prompt.
            PromptError: there is a prompt.
            CancelledError: `cancel` was set.
            BackendError: the engine failed, or its output is not finite.
        """
        _expect_volume(image)
        for prompt in (Prompt(points, labels, box, mask), Prompt(points_mm, None, box_mm)):
            check_kinds(prompt, self.manifest.prompt_kinds)
        if multimask or zoom or variations:
            raise PromptError(
                "a volume has one answer, no object to look closer at and no prompt to move; leave multimask, zoom and "
                "variations out"
            )
        begun = time.perf_counter()
        volume = _as_volume(image)
        grid = NetworkGrid.of(volume, self.preprocessing)
        plan = self._plan(volume, grid, batch)
        if self.preprocessing.orientation is not None:
            warn_if_unoriented(volume, "left and right, front and back may be exchanged", stacklevel=2)
        engine = Watched(self.run, plan, progress, cancel)
        label_map = label_volume(volume, grid, self.preprocessing, len(self.manifest.classes), plan, engine)
        timings = {"run": engine.seconds * 1e3, "total": (time.perf_counter() - begun) * 1e3}
        names = dict(list(self.manifest.classes.items())[1:])
        return VolumeResult(label_map, names, volume.without_voxels(), timings, self.provider, self.bundle.identity)

    def encode(self, image: object, *, window: Window | None = None) -> Embedding:
        """There is no embedding of a volume.

        Raises:
            VolumeError: always.
        """
        raise VolumeError(EXPECTED_VOLUME)


def _as_volume(image: Any) -> Volume:
    _expect_volume(image)
    return image if isinstance(image, Volume) else read_nifti(os.fspath(image))


def _expect_volume(image: Any) -> None:
    if isinstance(image, Volume) or is_nifti(image):
        return
    if getattr(image, "ndim", None) == 3:
        raise VolumeError("an array alone does not say how large its voxels are: give samsdk.Volume.of(array, spacing)")
    raise VolumeError(EXPECTED_VOLUME)
