"""Augmentation: one labelled object becomes many, in milliseconds and by nothing but the generator that is given.

Written on cv2 rather than on MONAI's transforms: two cores have to feed a training step, and MONAI's resampling of a
2-D image costs several times what `cv2.warpAffine` does. All geometry is one affine warp, so that an image is resampled
once. The frame that comes back has the longest side that the network's square has: the runtime's own preprocessing then
only pads and normalises it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.transforms import Preprocessing

Range = tuple[float, float]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

# Below this scale a linear warp skips pixels: the image is then shrunk by area first.
_ALIASING_SCALE: Final = 0.75


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a sample, how often and how strongly.

    Words alone (`rotate`, `blur`, ...) are probabilities, 0 to 1; plurals are the ranges that they draw from,
    uniformly, factors logarithmically. The share of an object is the longest side of its box as a share of the frame's
    side in that direction.

    Attributes:
        rotate: about any angle out of `angles`, degrees counter-clockwise.
        zoom: by a factor out of `zooms`, 1 shows the whole image; the lower end also bounds `focus`.
        focus: zooms so that the object's share becomes anything between `smallest` and `largest`, instead of `zoom`.
        smallest: share that a warped object keeps at least, unless `magnification` or `zooms` forbid it.
        largest: share that a warped object has at most.
        magnification: a pixel of the image becomes at most so many pixels wide, or as many as the whole image needs.
        stretch: changes the aspect ratio by a factor out of `stretches` (width over height).
        shear: moves x by a share of y out of `shears`.
        shift: draws where the frame lies, among the places that object and image allow; else it takes the middle one.
        overhang: share of the object's box that a shift may leave outside the frame, on each axis.
        reframe: gives the frame another shape, width over height out of `frame_shapes`.
        flip_horizontal: mirrors left and right; `flip_vertical` up and down.
        fewest: where the warp leaves fewer pixels of the object than this, the sample stays un-warped.
        tone: gamma, contrast and brightness at once, out of `gammas`, `contrasts` and `brightnesses` (share of white).
        invert: black becomes white.
        tint: multiplies each channel by its own factor out of `tints`; colour images only.
        grey: takes the colours away.
        shuffle: changes the order of the channels; colour images only.
        low_resolution: shrinks by a factor out of `reductions` and enlarges again.
        blur: Gaussian, standard deviation out of `blurs` in pixels of the frame.
        speckle: multiplicative noise two pixels wide, as in ultrasound; standard deviation out of `speckles`.
        noise: additive Gaussian noise, standard deviation out of `noises` as share of white.
    """

    rotate: float = 0.5
    angles: Range = (-180.0, 180.0)
    zoom: float = 0.6
    zooms: Range = (0.7, 2.0)
    focus: float = 0.3
    smallest: float = 0.06
    largest: float = 0.95
    magnification: float = 3.0
    stretch: float = 0.3
    stretches: Range = (0.8, 1.25)
    shear: float = 0.2
    shears: Range = (-0.15, 0.15)
    shift: float = 0.6
    overhang: float = 0.15
    reframe: float = 0.25
    frame_shapes: Range = (0.6, 1.67)
    flip_horizontal: float = 0.5
    flip_vertical: float = 0.3
    fewest: int = 24
    tone: float = 0.6
    gammas: Range = (0.65, 1.5)
    contrasts: Range = (0.7, 1.3)
    brightnesses: Range = (-0.12, 0.12)
    invert: float = 0.1
    tint: float = 0.3
    tints: Range = (0.8, 1.25)
    grey: float = 0.15
    shuffle: float = 0.05
    low_resolution: float = 0.12
    reductions: Range = (1.3, 2.5)
    blur: float = 0.12
    blurs: Range = (0.4, 1.2)
    speckle: float = 0.08
    speckles: Range = (0.08, 0.3)
    noise: float = 0.2
    noises: Range = (0.01, 0.06)

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name in (*PROBABILITIES, "overhang") and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie within 0 to 1, got {value}")
            if isinstance(value, tuple) and (len(value) != 2 or value[0] > value[1]):
                raise ValueError(f"{name} must be (low, high) with low <= high, got {value}")
        if not 0 < self.smallest <= self.largest:
            raise ValueError(f"expected 0 < smallest <= largest, got {self.smallest} and {self.largest}")

    def with_probabilities(self, value: float, names: tuple[str, ...] | None = None) -> "Augmentation":
        """The same ranges with these (`None`: all) probabilities set to one value; 0 for all is the identity."""
        return replace(self, **dict.fromkeys(PROBABILITIES if names is None else names, value))  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them, for the record of a training run."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Augmentation":
        """Build what `to_dict` gave; fields that are left out keep their defaults.

        Raises:
            TypeError: a field is unknown.
            ValueError: a field is not valid.
        """
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**given)


_WARPS: Final = ("rotate", "zoom", "focus", "stretch", "shear", "shift", "reframe")
GEOMETRY: Final = (*_WARPS, "flip_horizontal", "flip_vertical")
INTENSITY: Final = ("tone", "invert", "tint", "grey", "shuffle", "low_resolution", "blur", "speckle", "noise")
PROBABILITIES: Final = GEOMETRY + INTENSITY
"""The fields that are probabilities: those that move pixels, and those that leave the mask alone."""


def augment(
    image: Bytes, mask: NDArray[np.bool_], rng: np.random.Generator, config: Augmentation, size: int
) -> tuple[Bytes, NDArray[np.bool_]]:
    """Draw one augmented sample.

    Where no geometry is drawn, the image is resized exactly as the runtime does (area). Where the warp would leave
    fewer than `config.fewest` pixels of the object, the sample stays un-warped too; flips and intensities still apply.

    Args:
        image: [H, W] grey or [H, W, 3] RGB, uint8.
        mask: [H, W] bool, not empty: the object.
        rng: the only source of chance; the same state gives the same sample, bit for bit.
        config: what may happen.
        size: longest side of the result, in pixels.

    Returns:
        The image, [h, w, 3] RGB uint8 with max(h, w) == size (grey repeated three times), and the object in it,
        [h, w] bool, never empty.

    Raises:
        ValueError: the mask is empty or not of the image's size.
    """
    if mask.shape != image.shape[:2] or not mask.any():
        raise ValueError(f"expected a mask of {image.shape[:2]} with an object, got {mask.shape}, {mask.sum()} pixels")
    cover = mask.astype(np.uint8) * np.uint8(255)
    drawn = {name for name in _WARPS if rng.random() < getattr(config, name)}
    warped = _warp(image, cover, rng, config, size, drawn) if drawn else None
    if warped is None or np.count_nonzero(warped[1]) < config.fewest:
        warped = _resize(image, cover, size)
    pixels, found = warped
    if rng.random() < config.flip_horizontal:
        pixels, found = pixels[:, ::-1], found[:, ::-1]
    if rng.random() < config.flip_vertical:
        pixels, found = pixels[::-1], found[::-1]
    pixels = _change_intensity(np.ascontiguousarray(pixels), rng, config)
    return cv2.merge([pixels] * 3) if pixels.ndim == 2 else pixels, np.ascontiguousarray(found)  # type: ignore[return-value]


def _factor(rng: np.random.Generator, bounds: Range) -> float:
    return float(bounds[0] * (bounds[1] / bounds[0]) ** rng.random())


def _resize(image: Bytes, cover: Bytes, size: int) -> tuple[Bytes, NDArray[np.bool_]]:
    height, width = Preprocessing(size).frame((image.shape[0], image.shape[1])).resized_size
    pixels, share = (cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA) for array in (image, cover))
    # An object that nowhere fills half a pixel keeps those that it fills best, rather than vanish.
    return pixels, share >= min(128, int(share.max()) // 2 + 1)  # type: ignore[return-value]


def _warp(
    image: Bytes, cover: Bytes, rng: np.random.Generator, config: Augmentation, size: int, drawn: set[str]
) -> tuple[Bytes, NDArray[np.bool_]]:
    rows, columns = cover.shape
    shape = (1000, round(1000 * _factor(rng, config.frame_shapes))) if "reframe" in drawn else (rows, columns)
    frame = Preprocessing(size).frame(shape).resized_size
    matrix = _unit_matrix(rng, config, drawn)
    contours, _ = cv2.findContours(cover, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    box = _extent(matrix, np.concatenate(contours)[:, 0])  # (low, high) by (x, y)
    corners = _extent(matrix, np.array([[0, 0], [columns - 1, 0], [0, rows - 1], [columns - 1, rows - 1]]))
    scale = _scale(float(((box[1] - box[0]) / frame[::-1]).max()), size / max(rows, columns), rng, config, drawn)
    where = rng.uniform(size=2) if "shift" in drawn else (None, None)
    offset = [
        _offset(box[:, axis] * scale, corners[:, axis] * scale, frame[1 - axis], where[axis], config.overhang)
        for axis in (0, 1)
    ]
    edges = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    # Not mirrored beyond the border: a mirrored neighbour would be an object that the mask does not know.
    fill = np.atleast_1d(edges.mean(axis=0)).tolist()
    pixels = _resample(image, matrix * scale, offset, frame, fill)
    return pixels, _resample(cover, matrix * scale, offset, frame, [0]) >= 128


def _unit_matrix(rng: np.random.Generator, config: Augmentation, drawn: set[str]) -> Floats:
    """[2, 2] of determinant 1: stretch, then shear, then rotation."""
    matrix = np.eye(2)
    if "stretch" in drawn:
        root = _factor(rng, config.stretches) ** 0.5
        matrix = np.diag([root, 1 / root])
    if "shear" in drawn:
        matrix = np.array([[1, rng.uniform(*config.shears)], [0, 1]]) @ matrix
    if "rotate" in drawn:
        angle = np.deg2rad(rng.uniform(*config.angles))
        # Counter-clockwise as seen: y points down.
        matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ matrix
    return matrix


def _scale(unit: float, whole: float, rng: np.random.Generator, config: Augmentation, drawn: set[str]) -> float:
    """The scale of the warp: `unit` is the object's share at scale 1, `whole` the scale that shows the whole image."""
    high = min(config.largest, unit * max(whole, config.magnification))
    low = min(max(config.smallest, unit * whole * config.zooms[0]), high)
    if "focus" in drawn:
        return _factor(rng, (low, high)) / unit
    zoom = _factor(rng, config.zooms) if "zoom" in drawn else 1.0
    return min(max(unit * whole * zoom, low), high) / unit


def _extent(matrix: Floats, pixels: NDArray[Any]) -> Floats:
    """[2, 2]: the lower and the upper (x, y) of these whole pixels, pixel 0 reaching from 0 to 1, after the matrix."""
    centres = (pixels + 0.5) @ matrix.T
    half = np.abs(matrix).sum(axis=1) / 2
    return np.stack([centres.min(axis=0) - half, centres.max(axis=0) + half])


def _offset(thing: Floats, image: Floats, side: int, where: float | None, overhang: float) -> float:
    """Move along one axis: the object inside the frame and, as far as that allows, the frame within the image."""
    spare = 0.0 if where is None else overhang * (thing[1] - thing[0])
    low, high = sorted((-thing[0], side - thing[1]))
    first, last = np.clip(sorted((-image[0], side - image[1])), low - spare, high + spare)
    return float(first + (0.5 if where is None else where) * (last - first))


def _resample(image: Bytes, matrix: Floats, offset: list[float], frame: tuple[int, int], fill: list[float]) -> Bytes:
    scale = abs(np.linalg.det(matrix)) ** 0.5
    if scale < _ALIASING_SCALE:
        height, width = image.shape[:2]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        matrix = matrix @ np.diag([width / size[0], height / size[1]])
    # cv2 counts from pixel centres, the offset from the image's corner.
    shift = np.array(offset) + matrix @ [0.5, 0.5] - 0.5
    affine = np.column_stack([matrix, shift])
    return cv2.warpAffine(image, affine, frame[::-1], flags=cv2.INTER_LINEAR, borderValue=fill)  # type: ignore[return-value]


def _change_intensity(image: Bytes, rng: np.random.Generator, config: Augmentation) -> Bytes:
    if image.ndim == 3:
        image = _change_colour(image, rng, config)
    if rng.random() < config.tone:
        image = _change_tone(image, rng, config)
    if rng.random() < config.invert:
        image = ~image
    if rng.random() < config.low_resolution:
        height, width = image.shape[:2]
        factor = _factor(rng, config.reductions)
        small = max(1, round(width / factor)), max(1, round(height / factor))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    if rng.random() < config.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*config.blurs))  # type: ignore[assignment]
    return _add_noise(image, rng, config)


def _change_colour(image: Bytes, rng: np.random.Generator, config: Augmentation) -> Bytes:
    if rng.random() < config.grey:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # type: ignore[return-value]
    if rng.random() < config.tint:
        gains = [_factor(rng, config.tints) for _ in range(3)]
        table = np.minimum(np.outer(np.arange(256), gains), 255).round().astype(np.uint8)
        image = cv2.LUT(image, table[None])  # type: ignore[assignment]
    if rng.random() < config.shuffle:
        image = np.ascontiguousarray(image[..., rng.permutation(3)])
    return image


def _change_tone(image: Bytes, rng: np.random.Generator, config: Augmentation) -> Bytes:
    middle = float(image.mean()) / 255
    gamma, contrast = _factor(rng, config.gammas), _factor(rng, config.contrasts)
    # About the image's own mean, so that a dark image is not pushed below black as a whole.
    curve = (np.linspace(0, 1, 256) ** gamma - middle**gamma) * contrast + middle**gamma
    curve += rng.uniform(*config.brightnesses)
    return cv2.LUT(image, (curve.clip(0, 1) * 255).round().astype(np.uint8))  # type: ignore[return-value]


def _add_noise(image: Bytes, rng: np.random.Generator, config: Augmentation) -> Bytes:
    speckle, noise = rng.random() < config.speckle, rng.random() < config.noise
    if not (speckle or noise):
        return image
    values = image.astype(np.float32)
    if speckle:
        height, width = image.shape[:2]
        grain = rng.standard_normal(((height + 1) // 2, (width + 1) // 2), dtype=np.float32)
        grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
        grain = 1 + grain * np.float32(rng.uniform(*config.speckles))
        values *= grain if image.ndim == 2 else grain[..., None]
    if noise:
        level = np.float32(255 * rng.uniform(*config.noises))
        values += level * rng.standard_normal(image.shape, dtype=np.float32)
    return values.round().clip(0, 255).astype(np.uint8)
