"""Masks: from the decoder's low-res logits to pixels of the image, and the measures and codings of binary masks."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.transforms import Frame

# Rows that are interpolated at once: few enough that the float buffers stay in the cache.
_ROWS_AT_ONCE: Final = 64


@dataclass(frozen=True, eq=False)
class Region:
    """A binary mask of an image, stored only over the box that holds foreground.

    A 3000x2400 mask as floats costs 29 MB for each prompt; most objects fill a small part of it.

    Attributes:
        size: (height, width) of the whole image.
        top: first row of the box.
        left: first column of the box.
        inside: [h, w] bool, the mask within the box; the box may have a margin of background, and a mask without
            foreground may have any box, an empty one included.
    """

    size: tuple[int, int]
    top: int
    left: int
    inside: NDArray[np.bool_]

    def full(self) -> NDArray[np.bool_]:
        """The mask over the whole image, [H, W] bool."""
        mask = np.zeros(self.size, dtype=np.bool_)
        height, width = self.inside.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.inside
        return mask

    @property
    def area(self) -> int:
        """Number of foreground pixels."""
        return int(np.count_nonzero(self.inside))

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Tight box (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None for an empty mask."""
        rows, columns = np.flatnonzero(self.inside.any(axis=1)), np.flatnonzero(self.inside.any(axis=0))
        if len(rows) == 0:
            return None
        return (
            self.left + int(columns[0]),
            self.top + int(rows[0]),
            self.left + int(columns[-1]) + 1,
            self.top + int(rows[-1]) + 1,
        )


def upsample_region(logits: NDArray[np.float32], frame: Frame, threshold: float = 0.0) -> Region:
    """Crop the padding off low-res logits, interpolate them to the image's size, and threshold.

    Equals bilinear interpolation with `align_corners=False` (LiteMedSAM's `postprocess_masks`) followed by
    `> threshold`, but only the box that can hold foreground is ever interpolated.

    Args:
        logits: [L, L] float32, over the whole input square.
        frame: the image's frame.
        threshold: logits above it are foreground.

    Returns:
        The mask of the image as given; outside the frame's window it is background.
    """
    crop, spans = _crop_padding(logits, frame)
    foreground = crop > threshold
    rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
    if len(rows) == 0:
        return Region(frame.original_size, 0, 0, np.zeros((0, 0), dtype=np.bool_))
    vertical = _taps(frame.window_size[0], spans[0], crop.shape[0], int(rows[0]), int(rows[-1]))
    horizontal = _taps(frame.window_size[1], spans[1], crop.shape[1], int(columns[0]), int(columns[-1]))
    wide = _blend(crop, horizontal, axis=1)  # [crop height, box width]
    inside = np.empty((len(vertical.lower), len(horizontal.lower)), dtype=np.bool_)
    for start in range(0, len(inside), _ROWS_AT_ONCE):
        rows_now = slice(start, start + _ROWS_AT_ONCE)
        np.greater(_blend(wide, vertical.part(rows_now), axis=0), threshold, out=inside[rows_now])
    left, top = frame.window[:2]
    return Region(frame.original_size, top + vertical.start, left + horizontal.start, inside)


def upsample_logits(logits: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
    """The same interpolation over all of the frame's window, without the threshold.

    Args:
        logits: [M, L, L] float32, over the whole input square.
        frame: the image's frame.

    Returns:
        [M, h, w] float32 logits of the frame's window: of the image as given where the frame shows all of it.
    """
    height, width = frame.window_size
    full = np.empty((len(logits), height, width), dtype=np.float32)
    for index, one in enumerate(logits):
        crop, spans = _crop_padding(one, frame)
        vertical = _taps(height, spans[0], crop.shape[0], 0, crop.shape[0] - 1)
        horizontal = _taps(width, spans[1], crop.shape[1], 0, crop.shape[1] - 1)
        full[index] = _blend(_blend(crop, horizontal, axis=1), vertical, axis=0)
    return full


def upsample_labels(logits: NDArray[np.float32], frame: Frame) -> NDArray[np.uint8]:
    """Crop the padding off the low-res logits of all classes, interpolate them, and name each pixel's class.

    Equals `upsample_logits` followed by `argmax`, but only the box that can hold a class is ever interpolated.

    Args:
        logits: [1 + K, L, L] float32, over the whole input square; the first are the background's.
        frame: the image's frame.

    Returns:
        [H, W] uint8, the index of the largest logit, and of equal ones the lowest; outside the frame's window it is 0.
    """
    labels = np.zeros(frame.original_size, dtype=np.uint8)
    crops, spans = _crop_padding(logits, frame)
    # Interpolation keeps order: a class that is nowhere above the background in the cells is not so between them.
    above = crops[1:] > crops[0]
    rivals = [0, *(1 + np.flatnonzero(above.any(axis=(1, 2))))]
    rows, columns = np.flatnonzero(above.any(axis=(0, 2))), np.flatnonzero(above.any(axis=(0, 1)))
    if len(rows) == 0:
        return labels
    vertical = _taps(frame.window_size[0], spans[0], crops.shape[1], int(rows[0]), int(rows[-1]))
    horizontal = _taps(frame.window_size[1], spans[1], crops.shape[2], int(columns[0]), int(columns[-1]))
    wide = [_blend(crops[number], horizontal, axis=1) for number in rivals]  # [crop height, box width] each
    top, left = frame.window[1] + vertical.start, frame.window[0] + horizontal.start
    inside = labels[top : top + len(vertical.lower), left : left + len(horizontal.lower)]
    for start in range(0, len(inside), _ROWS_AT_ONCE):
        rows_now = slice(start, start + _ROWS_AT_ONCE)
        best = _blend(wide[0], vertical.part(rows_now), axis=0)
        for number, cells in zip(rivals[1:], wide[1:], strict=True):
            values = _blend(cells, vertical.part(rows_now), axis=0)
            inside[rows_now][values > best] = number
            np.maximum(best, values, out=best)
    return labels


def reframe_logits(logits: NDArray[np.float32], source: Frame, target: Frame, outside: float) -> NDArray[np.float32]:
    """Move low-res logits of one window of an image to another window of it.

    Args:
        logits: [L, L] float32, over the source's input square.
        source: the frame that they were made in.
        target: the frame that they are wanted in, of the same image.
        outside: logit of what the source's window does not show.

    Returns:
        [L, L] float32, interpolated bilinearly; the logits themselves where both windows are the same.
    """
    if source == target:
        return logits
    side = logits.shape[0]
    crop, _ = _crop_padding(logits, source)
    # From centres of the target's cells to the image, and from there to centres of the source's.
    to, back = _cell_centres(target, side), _cell_centres(source, side)
    zoom = to.step / back.step
    shift = (to.first - back.first) / back.step
    matrix = np.array([[zoom[0], 0, shift[0]], [0, zoom[1], shift[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(
        np.ascontiguousarray(crop), matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    # The outer half of a border cell is still shown: a mask that runs into the image's border must not fade there.
    centres = [to.first[axis] + np.arange(side) * to.step[axis] for axis in (0, 1)]
    across, down = ((at >= source.window[axis]) & (at < source.window[axis + 2]) for axis, at in enumerate(centres))
    return np.where(down[:, None] & across, moved, np.float32(outside)).astype(np.float32)


@dataclass(frozen=True)
class _Centres:
    """Where the centres of a square's cells lie in the image: the first one, and from one to the next, each (x, y)."""

    first: NDArray[np.float64]
    step: NDArray[np.float64]


def _cell_centres(frame: Frame, side: int) -> _Centres:
    cell, scales, offset = frame.input_size / side, np.array(frame.scales[::-1]), np.array(frame.offset[::-1])
    return _Centres(np.array(frame.window[:2]) + (0.5 * cell - offset) / scales, cell / scales)


@dataclass(frozen=True)
class _Taps:
    """For each output pixel from `start` on: the lower of its two source cells, and the weight of the other."""

    start: int
    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    weight: NDArray[np.float32]

    def part(self, pixels: slice) -> "_Taps":
        return _Taps(self.start, self.lower[pixels], self.upper[pixels], self.weight[pixels])


_Span = tuple[float, float]


def _crop_padding(logits: NDArray[np.float32], frame: Frame) -> tuple[NDArray[np.float32], tuple[_Span, _Span]]:
    """Cut the padding at the right and bottom off [..., L, L]; also, by axis, the image's begin and length in cells.

    Padding all around stays: what the published code interpolates at the image's border reaches into it.
    """
    side = logits.shape[-1]
    spans = [
        (start * side / frame.input_size, length * side / frame.input_size)
        for start, length in zip(frame.offset, frame.resized_size, strict=True)
    ]
    if frame.offset == (0, 0):
        # 170.66666 * 3 / 3 must not become one cell more than it is.
        height, width = (int(np.ceil(length - 1e-6)) for _, length in spans)
        logits = logits[..., :height, :width]
    return logits, (spans[0], spans[1])


def _taps(length: int, span: _Span, cells: int, first: int, last: int) -> _Taps:
    """Taps of the output pixels that source cells first..last can reach; `span` as `_crop_padding` gives it."""
    begin, extent = span
    source = np.clip((np.arange(length) + 0.5) * (extent / length) + begin - 0.5, 0, cells - 1)
    start = int(np.searchsorted(source, first - 1, side="left"))
    stop = int(np.searchsorted(source, last + 1, side="right"))
    lower = np.floor(source[start:stop]).astype(np.intp)
    weight = (source[start:stop] - lower).astype(np.float32)
    return _Taps(start, lower, np.minimum(lower + 1, cells - 1), weight)


def _blend(cells: NDArray[np.float32], taps: _Taps, axis: int) -> NDArray[np.float32]:
    """Interpolate along one axis of a 2-D array."""
    # `take` copies whole runs of memory along either axis; indexing a transposed array takes three times as long.
    low = cells.take(taps.lower, axis)
    blended = cells.take(taps.upper, axis)
    blended -= low
    blended *= taps.weight[:, None] if axis == 0 else taps.weight
    blended += low
    return blended


def mask_iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of one shape; 1.0 when both are empty."""
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 1.0


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Dice coefficient `2 |A and B| / (|A| + |B|)` of two masks of one shape; 1.0 when both are empty."""
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return float(2 * np.count_nonzero(first & second) / total) if total else 1.0


def polygons(region: Region) -> list[NDArray[np.int32]]:
    """Outer contours of a mask, one [N, 2] array of (x, y) pixel centres for each connected part.

    Holes are filled, and so are not told from islands within them.
    """
    if region.inside.size == 0:
        return []
    contours, _ = cv2.findContours(region.inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    offset = np.array([region.left, region.top], dtype=np.int32)
    return [np.asarray(contour, dtype=np.int32).reshape(-1, 2) + offset for contour in contours]


def encode_rle(region: Region) -> dict[str, list[int] | str]:
    """COCO's compressed run-length encoding of a mask, as `pycocotools.mask.decode` reads it.

    It takes memory and time for the region's box alone: thousands of cells may lie on a picture of 400 megapixels.

    Args:
        region: the mask.

    Returns:
        `{"size": [H, W], "counts": text}`; runs go down the columns and start with background.
    """
    height, width = region.size
    # A column's first and last row are background here, so that every run begins and ends in it.
    steps = np.diff(np.pad(region.inside.T, ((0, 0), (1, 1))).view(np.int8), axis=1)
    starts, ends = (_flat_places(steps == step, region, height) for step in (1, -1))
    # Where one column ends in foreground and the next begins with it, there is no run between.
    touching = np.flatnonzero(starts[1:] == ends[:-1])
    edges = np.column_stack([np.delete(starts, touching + 1), np.delete(ends, touching)])
    counts = np.diff(np.concatenate(([0], edges.ravel(), [height * width]))).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        counts.pop()
    return {"size": [height, width], "counts": _compress_counts(counts)}


def _flat_places(marked: NDArray[np.bool_], region: Region, height: int) -> NDArray[np.int64]:
    """Places in the image, counted down its columns, of marks [columns, rows] in a region's box."""
    columns, rows = np.nonzero(marked)
    return (region.left + columns) * height + region.top + rows


def _compress_counts(counts: list[int]) -> str:
    """COCO's text form of run lengths (cocoapi, rleToString): 5 bits a character, differences from the third on."""
    text = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            chunk = value & 0x1F
            value >>= 5
            more = value != (-1 if chunk & 0x10 else 0)
            text.append(chr((chunk | 0x20 if more else chunk) + 48))
    return "".join(text)
