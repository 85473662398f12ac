"""Geometry: the image as given, the square that the network sees, and the way of coordinates between the two.

The network may see the whole image, or a window of it; coordinates are always those of the whole image.
"""

from dataclasses import dataclass
from operator import index
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.intensity import normalise, to_uint8
from samsdk.resampling import resize_antialiased

GEOMETRY_RULES: Final = ("longest_pad_br", "resize_square", "pad_center_or_resize")
INTERPOLATIONS: Final = ("area", "linear", "nearest", "cubic", "antialiased")
_OPENCV: Final = {
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
    "nearest": cv2.INTER_NEAREST,
    "cubic": cv2.INTER_CUBIC,
}
BOX_ROUNDINGS: Final = ("none", "truncate")
MASK_PROMPTS: Final = ("logits", "sigmoid")
Window = tuple[int, int, int, int]
"""A part of an image, (x0, y0, x1, y1) in whole pixels, x1 and y1 exclusive."""


@dataclass(frozen=True)
class Frame:
    """How one image, or a window of it, lies in the network's input square.

    Attributes:
        original_size: (height, width) of the image as given, in pixels.
        resized_size: (height, width) of the part of the square that is filled.
        input_size: side of the square.
        window: the part of the image that fills it.
    """

    original_size: tuple[int, int]
    resized_size: tuple[int, int]
    input_size: int
    window: Window

    @property
    def window_size(self) -> tuple[int, int]:
        """(height, width) of the window in pixels of the image."""
        x0, y0, x1, y1 = self.window
        return y1 - y0, x1 - x0

    @property
    def offset(self) -> tuple[int, int]:
        """(top, left) of the filled part in the square.

        It begins at the top left corner, unless it is short on both axes: then the image was not scaled and is centred.
        """
        height, width = self.resized_size
        if max(height, width) == self.input_size:
            return 0, 0
        return (self.input_size - height) // 2, (self.input_size - width) // 2

    @property
    def scales(self) -> tuple[float, float]:
        """Pixels of the square for one of the image, (vertical, horizontal)."""
        (height, width), (rows, columns) = self.resized_size, self.window_size
        return height / rows, width / columns


@dataclass(frozen=True)
class Preprocessing:
    """One declared preprocessing, shared by training, export and runtime; it is a part of every bundle.

    Attributes:
        input_size: side of the network's input square, in pixels.
        rule: geometry. `longest_pad_br`: the longest side becomes `input_size`, the aspect ratio stays, zeros fill the
            right and the bottom. `resize_square`: both sides become `input_size`, whatever the aspect ratio.
            `pad_center_or_resize` (SAM-Med2D): an image that is smaller on both axes stays as it is, zeros all around;
            any other is stretched as by `resize_square`.
        interpolation: OpenCV's `area` (antialiased when shrinking), `linear`, `nearest` or `cubic`; or `antialiased`,
            see `samsdk.resampling`.
        box_rounding: `truncate` cuts box corners to whole pixels of the square, as LiteMedSAM was trained; `none` does
            not.
        intensity: how any dtype becomes 8 bits, see `samsdk.intensity.to_uint8`.
        normalisation: how 8 bits become the encoder's floats, see `samsdk.intensity.normalise`.
        mask_prompt: what the decoder takes as a mask: `logits` (SAM) or their `sigmoid` (SAM-Med2D).
    """

    input_size: int
    rule: str = "longest_pad_br"
    interpolation: str = "area"
    box_rounding: str = "none"
    intensity: str = "uint8_or_minmax"
    normalisation: str = "minmax"
    mask_prompt: str = "logits"

    def frame(self, original_size: tuple[int, int], window: Window | None = None) -> Frame:
        """Where an image of this (height, width), or a window of it, comes to lie in the square.

        With `longest_pad_br` sides are rounded as the published code does, `int(side * scale + 0.5)`; a very narrow
        image keeps one pixel.

        Raises:
            ValueError: the window is empty or reaches out of the image.
        """
        height, width = original_size
        x0, y0, x1, y1 = (index(side) for side in window or (0, 0, width, height))
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(f"expected a window (x0, y0, x1, y1) inside an image of {width} x {height}, got {window}")
        resized = self._resized(y1 - y0, x1 - x0)
        return Frame(original_size, resized, self.input_size, (x0, y0, x1, y1))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.rule == "longest_pad_br":
            scale = self.input_size / max(height, width)
            return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        if self.rule == "pad_center_or_resize" and max(height, width) < self.input_size:
            return height, width
        return self.input_size, self.input_size

    def apply_image(
        self, image: NDArray[np.generic], window: Window | None = None
    ) -> tuple[NDArray[np.float32], Frame]:
        """Turn an image, or a window of it, into the encoder's input.

        Args:
            image: HxW (grey) or HxWx3 (RGB), any real dtype, finite.
            window: the part to take; None takes all. Rules that look at the range of intensities look at it alone.

        Returns:
            The input, [1, 3, S, S] float32 (grey repeated three times), and the frame.

        Raises:
            ValueError: the window is empty or reaches out of the image.
        """
        frame = self.frame((image.shape[0], image.shape[1]), window)
        x0, y0, x1, y1 = frame.window
        resized = self._resize(to_uint8(image[y0:y1, x0:x1], self.intensity), frame.resized_size)
        values = normalise(resized, self.normalisation)  # [h, w] or [h, w, 3]
        square = np.zeros((1, 3, self.input_size, self.input_size), dtype=np.float32)
        (top, left), (height, width) = frame.offset, frame.resized_size
        inside = square[0, :, top : top + height, left : left + width]
        inside[:] = values if values.ndim == 2 else values.transpose(2, 0, 1)
        return square, frame

    def _resize(self, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        if self.interpolation == "antialiased":
            return resize_antialiased(image, size)
        resized = cv2.resize(image, size[::-1], interpolation=_OPENCV[self.interpolation])
        return np.asarray(resized, dtype=np.uint8)

    def _to_square(self, coords: NDArray[np.floating], frame: Frame) -> NDArray[np.float64]:
        moved = np.asarray(coords, dtype=np.float64) - frame.window[:2]
        if self.rule == "longest_pad_br":
            # One factor for both axes, although the shorter side was rounded: so the published code has it.
            return moved * (frame.input_size / max(frame.window_size))
        scaled: NDArray[np.float64] = moved * frame.scales[::-1] + frame.offset[::-1]
        return scaled

    def apply_coords(self, coords: NDArray[np.floating], frame: Frame) -> NDArray[np.float32]:
        """Map points from pixels of the image as given to pixels of the square.

        Args:
            coords: [..., 2] in (x, y) order.
            frame: the image's frame.

        Returns:
            [..., 2] in (x, y) order, float32.
        """
        return self._to_square(coords, frame).astype(np.float32)

    def apply_boxes(self, boxes: NDArray[np.floating], frame: Frame) -> NDArray[np.float32]:
        """Map boxes [..., 4] as (x0, y0, x1, y1) from the image as given to the square, rounded by `box_rounding`."""
        corners = np.asarray(boxes, dtype=np.float64)
        scaled = self._to_square(corners.reshape(*corners.shape[:-1], 2, 2), frame).reshape(corners.shape)
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
        x0, y0, x1, y1 = frame.window
        inside = (mask[y0:y1, x0:x1] != 0).astype(np.float32)
        if frame.offset != (0, 0):
            # Not scaled: the square holds it pixel for pixel, wherever its cells begin.
            (top, left), (height, width) = frame.offset, frame.resized_size
            whole = np.zeros((frame.input_size, frame.input_size), dtype=np.float32)
            whole[top : top + height, left : left + width] = inside
            return np.asarray(cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA), dtype=np.float32)
        height, width = (max(1, round(length * side / frame.input_size)) for length in frame.resized_size)
        share = cv2.resize(inside, (width, height), interpolation=cv2.INTER_AREA)
        square = np.zeros((side, side), dtype=np.float32)
        square[:height, :width] = share
        return square
