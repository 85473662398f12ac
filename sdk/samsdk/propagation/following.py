"""How an object is followed from one plane to the next: where the next prompt is, and when the object has ended.

After LiteMedSAM's inference on volumes (the next prompt is the box of the last mask, made larger by a margin). A model
that is given a box finds something in it, also where the object has ended, and is as sure of that; what tells the end
is that the thing looks different.
"""

from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.masks import Region
from samsdk.transforms import Window
from samsdk.zoom import NEARLY_ALL, Zoom, zoom_window

Extent = tuple[float, float, float, float]
"""A box, (x0, y0, x1, y1) in pixels, x1 and y1 exclusive."""

# Of normally distributed numbers, the standard deviation is so many times their median distance from the median.
_NORMAL: Final = 1.4826
# An object whose pixels are all alike may still differ from its neighbour in the next plane by this many grey levels.
_LEAST_DEVIATION: Final = 4.0
# A window stays while its side is within these multiples of the box's: so the planes ahead can be encoded.
_TIGHTEST: Final = 1.5
_WIDEST: Final = 3.0


@dataclass(frozen=True)
class Following:
    """Settings.

    Attributes:
        margin: by how much the next box is larger than the last mask on each side, in pixels of the network's square.
        slack: what share of the distance between the user's box and the mask that answered it is added on each side:
            models leave out or add the same again on the next plane. 0 where points were given.
        deviations: the object has ended where its median brightness differs from that on the prompted plane by more
            than this many deviations of the brightness there; infinity turns the rule off.
        smallest_share: it has ended where its area is a smaller share of the last plane's.
        lowest_score: it has ended where the model predicts a lower IoU.
        patience: so many planes in a row may look like the end and are kept if the object goes on behind them.
        masks: whether the last mask is given as a prompt, too, where the bundle was trained with masks.
    """

    margin: float = 4.0
    slack: float = 0.5
    deviations: float = 1.5
    smallest_share: float = 0.1
    lowest_score: float = 0.3
    patience: int = 1
    masks: bool = False

    def __post_init__(self) -> None:
        shares = (self.slack, self.smallest_share, self.lowest_score)
        if not (self.margin >= 0 < self.deviations and self.patience >= 0 and all(0 <= one <= 1 for one in shares)):
            raise ValueError(
                "expected margin >= 0, deviations > 0, patience >= 0, and slack, smallest_share and lowest_score "
                f"within 0 to 1, got {self}"
            )


@dataclass(frozen=True)
class Appearance:
    """What an object looks like on the plane on which it was prompted.

    Medians, because the mask's border always holds some of what is around the object.

    Attributes:
        median: of its pixels' brightness, 0 to 255.
        deviation: their median distance from it as a standard deviation, at least 4.
    """

    median: float
    deviation: float

    @classmethod
    def of(cls, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> "Appearance":
        """Of what a mask shows of an image [H, W]; the mask is not empty."""
        values = image[mask].astype(np.float64)
        median = float(np.median(values))
        return cls(median, max(_NORMAL * float(np.median(np.abs(values - median))), _LEAST_DEVIATION))

    def differs(self, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
        """How many deviations the median under another mask lies away."""
        return abs(float(np.median(image[mask])) - self.median) / self.deviation


@dataclass(frozen=True)
class Found:
    """The object on one plane.

    Attributes:
        region: its mask on the upright plane; not empty.
        score: predicted IoU.
    """

    region: Region
    score: float


def slack_of(box: Extent, found: Extent, share: float) -> Extent:
    """How far a user's box reaches beyond the mask that answered it: what is to be added to later masks' boxes.

    Args:
        box: the user's.
        found: the mask's.
        share: of the distances.

    Returns:
        To be added to x0, y0, x1 and y1, each as a share of the mask's width or height.
    """
    width, height = found[2] - found[0], found[3] - found[1]
    left, top, right, bottom = (share * (one - other) for one, other in zip(box, found, strict=True))
    return min(left, 0) / width, min(top, 0) / height, max(right, 0) / width, max(bottom, 0) / height


def next_box(last: Extent, slack: Extent, margin: float, size: tuple[int, int]) -> Extent:
    """The next plane's prompt.

    Args:
        last: tight box of the last mask.
        slack: see `slack_of`.
        margin: in pixels of the image.
        size: (height, width) of the image.
    """
    x0, y0, x1, y1 = last
    width, height = x1 - x0, y1 - y0
    return (
        max(0.0, x0 + slack[0] * width - margin),
        max(0.0, y0 + slack[1] * height - margin),
        min(float(size[1]), x1 + slack[2] * width + margin),
        min(float(size[0]), y1 + slack[3] * height + margin),
    )


def next_window(box: Extent, last: Window | None, size: tuple[int, int], zoom: Zoom | None) -> Window | None:
    """The window of the next plane: the last one as long as it fits, so that it is known before the box is.

    Args:
        box: that it must show.
        last: the last plane's; None is all of it.
        size: (height, width) of the image.
        zoom: how close; None shows all of the plane.
    """
    best = None if zoom is None else zoom_window(box, size, zoom, worthwhile=NEARLY_ALL)
    if best is None or zoom is None or last is None:
        return best
    inside = last[0] <= box[0] and last[1] <= box[1] and box[2] <= last[2] and box[3] <= last[3]
    longest = max(box[2] - box[0], box[3] - box[1])
    side = max(last[2] - last[0], last[3] - last[1])
    fits = _TIGHTEST * longest <= side <= max(_WIDEST * longest, zoom.smallest)
    return last if inside and fits else best


def connected(region: Region, last: Region) -> Region:
    """Those parts of a mask that the last plane's mask overlaps; all of it where it overlaps none."""
    mask = region.full()
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    hit = set(np.unique(parts[last.full()]).tolist()) - {0}
    return replace(region, top=0, left=0, inside=np.isin(parts, list(hit))) if hit else region


def trimmed(region: Region) -> tuple[Region, Extent] | None:
    """A mask stored over its tight box alone, and that box; None for an empty mask."""
    box = region.box
    if box is None:
        return None
    x0, y0, x1, y1 = box
    inside = region.inside[y0 - region.top : y1 - region.top, x0 - region.left : x1 - region.left]
    return Region(region.size, y0, x0, np.ascontiguousarray(inside)), (float(x0), float(y0), float(x1), float(y1))
