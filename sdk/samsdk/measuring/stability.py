"""How far a mask, and what is measured of it, depend on where exactly somebody pointed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from samsdk.masks import Region

# Of all values the ends of a range leave out so many per cent on either side.
_TAIL: Final = 5


@dataclass(frozen=True)
class Stability:
    """How far a mask and its measurement change with the prompt (see `perturbation`).

    Attributes:
        agreement: mean IoU of the variations with the mask; 1.0 is a mask that does not depend on the prompt.
        ranges: of each value its lower and upper end, see `ranges`.
        variations: how many there were.
    """

    agreement: float
    ranges: Mapping[str, tuple[float, float]]
    variations: int

    def to_dict(self) -> dict[str, Any]:
        """The stability as JSON can hold it."""
        ends = {name: list(pair) for name, pair in self.ranges.items()}
        return {"agreement": self.agreement, "variations": self.variations, "ranges": ends}


def ranges(measured: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """The range of each value over several measurements of one object: its 5th and 95th percentile.

    Args:
        measured: values by name and unit, as `Measurement.values` gives them; at least one.

    Returns:
        The ends by name; a value that one of the measurements lacks, being of an empty mask, has no range.
    """
    shared = [name for name in measured[0] if all(name in one for one in measured)]
    ends = {name: np.percentile([one[name] for one in measured], [_TAIL, 100 - _TAIL]) for name in shared}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def agreement(region: Region, variations: Sequence[Region]) -> float:
    """Mean IoU of variations, at least one, with a mask of the same image; that of two empty masks is 1."""
    return float(np.mean([_iou(region, other) for other in variations]))


def _iou(first: Region, second: Region) -> float:
    one, other = first.box, second.box
    shared = 0
    if one is not None and other is not None:
        # Only where both boxes are: masks of the whole image would be large.
        x0, y0, x1, y1 = (*map(max, one[:2], other[:2]), *map(min, one[2:], other[2:]))
        if x0 < x1 and y0 < y1:
            parts = (region.inside[_part(region.top, y0, y1), _part(region.left, x0, x1)] for region in (first, second))
            shared = int(np.count_nonzero(np.logical_and(*parts)))
    union = first.area + second.area - shared
    return shared / union if union else 1.0


def _part(offset: int, start: int, stop: int) -> slice:
    return slice(start - offset, stop - offset)
