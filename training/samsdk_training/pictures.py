"""Pictures with the class of each pixel, and what may happen to both together before a model sees them."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk_training.models.config import expect_fields

_TURNS = 4
_WHITE = 255


class Picture(NamedTuple):
    """An image of 8 bits, [H, W] or [H, W, 3] RGB, and its classes [H, W] uint8, 0 the background."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


@dataclass(frozen=True)
class TurnAugmentation:
    """SAMed's augmentation (Zhang and Liu, 2023): turned and mirrored, or rotated a little, or left as it is.

    Attributes:
        turn: probability that an image is turned by a multiple of 90 degrees and mirrored across one of its axes.
        rotate: probability that one that is not turned is rotated.
        angle: it is rotated by a whole number of degrees from -angle to below angle; image and label alike by the
            nearest pixel, with 0 where nothing was.
    """

    turn: float = 0.5
    rotate: float = 0.5
    angle: int = 20

    def apply(self, picture: Picture, rng: np.random.Generator) -> Picture:
        """Vary an image and its classes together."""
        if rng.random() < self.turn:
            turns, axis = int(rng.integers(_TURNS)), int(rng.integers(2))
            return Picture(*(np.flip(np.rot90(one, turns), axis) for one in picture))
        if self.angle and rng.random() < self.rotate:
            degrees = int(rng.integers(-self.angle, self.angle))
            return Picture(*(_rotated(one, degrees) for one in picture))
        return picture


def _rotated(plane: NDArray[np.uint8], degrees: int) -> NDArray[np.uint8]:
    height, width = plane.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(plane, matrix, (width, height), flags=cv2.INTER_NEAREST), dtype=np.uint8)


@dataclass(frozen=True)
class CellAugmentation:
    """For images without an up or down: turned, mirrored, seen from nearer or farther, in other colours.

    Not published for Segment Any Cell; the ranges are those of common stain augmentation.

    Attributes:
        turn: probability that an image is turned by a multiple of 90 degrees and perhaps mirrored.
        zoom: probability that it is scaled about a random place.
        zooms: factors, drawn logarithmically; below 1 what lies beyond the border is mirrored in.
        tone: probability that each channel is multiplied by a factor of its own and shifted.
        gains: factors; of grey images one for all.
        shifts: as share of white.
    """

    turn: float = 1.0
    zoom: float = 0.5
    zooms: tuple[float, float] = (0.8, 1.2)
    tone: float = 0.5
    gains: tuple[float, float] = (0.8, 1.2)
    shifts: tuple[float, float] = (-0.1, 0.1)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: object) -> "CellAugmentation":
        """Rebuild what `to_dict` returned.

        Raises:
            ValueError: A field is missing or unknown.
        """
        given = expect_fields("augmentation", values, set(cls.__dataclass_fields__))
        plain: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in given.items()}
        return cls(**plain)

    def apply(self, picture: Picture, rng: np.random.Generator) -> Picture:
        """Vary an image and its classes together."""
        if rng.random() < self.turn:
            turns, mirrored = int(rng.integers(_TURNS)), bool(rng.integers(2))
            picture = Picture(*(np.rot90(one[:, ::-1] if mirrored else one, turns) for one in picture))
        if rng.random() < self.zoom:
            picture = self._zoomed(picture, rng)
        if rng.random() < self.tone:
            picture = picture._replace(image=self._toned(picture.image, rng))
        return picture

    def _zoomed(self, picture: Picture, rng: np.random.Generator) -> Picture:
        height, width = picture.label.shape
        factor = float(np.exp(rng.uniform(*np.log(self.zooms))))
        x, y = rng.random(2) * (width - 1, height - 1)
        matrix = np.array([[factor, 0, x * (1 - factor)], [0, factor, y * (1 - factor)]])
        image, label = (np.ascontiguousarray(one) for one in picture)
        border, size = cv2.BORDER_REFLECT_101, (width, height)
        seen = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)
        named = cv2.warpAffine(label, matrix, size, flags=cv2.INTER_NEAREST, borderMode=border)
        return Picture(np.asarray(seen, dtype=np.uint8), np.asarray(named, dtype=np.uint8))

    def _toned(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        channels = 1 if image.ndim == 2 or (image == image[..., :1]).all() else image.shape[2]
        gains, shifts = rng.uniform(*self.gains, channels), rng.uniform(*self.shifts, channels) * _WHITE
        toned = image * (gains if image.ndim == 3 else gains[0]) + (shifts if image.ndim == 3 else shifts[0])
        return np.asarray(np.clip(np.round(toned), 0, _WHITE), dtype=np.uint8)
