"""Boxes around whatever in an image might be an object, for a teacher that segments what a box holds.

Three old and cheap ideas side by side, because each fails on other images: connected components of thresholds (Otsu,
1979, and percentiles), maximally stable extremal regions (Matas et al., 2002), and a sparse grid of boxes. All of them
propose too much; the teacher's answers are what is judged (`pseudo_labels`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
_Area = tuple[Box, int, float]  # box, pixels inside, how promising it looks

# Where the most coloured fiftieth of an image is below this saturation, 0 to 255, its "colours" are noise.
_GREY_SATURATION: Final = 20.0


@dataclass(frozen=True)
class ProposalConfig:
    """What counts as a proposal.

    Attributes:
        most: boxes of an image.
        smallest: area of a box as a share of the image.
        largest: area of a box as a share of the image.
        shortest: of a box's sides, in pixels.
        aspect: the longer side over the shorter one, at most.
        overlap: of two boxes with a larger IoU than this, one is enough.
        fill: share of its box that a thresholded region fills at least.
        blur: standard deviation of the blur before thresholding, as a share of the image's longest side.
        percentiles: of the brightness, as further thresholds.
        margin: boxes of regions grow by this share of their sides, because thresholds cut an object's soft border.
        grid: sides of the grid's boxes as shares of the image's sides.

    Raises:
        ValueError: a value is out of its range.
    """

    most: int = 14
    smallest: float = 0.005
    largest: float = 0.8
    shortest: int = 8
    aspect: float = 3.5
    overlap: float = 0.6
    fill: float = 0.3
    blur: float = 0.006
    percentiles: tuple[float, ...] = (25.0, 75.0, 92.0)
    margin: float = 0.03
    grid: tuple[float, ...] = (0.3, 0.55)

    def __post_init__(self) -> None:
        if self.most < 1 or self.shortest < 1 or self.aspect < 1:
            raise ValueError(f"most, shortest and aspect must be at least 1, got {self}")
        if not 0 <= self.smallest < self.largest <= 1:
            raise ValueError(f"expected 0 <= smallest < largest <= 1, got {self.smallest} and {self.largest}")
        if not all(0 < side <= 1 for side in self.grid) or not all(0 < one < 100 for one in self.percentiles):
            raise ValueError(f"grid must lie within 0 to 1 and percentiles within 0 to 100, got {self}")


def propose_boxes(image: NDArray[np.uint8], config: ProposalConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    """Propose boxes, whatever their content may be.

    The kinds (dark and bright regions, saturated ones, stable ones, the grid) take turns, so that none crowds the
    others out; within a kind, filled regions of strong contrast tend to come first.

    Args:
        image: [H, W] grey or [H, W, 3] RGB, uint8.
        config: limits.
        rng: the only source of chance.

    Returns:
        [N, 4] float32, N at most `config.most`, (x0, y0, x1, y1) in pixels of the image, x1 and y1 exclusive.

    Raises:
        ValueError: the image is of another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"expected an image HxW or HxWx3 of uint8, got {image.shape} {image.dtype}")
    grey, saturation = _planes(image, config)
    kinds = [_regions(grey, config, dark=True), _regions(grey, config, dark=False), _stable(grey, config)]
    if saturation is not None:
        kinds.insert(0, _regions(saturation, config, dark=False))
    ordered = [_shuffled(kind, rng) for kind in kinds]
    ordered.append(_grid(grey.shape, config, rng))
    chosen = _take_turns(ordered, grey.shape, config)
    return np.array(chosen, dtype=np.float32).reshape(-1, 4)


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1), x1 and y1 exclusive; 0 where both are empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = _area(first) + _area(second) - shared
    return shared / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _planes(image: NDArray[np.uint8], config: ProposalConfig) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Grey, and the saturation where the image has colours; both [H, W] uint8, blurred."""
    sigma = max(0.5, config.blur * max(image.shape[:2]))
    smooth = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.uint8)
    if smooth.ndim == 2:
        return smooth, None
    grey = np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    # Not HSV's, which is a quotient and therefore noise where the image is dark.
    saturation = smooth.max(axis=2) - smooth.min(axis=2)
    return grey, saturation if np.percentile(saturation, 98) > _GREY_SATURATION else None


def _regions(plane: NDArray[np.uint8], config: ProposalConfig, *, dark: bool) -> Iterator[_Area]:
    """Components above each threshold, or below it."""
    otsu, _ = cv2.threshold(plane, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    above, below = plane[plane > otsu], plane[plane <= otsu]
    levels = {otsu, *np.percentile(plane, config.percentiles).tolist()}
    # Otsu once more within either class: organs within a body, nuclei within cells.
    for part in (above, below):
        if part.size:
            levels.add(cv2.threshold(part.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0])
    edges = cv2.morphologyEx(plane, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    for level in sorted(levels):
        binary = ((plane > level) ^ dark).astype(np.uint8)
        # Opened, so that cells that touch at a few pixels come apart.
        side = max(3, round(0.01 * max(plane.shape)) | 1)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        opened = cv2.morphologyEx(binary, cv2.MORPH_OPEN, kernel)
        yield from _components(np.asarray(opened, dtype=np.uint8), np.asarray(edges, dtype=np.uint8), config)


def _components(binary: NDArray[np.uint8], edges: NDArray[np.uint8], config: ProposalConfig) -> Iterator[_Area]:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=4)
    if count < 2:
        return
    border = (binary > 0) & (cv2.erode(binary, np.ones((3, 3), np.uint8)) == 0)
    strength = np.bincount(parts[border], weights=edges[border], minlength=count)
    length = np.bincount(parts[border], minlength=count)
    for index in range(1, count):
        left, top, width, height, pixels = (int(value) for value in stats[index])
        filled = pixels / (width * height)
        if filled >= config.fill and not _is_ground(left, top, width, height, binary.shape):
            yield (
                (left, top, left + width, top + height),
                pixels,
                filled * float(strength[index]) / max(length[index], 1),
            )


def _is_ground(left: int, top: int, width: int, height: int, shape: tuple[int, ...]) -> bool:
    """Whether a region touches three sides of the image or more, as grounds do and objects hardly ever."""
    return (left <= 0) + (top <= 0) + (left + width >= shape[1]) + (top + height >= shape[0]) >= 3


def _stable(plane: NDArray[np.uint8], config: ProposalConfig) -> Iterator[_Area]:
    detector = cv2.MSER.create(
        delta=6,
        min_area=max(16, round(config.smallest * plane.size * config.fill)),
        max_area=max(17, round(config.largest * plane.size)),
        max_variation=0.3,
        min_diversity=0.4,
    )
    regions, boxes = detector.detectRegions(plane)
    for region, (left, top, width, height) in zip(regions, np.asarray(boxes).tolist(), strict=True):
        filled = len(region) / (width * height)
        if filled >= config.fill and not _is_ground(left, top, width, height, plane.shape):
            yield (left, top, left + width, top + height), len(region), filled


def _grid(shape: tuple[int, ...], config: ProposalConfig, rng: np.random.Generator) -> list[Box]:
    """Boxes of every scale that overlap by half, moved by chance, in a random order."""
    height, width = shape[:2]
    boxes: list[Box] = []
    for share in config.grid:
        steps = np.linspace(0, 1 - share, max(2, round(2 / share) - 1)) if share < 1 else np.zeros(1)
        for top in steps:
            for left in steps:
                x0, y0 = np.clip([left, top] + rng.uniform(-0.1, 0.1, 2) * share, 0, 1 - share)
                boxes.append((x0 * width, y0 * height, (x0 + share) * width, (y0 + share) * height))
    return [boxes[int(index)] for index in rng.permutation(len(boxes))]


def _shuffled(areas: Iterator[_Area], rng: np.random.Generator) -> list[Box]:
    """A random order in which promising regions tend to come first (Efraimidis and Spirakis, 2006)."""
    found = list(areas)
    # By size too, or the specks of skin and lung would leave no turn to the lesion and the lung.
    weights = [score * math.sqrt(pixels) for _, pixels, score in found]
    keys = np.log(1 - rng.random(len(found))) / np.maximum(weights, 1e-6)
    return [found[int(index)][0] for index in np.argsort(-keys, kind="stable")]


def _take_turns(kinds: Sequence[Sequence[Box]], shape: tuple[int, ...], config: ProposalConfig) -> list[Box]:
    chosen: list[Box] = []
    queues = [iter(kind) for kind in kinds]
    while queues and len(chosen) < config.most:
        for queue in list(queues):
            fresh = (
                box
                for box in (_grown(one, shape, config.margin) for one in queue)
                if _allowed(box, shape, config) and all(box_iou(box, other) <= config.overlap for other in chosen)
            )
            box = next(fresh, None)
            if box is None:
                queues.remove(queue)
            elif len(chosen) < config.most:
                chosen.append(box)
    return chosen


def _grown(box: Box, shape: tuple[int, ...], margin: float) -> Box:
    x, y = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    return max(box[0] - x, 0.0), max(box[1] - y, 0.0), min(box[2] + x, shape[1]), min(box[3] + y, shape[0])


def _allowed(box: Box, shape: tuple[int, ...], config: ProposalConfig) -> bool:
    sides = box[2] - box[0], box[3] - box[1]
    share = _area(box) / (shape[0] * shape[1])
    return (
        min(sides) >= config.shortest
        and max(sides) <= config.aspect * min(sides)
        and config.smallest <= share <= config.largest
    )
