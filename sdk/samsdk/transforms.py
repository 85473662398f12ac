"""Geometry: the image as given, the square that the network sees, and the way of coordinates between the two."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.intensity import normalise, to_uint8

GEOMETRY_RULES: Final = ("longest_pad_br",)
INTERPOLATIONS: Final = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}
BOX_ROUNDINGS: Final = ("none", "truncate")


@dataclass(frozen=True)
class Frame:
    """How one image lies in the network's input square.

    Attributes:
        original_size: (height, width) of the image as given, in pixels.
        resized_size: (height, width) of the part of the square that the image fills, from its top left corner.
        input_size: side of the square.
    """

    original_size: tuple[int, int]
    resized_size: tuple[int, int]
    input_size: int


@dataclass(frozen=True)
class Preprocessing:
    """One declared preprocessing, shared by training, export and runtime; it is a part of every bundle.

    Attributes:
        input_size: side of the network's input square, in pixels.
        rule: geometry. `longest_pad_br`: the longest side becomes `input_size`, the aspect ratio stays, zeros fill the
            right and the bottom.
        interpolation: `area` (antialiased when shrinking) or `linear`.
        box_rounding: `truncate` cuts box corners to whole pixels of the square, as LiteMedSAM was trained; `none` does
            not.
        intensity: how any dtype becomes 8 bits, see `samsdk.intensity.to_uint8`.
        normalisation: how 8 bits become the encoder's floats, see `samsdk.intensity.normalise`.
    """

    input_size: int
    rule: str = "longest_pad_br"
    interpolation: str = "area"
    box_rounding: str = "none"
    intensity: str = "uint8_or_minmax"
    normalisation: str = "minmax"

    def frame(self, original_size: tuple[int, int]) -> Frame:
        """Where an image of this (height, width) comes to lie in the square.

        Sides are rounded as the published code does, `int(side * scale + 0.5)`; a very narrow image keeps one pixel.
        """
        scale = self.input_size / max(original_size)
        height, width = (max(1, int(side * scale + 0.5)) for side in original_size)
        return Frame(original_size, (height, width), self.input_size)

    def apply_image(self, image: NDArray[np.generic]) -> tuple[NDArray[np.float32], Frame]:
        """Turn an image into the encoder's input.

        Args:
            image: HxW (grey) or HxWx3 (RGB), any real dtype, finite.

        Returns:
            The input, [1, 3, S, S] float32 (grey repeated three times), and the frame.
        """
        frame = self.frame((image.shape[0], image.shape[1]))
        height, width = frame.resized_size
        resized = cv2.resize(
            to_uint8(image, self.intensity), (width, height), interpolation=INTERPOLATIONS[self.interpolation]
        )
        values = normalise(np.asarray(resized, dtype=np.uint8), self.normalisation)  # [h, w] or [h, w, 3]
        square = np.zeros((1, 3, self.input_size, self.input_size), dtype=np.float32)
        square[0, :, :height, :width] = values if values.ndim == 2 else values.transpose(2, 0, 1)
        return square, frame

    def apply_coords(self, coords: NDArray[np.floating], frame: Frame) -> NDArray[np.float32]:
        """Map points from pixels of the image as given to pixels of the square.

        Both axes take the same factor, `input_size / max(height, width)`, as the published code does.

        Args:
            coords: [..., 2] in (x, y) order.
            frame: the image's frame.

        Returns:
            [..., 2] in (x, y) order, float32.
        """
        scale = self.input_size / max(frame.original_size)
        return (np.asarray(coords, dtype=np.float64) * scale).astype(np.float32)

    def apply_boxes(self, boxes: NDArray[np.floating], frame: Frame) -> NDArray[np.float32]:
        """Map boxes [..., 4] as (x0, y0, x1, y1) from the image as given to the square, rounded by `box_rounding`."""
        scaled = np.asarray(boxes, dtype=np.float64) * (self.input_size / max(frame.original_size))
        return (np.trunc(scaled) if self.box_rounding == "truncate" else scaled).astype(np.float32)

    def apply_mask(self, mask: NDArray[np.generic], frame: Frame, side: int) -> NDArray[np.float32]:
        """Lay a mask of the image into the square, at the resolution of the decoder's logits.

        Args:
            mask: [H, W] of the image as given; whatever is not zero is foreground.
            frame: the image's frame.
            side: side of the decoder's mask input.

        Returns:
            [side, side] float32: the share of foreground in each cell, 0 to 1; 0 in the padding.
        """
        height, width = (max(1, round(length * side / frame.input_size)) for length in frame.resized_size)
        share = cv2.resize((mask != 0).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        square = np.zeros((side, side), dtype=np.float32)
        square[:height, :width] = share
        return square
