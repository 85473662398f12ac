"""A volume with a bundle for images: what is prompted on one slice is followed through the others.

volume = samsdk.read_nifti("ct.nii.gz")
result = propagate(samsdk.load(), volume, slice_index=60, box=(40, 60, 210, 190))
result.save("mask.nii.gz")
"""

import threading

from numpy.typing import ArrayLike

from samsdk.predictor import Predictor
from samsdk.propagation.following import Following
from samsdk.propagation.plan import PropagationPlan
from samsdk.propagation.planes import Scale
from samsdk.propagation.session import Session
from samsdk.propagation.tracker import Progress
from samsdk.volumes.result import VolumeResult
from samsdk.volumes.volume import Volume

__all__ = ["Following", "PropagationPlan", "Session", "propagate"]


def propagate(
    predictor: Predictor,
    volume: Volume,
    *,
    slice_index: int,
    points: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    box: ArrayLike | None = None,
    extent: tuple[int, int] | None = None,
    axis: str = "z",
    following: Following = Following(),  # noqa: B008 (frozen)
    scale: Scale | None = None,
    zoom: bool | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> VolumeResult:
    """Segment an object in a volume from a prompt on one slice; see `Session`, which can also be corrected.

    Args:
        predictor: of a bundle for images that takes boxes.
        volume: any.
        slice_index: index of the slice that is prompted.
        points: see `Session.prompt`; likewise `labels`, `box` and `extent`.
        labels: of the points.
        box: around the object.
        extent: first and last slice of the object, if they are known.
        axis: see `Session`; likewise `following`, `scale` and `zoom`.
        following: how the object is followed.
        scale: numbers of the volume that are told apart.
        zoom: look only at a window around the object.
        progress: called after each slice with how many are done and how many there are at most.
        cancel: when it is set, no further slice is begun.

    Returns:
        The object, number 1 of the label map.

    Raises:
        PromptError, VolumeError, CancelledError, BackendError: as `Session` and `Session.prompt`.
    """
    session = Session(predictor, volume, axis=axis, following=following, scale=scale, zoom=zoom)
    return session.prompt(
        slice_index, points=points, labels=labels, box=box, extent=extent, progress=progress, cancel=cancel
    )
