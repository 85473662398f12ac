"""A volume that a user works on: a prompt on one slice, followed through the others, and corrections of it."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samsdk.embedding import Embedding
from samsdk.errors import PromptError
from samsdk.predictor import Predictor
from samsdk.prompts import FOREGROUND, Prompt, check_kinds
from samsdk.propagation.encodings import Encodings
from samsdk.propagation.following import Following, Found
from samsdk.propagation.plan import PropagationPlan
from samsdk.propagation.planes import Planes, Scale
from samsdk.propagation.tracker import Leg, Progress, Tracker, Watch
from samsdk.transforms import Window
from samsdk.volumes.result import VolumeResult
from samsdk.volumes.volume import Volume, warn_if_unoriented

NAME: Final = "object"
"""What the one class of the result is called."""
# Holds 50 planes of LiteMedSAM, 650 of the default model.
_MEMORY_MB: Final = 512


@dataclass(frozen=True)
class _State:
    """What a session knows; replaced as a whole, so that a call that fails changes nothing."""

    found: Mapping[int, Found] = field(default_factory=dict)
    prompts: Mapping[int, Prompt] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)


class Session:
    """One object in one volume.

    Its methods may be called from several threads; they wait for each other. Embeddings stay until the session is let
    go, within `memory_mb`: a correction encodes only what was never seen, or has been dropped since.

    Args:
        predictor: of a bundle for images that takes boxes.
        volume: any; slices and prompts are in its own voxel indices.
        axis: across which it is cut: `z`, `y` or `x`, the axes of its array [D, H, W].
        following: how the object is followed.
        scale: (lowest, highest) numbers of the volume that are told apart, as the window of a CT viewer; when left out
            see `planes.choose_scale`.
        zoom: look only at a window around the object; None does what the bundle recommends.
        memory_mb: of the embeddings that are kept, in 1e6 bytes.

    Raises:
        PromptError: the bundle takes no boxes.
        VolumeError: there is no such axis, or the scale is empty.
    """

    def __init__(
        self,
        predictor: Predictor,
        volume: Volume,
        *,
        axis: str = "z",
        following: Following = Following(),  # noqa: B008 (frozen)
        scale: Scale | None = None,
        zoom: bool | None = None,
        memory_mb: float = _MEMORY_MB,
    ) -> None:
        kinds = predictor.manifest.prompt_kinds
        if "box" not in kinds:
            raise PromptError(
                f"following an object needs a bundle that takes boxes; {predictor.manifest.name!r} takes "
                f"{' and '.join(kinds) or 'no prompt'}"
            )
        self.predictor = predictor
        self.planes = Planes(volume, axis, scale)
        warn_if_unoriented(volume, "its slices may not stand as those that the model was trained with", stacklevel=2)
        self._memory = int(memory_mb * 1e6)
        self._encodings = Encodings(self._encode, self._memory)
        self._tracker = Tracker(predictor, self.planes, self._encodings, following, predictor.zoom(zoom))
        self._state = _State()
        self._lock = threading.RLock()

    @property
    def found(self) -> Mapping[int, Found]:
        """What was found, by the index of the slice; slices without the object are left out."""
        return MappingProxyType(dict(sorted(self._state.found.items())))

    @property
    def encoded(self) -> int:
        """How often the encoder has run for this session."""
        return self._encodings.encoded

    def plan(self, extent: tuple[int, int] | None = None) -> PropagationPlan:
        """Say what `prompt` will take, before it starts.

        Args:
            extent: see `prompt`.

        Raises:
            PromptError: the extent is not within the volume.
        """
        first, last = self._check_extent(extent, extent[0] if extent else 0)
        return PropagationPlan.of(self.predictor.manifest, self.planes, last - first + 1, self._memory)

    def prompt(
        self,
        slice_index: int,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        extent: tuple[int, int] | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> VolumeResult:
        """Segment an object on one slice and follow it both ways; what was found before is forgotten.

        Args:
            slice_index: index of the slice.
            points: [K, 2] in voxel indices, the slice's last axis first: (x, y) across z, (x, z) across y, (y, z)
                across x.
            labels: [K], 1 for the object and 0 for what is not; all 1 when left out.
            box: two corners in the order of `points`, the second exclusive.
            extent: first and last slice of the object, if they are known: it is then followed to there and no further,
                whatever it looks like.
            progress: called after each slice with how many are done and how many there are at most.
            cancel: when it is set, no further slice is begun, and the session stays as it was.

        Returns:
            The object, number 1 of the label map.

        Raises:
            PromptError: the prompt is malformed, of a kind that the bundle lacks, or not within the slice or the
                volume.
            CancelledError: `cancel` was set.
            BackendError: the engine failed, or its output is not finite.
        """
        with self._lock:
            first, last = self._check_extent(extent, slice_index)
            prompt = self._prompt_of(points, labels, box)
            legs = (Leg(1, last, extent is not None), Leg(-1, first, extent is not None))
            watch = Watch(progress, cancel, last - first + 1)
            found, timings = self._run(slice_index, prompt, legs, watch)
            self._state = _State(found, {slice_index: prompt}, timings)
            return self.result()

    def correct(
        self,
        slice_index: int,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> VolumeResult:
        """Correct one slice, and follow the object again from there, up to the next slices that a user prompted.

        Points are added to what was said of this slice before; a box replaces the former one. Without a box, that of
        what was found stays, made larger where a point of the object lies outside. What was found is a prompt, too, if
        the bundle was trained with masks.

        Args:
            slice_index: index of the slice.
            points: see `prompt`; likewise all others.
            labels: of the points.
            box: around the object.
            progress: called after each slice.
            cancel: see `prompt`.

        Raises:
            PromptError: nothing was prompted yet; or as `prompt`.
            CancelledError, BackendError: as `prompt`.
        """
        with self._lock:
            state = self._state
            if not state.prompts:
                raise PromptError("nothing was prompted yet: call prompt before correct")
            self._check_index(slice_index)
            prompt = self._joined(slice_index, self._prompt_of(points, labels, box))
            others = [index for index in state.prompts if index != slice_index]
            below = max((index for index in others if index < slice_index), default=-1)
            above = min((index for index in others if index > slice_index), default=len(self.planes))
            # Between two slices on which a user saw it, the object does not end.
            legs = (Leg(1, above - 1, above < len(self.planes)), Leg(-1, below + 1, below >= 0))
            watch = Watch(progress, cancel, above - below - 1)
            renewed, timings = self._run(slice_index, self._with_mask(slice_index, prompt), legs, watch)
            kept = {index: one for index, one in state.found.items() if not below < index < above}
            self._state = _State({**kept, **renewed}, {**state.prompts, slice_index: prompt}, timings)
            return self.result()

    def preview(
        self,
        slice_index: int,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
    ) -> NDArray[np.bool_]:
        """The mask on one slice alone, [rows, columns] as the volume has it; nothing is followed, nothing replaced.

        Args:
            slice_index: index of the slice.
            points: see `prompt`; likewise `labels` and `box`.
            labels: of the points.
            box: around the object.

        Raises:
            PromptError, BackendError: as `prompt`.
        """
        with self._lock:
            self._check_index(slice_index)
            start = self._tracker.start(slice_index, self._prompt_of(points, labels, box))
            return self.planes.as_stored(np.zeros(self.planes.size, np.bool_) if start is None else start.region.full())

    def result(self) -> VolumeResult:
        """What was found so far, on the grid of the volume as given; timings are the last call's."""
        with self._lock:
            volume, predictor = self.planes.volume, self.predictor
            label_map = np.zeros(volume.shape, np.uint8)
            for index, one in self._state.found.items():
                region, (height, width) = one.region, one.region.inside.shape
                plane = self.planes.view(label_map, index)
                plane[region.top : region.top + height, region.left : region.left + width] = region.inside
            grid, timings = volume.without_voxels(), dict(self._state.timings)
            return VolumeResult(label_map, {"1": NAME}, grid, timings, predictor.provider, predictor.bundle.identity)

    def _encode(self, index: int, window: Window | None) -> Embedding:
        return self.predictor.encode(self.planes.image(index), window=window)

    def _prompt_of(self, points: ArrayLike | None, labels: ArrayLike | None, box: ArrayLike | None) -> Prompt:
        prompt = self.planes.prompt(points, labels, box)
        check_kinds(prompt, self.predictor.manifest.prompt_kinds)
        return prompt

    def _run(
        self, index: int, prompt: Prompt, legs: tuple[Leg, ...], watch: Watch
    ) -> tuple[dict[int, Found], dict[str, float]]:
        watch.check()
        start = self._tracker.start(index, prompt)
        timings = {"first": watch.milliseconds}
        watch.step()
        found = {}
        try:
            if start is not None:
                found = {index: start.found}
                for leg in legs:
                    found |= self._tracker.follow(start, leg, watch)
        finally:
            self._encodings.forget_coming()
        watch.finish()
        return found, {**timings, "total": watch.milliseconds}

    def _joined(self, index: int, new: Prompt) -> Prompt:
        """What is said of a slice now, after what was said and found before."""
        former = self._state.prompts.get(index, Prompt())
        sets = [one for one in (former, new) if one.points is not None]
        points = np.concatenate([np.asarray(one.points) for one in sets]) if sets else None
        labels = np.concatenate([np.asarray(one.labels) for one in sets]) if sets else None
        box = new.box
        if box is None and (former.box is not None or index in self._state.found):
            box = former.box if former.box is not None else self._state.found[index].region.box
            inside = np.asarray(points)[labels == FOREGROUND] if points is not None else np.zeros((0, 2))
            corners = np.concatenate([np.asarray(box, dtype=np.float64).reshape(2, 2), inside, inside + 1])
            box = np.concatenate([corners.min(axis=0), np.minimum(corners.max(axis=0), self.planes.size[::-1])])
        return Prompt(points, labels, box)

    def _with_mask(self, index: int, prompt: Prompt) -> Prompt:
        found = self._state.found.get(index)
        if found is None or "mask" not in self.predictor.manifest.trained_kinds:
            return prompt
        return replace(prompt, mask=found.region.full())

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self.planes):
            raise PromptError(
                f"the slice must be within 0 to {len(self.planes) - 1} across {self.planes.axis}, got {index}"
            )

    def _check_extent(self, extent: tuple[int, int] | None, index: int) -> tuple[int, int]:
        self._check_index(index)
        if extent is None:
            return 0, len(self.planes) - 1
        first, last = extent
        if not 0 <= first <= index <= last < len(self.planes):
            raise PromptError(
                f"expected a first and a last slice, 0 <= first <= {index} <= last < {len(self.planes)}, got {extent}"
            )
        return first, last
