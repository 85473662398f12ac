"""Windows in, labels out: the logits of overlapping windows blended, carried back to the volume's grid, and named."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.volumes.grid import Sampler, blend, neighbours
from samsdk.volumes.sliding import WindowPlan

Logits = NDArray[np.float32]
Run = Callable[[NDArray[np.float32]], Logits]
"""Windows [N, 1, D, H, W] to logits [N, K, D, H, W], or to any other values of K channels."""


def blended_planes(
    plan: WindowPlan, strip: tuple[int, int], sampler: Sampler, fill: float, weights: NDArray[np.float32], run: Run
) -> Iterator[Logits]:
    """Run the network over a strip, and give its planes as soon as no further window adds to them.

    Args:
        plan: where windows lie.
        strip: one of the plan's.
        sampler: of the volume, its axes in the plan's order.
        fill: stands for what is outside of it.
        weights: of a window's voxels, [D, H, W].
        run: the network.

    Yields:
        Planes [K, n, B, C] along the streamed axis, in order and without padding; B as `WindowPlan.needed` says. They
        are changed when the next are asked for.
    """
    first, _, last = plan.axes
    low, high = plan.needed(strip)
    columns = slice(last.before, last.before + last.size)
    turned = weights.transpose(plan.order)
    held: Logits | None = None
    for place, start in enumerate(first.starts):
        slab = _slab(plan, sampler, fill, start)
        for batch in plan.positions(strip):
            logits = run(_cut(plan, slab, batch))
            if held is None:
                held = _hold(plan, (logits.shape[1] + 1, first.crop, high - low, last.padded))
            for (row, column), one in zip(batch, logits, strict=True):
                _add(plan, held, one.transpose(0, *(1 + axis for axis in plan.order)), turned, (row - low, column))
        if held is None:
            return
        following = first.starts[place + 1] if place + 1 < len(first.starts) else first.padded
        done = following - start
        held[:-1, :done] /= held[-1, :done]
        # Padding of the streamed axis: there is only one window then.
        inside = slice(first.before, first.before + first.size) if first.size < first.crop else slice(0, done)
        yield held[:-1, inside, :, columns]
        for channel in held:
            channel[: first.crop - done] = channel[done:]
            channel[first.crop - done :] = 0


def _hold(plan: WindowPlan, shape: tuple[int, int, int, int]) -> Logits:
    """Zeros [K, A, B, C] that lie in memory as a window's logits do: adding is most of the work beside the network."""
    places = (0, *(1 + axis for axis in np.argsort(plan.order)))
    natural = np.zeros([shape[axis] for axis in places], np.float32)
    return natural.transpose(0, *(1 + axis for axis in plan.order))


def _slab(plan: WindowPlan, sampler: Sampler, fill: float, start: int) -> NDArray[np.float32]:
    """The network's input from one streamed start on, as deep as a window, padded."""
    first, second, last = plan.axes
    planes = sampler.planes(max(start - first.before, 0), min(start - first.before + first.crop, first.size))
    shape = (first.crop, second.padded, last.padded)
    if planes.shape == shape:
        return planes
    slab = np.full(shape, fill, np.float32)
    inside = [slice(axis.before, axis.before + side) for axis, side in zip(plan.axes, planes.shape, strict=True)]
    slab[tuple(inside)] = planes
    return slab


def _cut(plan: WindowPlan, slab: NDArray[np.float32], batch: list[tuple[int, int]]) -> NDArray[np.float32]:
    _, second, last = plan.axes
    places = np.argsort(plan.order)
    windows = [slab[:, row : row + second.crop, column : column + last.crop] for row, column in batch]
    return np.stack([window.transpose(places) for window in windows])[:, None]


def _add(plan: WindowPlan, held: Logits, logits: Logits, weights: NDArray[np.float32], place: tuple[int, int]) -> None:
    """Add one window's logits [K, A, B, C] and its weights to what is held, as far as it reaches into the strip."""
    _, second, last = plan.axes
    row, column = place
    begin, end = max(-row, 0), min(second.crop, held.shape[2] - row)
    target = held[:, :, row + begin : row + end, column : column + last.crop]
    part = weights[:, begin:end]
    weighted = np.empty_like(part)
    for channel, values in zip(target[:-1], logits[:, :, begin:end], strict=True):
        channel += np.multiply(values, part, out=weighted)
    target[-1] += part


class LabelWriter:
    """Writes labels on the volume's grid while logits arrive plane by plane.

    Args:
        plan: of the windows.
        strip: that the planes are of.
        labels: [A, B, C], the label map with its axes in the plan's order; the strip is written.
    """

    def __init__(self, plan: WindowPlan, strip: tuple[int, int], labels: NDArray[np.generic]) -> None:
        first, second, last = plan.axes
        self._labels = labels[:, strip[0] : strip[1]]
        self._streamed = neighbours(first.size, first.turned)
        below, above, weight = neighbours(second.size, second.turned)
        here = slice(*strip)
        self._rows = (below[here] - below[strip[0]], above[here] - below[strip[0]], weight[here, None])
        self._same_rows, self._columns = second.size == second.turned, last.turned
        self._arrived = self._written = 0
        self._kept: Logits | None = None

    def write(self, planes: Logits) -> None:
        """Take the next planes [K, n, B, C], and write the labels that they decide."""
        start, self._arrived = self._arrived, self._arrived + planes.shape[1]

        def plane(index: int) -> Logits:
            return planes[:, index - start] if index >= start or self._kept is None else self._kept

        below, above, weight = self._streamed
        while self._written < len(below) and above[self._written] < self._arrived:
            low, high, share = int(below[self._written]), int(above[self._written]), weight[self._written]
            logits = plane(low) if share == 0 else blend(plane(low), plane(high), share)
            self._labels[self._written] = self._name(logits)
            self._written += 1
        # What comes next may lie between this plane and the next.
        self._kept = planes[:, -1].copy()

    def _name(self, logits: Logits) -> NDArray[np.uint16]:
        """The channel of the largest value [B, C], the first of those that are equal."""
        largest = self._carry_back(logits[0]).copy(order="K")
        labels = np.zeros_like(largest, np.uint16)
        for number in range(1, len(logits)):
            values = self._carry_back(logits[number])
            larger = values > largest
            np.copyto(labels, np.uint16(number), where=larger)
            np.copyto(largest, values, where=larger)
        return labels

    def _carry_back(self, channel: NDArray[np.float32]) -> NDArray[np.float32]:
        below, above, weight = self._rows
        rows = channel if self._same_rows else blend(channel[below], channel[above], weight)
        if rows.shape[1] == self._columns:
            return rows
        size = (self._columns, len(rows))
        return np.asarray(cv2.resize(np.ascontiguousarray(rows), size, interpolation=cv2.INTER_LINEAR), np.float32)
