"""From one plane of a volume to the next, until the object ends."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from samsdk.embedding import Embedding
from samsdk.errors import CancelledError
from samsdk.masks import Region
from samsdk.predictor import Predictor
from samsdk.prompts import Prompt
from samsdk.propagation.encodings import Encodings
from samsdk.propagation.following import (
    Appearance,
    Extent,
    Following,
    Found,
    connected,
    next_box,
    next_window,
    slack_of,
    trimmed,
)
from samsdk.propagation.planes import Planes
from samsdk.results import Result
from samsdk.transforms import Window
from samsdk.zoom import Zoom, segment_zoomed

Progress = Callable[[int, int], None]


class Watch:
    """One call of a session: counts its planes, tells of them, and stops when it is told to.

    Args:
        progress: called with the number of planes that are done, and of all that there are at most.
        cancel: when it is set, the next `check` raises.
        most: planes.
    """

    def __init__(self, progress: Progress | None, cancel: threading.Event | None, most: int) -> None:
        self._progress, self._cancel, self._most = progress, cancel, most
        self._done = 0
        self._begun = time.perf_counter()

    @property
    def milliseconds(self) -> float:
        """Since it was made."""
        return (time.perf_counter() - self._begun) * 1e3

    def check(self) -> None:
        """Stop here if that is wanted.

        Raises:
            CancelledError: `cancel` is set.
        """
        if self._cancel is not None and self._cancel.is_set():
            raise CancelledError(f"following the object was cancelled after {self._done} of {self._most} slices")

    def step(self) -> None:
        """One plane is done."""
        self._done += 1
        if self._progress is not None and self._done < self._most:
            self._progress(self._done, self._most)

    def finish(self) -> None:
        """All planes are done, also those that were not looked at."""
        if self._progress is not None:
            self._progress(self._most, self._most)


@dataclass(frozen=True)
class Start:
    """The plane from which an object is followed.

    Attributes:
        index: of the plane.
        result: the answer to the user's prompt.
        region: its mask, not empty.
        box: of the mask.
        slack: see `slack_of`.
        appearance: of the object here.
    """

    index: int
    result: Result
    region: Region
    box: Extent
    slack: Extent
    appearance: Appearance

    @property
    def found(self) -> Found:
        """What is kept of it."""
        return Found(self.region, self.result.score)


@dataclass(frozen=True)
class Leg:
    """One way from the start.

    Attributes:
        step: 1 or -1.
        last: index of the plane where the way ends.
        whole: whether the object is known to be there all the way: nothing is taken for its end, and where it is lost
            it is looked for again in the box where it was prompted.
    """

    step: int
    last: int
    whole: bool


class Tracker:
    """Follows objects through the planes of one volume.

    Args:
        predictor: of a bundle that takes boxes.
        planes: of the volume.
        encodings: of the planes.
        following: how.
        zoom: how close; None looks at all of each plane.
    """

    def __init__(
        self, predictor: Predictor, planes: Planes, encodings: Encodings, following: Following, zoom: Zoom | None
    ) -> None:
        self._predictor = predictor
        self._planes = planes
        self._encodings = encodings
        self._following = following
        self._zoom = zoom
        # A mask would be new to a model that was never trained with any.
        self._masks = following.masks and "mask" in predictor.manifest.trained_kinds

    def start(self, index: int, prompt: Prompt) -> Start | None:
        """Answer a user's prompt on its plane; None where nothing is found.

        Raises:
            PromptError, BackendError: as `Predictor.segment`.
        """

        def encode(window: Window | None) -> Embedding:
            return self._encodings.get(index, window)

        def decode(embedding: Embedding, prompt: Prompt) -> Result:
            return self._predictor.decode_batch(embedding, [prompt])[0]

        if self._zoom is None:
            result = decode(encode(None), prompt)
        else:
            result = segment_zoomed(encode, decode, prompt, self._planes.size, self._zoom)
        whole = trimmed(result.region)
        if whole is None:
            return None
        region, box = whole
        x0, y0, x1, y1 = box if prompt.box is None else np.asarray(prompt.box, dtype=np.float64).tolist()
        slack = slack_of((x0, y0, x1, y1), box, self._following.slack)
        appearance = Appearance.of(self._planes.image(index), region.full())
        return Start(index, result, region, box, slack, appearance)

    def follow(self, start: Start, leg: Leg, watch: Watch) -> dict[int, Found]:
        """Follow an object one way.

        Args:
            start: where it was prompted.
            leg: which way.
            watch: of the call.

        Returns:
            What was found on each plane after the start.

        Raises:
            CancelledError: the watch says so.
            BackendError: the engine failed, or its output is not finite.
        """
        found: dict[int, Found] = {}
        doubtful: dict[int, Found | None] = {}
        region: Region | None = start.region
        box, result = start.box, start.result
        window = _window(result)
        for index in range(start.index + leg.step, leg.last + leg.step, leg.step):
            watch.check()
            wanted = next_box(box, start.slack, self._margin(window), self._planes.size)
            window = next_window(wanted, window, self._planes.size, self._zoom)
            embedding = self._encodings.get(index, window)
            if index != leg.last:
                self._encodings.prepare(index + leg.step, window)
            mask = result if self._masks and region is not None else None
            answer = self._predictor.decode(embedding, box=wanted, mask=mask)
            watch.step()
            whole = trimmed(answer.region if region is None else connected(answer.region, region))
            if leg.whole and whole is None:
                region, box = None, start.box
            elif whole is None or (not leg.whole and self._looks_ended(index, whole[0], answer.score, region, start)):
                doubtful[index] = whole and Found(whole[0], answer.score)
                if len(doubtful) > self._following.patience:
                    break
            else:
                result, (region, box) = answer, whole
                found |= {place: one for place, one in doubtful.items() if one is not None}
                found[index] = Found(region, answer.score)
                doubtful.clear()
        return found

    def _margin(self, window: Window | None) -> float:
        height, width = self._planes.size
        x0, y0, x1, y1 = window or (0, 0, width, height)
        return self._following.margin * max(x1 - x0, y1 - y0) / self._predictor.manifest.preprocessing.input_size

    def _looks_ended(self, index: int, region: Region, score: float, last: Region | None, start: Start) -> bool:
        following = self._following
        if score < following.lowest_score:
            return True
        if last is not None and region.area < following.smallest_share * last.area:
            return True
        return start.appearance.differs(self._planes.image(index), region.full()) > following.deviations


def _window(result: Result) -> Window | None:
    height, width = result.frame.original_size
    return None if result.frame.window == (0, 0, width, height) else result.frame.window
