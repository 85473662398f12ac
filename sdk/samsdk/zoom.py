"""Zoom: a second look at the part of the image where the object is, so that small objects keep their detail.

An object of a tenth of the image's side covers three cells of a 32 x 32 embedding. Seen in a window of twice its size,
it covers sixteen. After the crops of click-based segmentation (Sofiiuk et al., RITM, 2022, `ZoomIn`); what differs is
that a box needs no first look at the whole image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.embedding import Embedding
from samsdk.errors import PromptError
from samsdk.masks import Region
from samsdk.prompts import BACKGROUND, Prompt
from samsdk.results import Result
from samsdk.transforms import Window

# A window that shows this share of the image's longest side or more is not worth another encoding: objects of a quarter
# of the image and more are answered as well or better from the whole (fetal heads by half a point of Dice).
_WORTHWHILE: Final = 0.5
# A window that shows this share is as good as the whole image where it is looked at once alone.
NEARLY_ALL: Final = 0.75
# By how much a second look's predicted IoU may be lower: beyond it, it has lost the object.
_DOUBT: Final = 0.1
Extent = tuple[float, float, float, float]
Encode = Callable[[Window | None], Embedding]
Decode = Callable[[Embedding, Prompt], Result]
Look = Callable[[Prompt], Result]


@dataclass(frozen=True)
class Zoom:
    """How close the second look is.

    Attributes:
        context: side of the window as a multiple of the object's longest side.
        smallest: side of the window in pixels of the image, at least.
    """

    context: float = 2.0
    smallest: int = 48

    def __post_init__(self) -> None:
        if not (self.context >= 1 and self.smallest >= 1):
            raise ValueError(f"expected a context and a smallest side of at least 1, got {self}")


def zoom_window(extent: Extent, size: tuple[int, int], zoom: Zoom, *, worthwhile: float = _WORTHWHILE) -> Window | None:
    """The square window around an object, moved into the image and cut where the image is narrower.

    Args:
        extent: (x0, y0, x1, y1) in pixels of the image, of the object and of all that the window must show.
        size: (height, width) of the image.
        zoom: how close.
        worthwhile: the share of the image's longest side that a window must stay below.

    Returns:
        The window, or None where it would show too much of the image to be worth it.
    """
    x0, y0, x1, y1 = extent
    side = max(max(x1 - x0, y1 - y0) * zoom.context, float(zoom.smallest))
    if side >= worthwhile * max(size):
        return None
    left, right = _span(x0, x1, side, size[1])
    top, bottom = _span(y0, y1, side, size[0])
    return left, top, right, bottom


def _span(low: float, high: float, side: float, length: int) -> tuple[int, int]:
    # All pixels that the object touches, also where rounding to whole pixels would cut its border off.
    first, end = math.floor(low), math.ceil(high)
    wanted = min(max(round(side), end - first), length)
    start = min(max(round((low + high - wanted) / 2), end - wanted, 0), first, length - wanted)
    return start, start + wanted


def segment_zoomed(
    encode: Encode, decode: Decode, prompt: Prompt, size: tuple[int, int], zoom: Zoom, first_look: Look | None = None
) -> Result:
    """Answer one prompt from the window around what it points at.

    A box says where that is; a former result keeps its window, so that a correction costs one decode; points and
    masks are first answered by a first look, and that answer says where to look closer. It stays the answer if the
    second look believes in its own much less.

    Args:
        encode: encodes a window of the image, None is the whole; called again for the same window, it should know it.
        decode: answers a prompt from an embedding.
        prompt: in pixels of the whole image.
        size: (height, width) of the image.
        zoom: how close.
        first_look: answers a prompt at first; None does so on the whole image.

    Raises:
        PromptError: the mask is low-res logits, which do not say what part of the image they show.
    """
    if prompt.mask is not None and not isinstance(prompt.mask, Result) and _is_float(prompt.mask):
        raise PromptError(
            "low-res logits do not say what part of the image they show: give the former result itself as mask, or "
            "turn zoom off"
        )
    points = foreground(prompt)
    if isinstance(prompt.mask, Result) and (kept := _kept_window(prompt.mask, points, prompt.box)):
        return decode(encode(kept), within(prompt, kept))
    look = first_look or (lambda prompt: decode(encode(None), prompt))
    first: Result | None = None
    extent = None if prompt.box is None else _extent(np.asarray(prompt.box, dtype=np.float64).reshape(-1, 2))
    if extent is None:
        first = look(prompt)
        extent = object_extent(first.regions[first.best], points)
    window = None if extent is None else zoom_window(join_extent(extent, points), size, zoom)
    if window is None or not within(prompt, window).kinds:
        return first or look(prompt)
    second = decode(encode(window), within(prompt, window))
    return first if first is not None and first.score > second.score + _DOUBT else second


def object_extent(region: Region, points: NDArray[np.float64]) -> Extent | None:
    """The box of those parts of a mask that the points [K, 2] lie on, or of all of it where they lie on none.

    A first answer may have stray parts far away, which a second look should not be widened for.
    """
    if not region.inside.any():
        return None
    _, parts = cv2.connectedComponents(region.inside.astype(np.uint8), connectivity=8)
    columns, rows = (points - (region.left, region.top)).astype(np.intp).T
    height, width = region.inside.shape
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    hit = set(parts[rows[inside], columns[inside]].tolist()) - {0}
    wanted = np.isin(parts, list(hit)) if hit else region.inside
    return replace(region, inside=np.asarray(wanted)).box


def _kept_window(former: Result, points: NDArray[np.float64], box: object) -> Window | None:
    """The former result's window, if the object is all in it and the new prompt asks for nothing outside."""
    x0, y0, x1, y1 = window = former.frame.window
    height, width = former.frame.original_size
    found = former.box
    if window == (0, 0, width, height) or found is None or box is not None:
        return None
    if ((points < (x0, y0)) | (points >= (x1, y1))).any():
        return None
    return None if touches_border(found, window, (height, width)) else window


def touches_border(extent: Extent, window: Window, size: tuple[int, int]) -> bool:
    """Whether an object runs into its window's border and so goes on behind it: where that is not the image's, too."""
    x0, y0, x1, y1 = window
    left, top, right, bottom = extent
    height, width = size
    return (left <= x0 > 0) or (top <= y0 > 0) or (right >= x1 < width) or (bottom >= y1 < height)


def foreground(prompt: Prompt) -> NDArray[np.float64]:
    """The points of a prompt that are on the object, [K, 2]."""
    if prompt.points is None:
        return np.zeros((0, 2))
    points = np.asarray(prompt.points, dtype=np.float64).reshape(-1, 2)
    return points if prompt.labels is None else points[np.atleast_1d(np.asarray(prompt.labels)) != BACKGROUND]


def within(prompt: Prompt, window: Window) -> Prompt:
    """The prompt without background points outside the window, where nothing will be segmented anyway."""
    if prompt.points is None:
        return prompt
    points = np.asarray(prompt.points, dtype=np.float64).reshape(-1, 2)
    labels = np.ones(len(points)) if prompt.labels is None else np.atleast_1d(np.asarray(prompt.labels))
    x0, y0, x1, y1 = window
    inside = ((points >= (x0, y0)) & (points < (x1, y1))).all(axis=1)
    if not inside.any():
        return replace(prompt, points=None, labels=None)
    return replace(prompt, points=points[inside], labels=labels[inside])


def _extent(points: NDArray[np.float64]) -> Extent:
    x0, y0 = points.min(axis=0).tolist()
    x1, y1 = points.max(axis=0).tolist()
    return x0, y0, x1, y1


def join_extent(extent: Extent, points: NDArray[np.float64]) -> Extent:
    """The extent that holds another one and the pixels of points [K, 2]."""
    corners = np.array(extent).reshape(2, 2)
    # A click is a whole pixel.
    return _extent(np.concatenate([corners, points, points + 1])) if len(points) else extent


def _is_float(mask: object) -> bool:
    return np.issubdtype(np.asarray(mask).dtype, np.floating)
