"""Binary masks on the GPU, a bit for each pixel, with their areas and boxes."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samsdk.backends.cuda import DeviceArray
from samsdk.masks import Region

MEASURES: Final = 5
"""Numbers that the kernel leaves for each mask: area, width - left, height - top, right, bottom."""


@dataclass(frozen=True)
class PackedMasks:
    """Masks of one image, a bit for each pixel, on the device.

    Attributes:
        size: (height, width) of the image.
        words: [M, H, ceil(W / 32)] uint32; a word's lowest bit is its leftmost pixel, bits beyond W are 0.
        areas: foreground pixels of each mask.
        boxes: tight box of each mask, (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None for an empty mask.
    """

    size: tuple[int, int]
    words: DeviceArray
    areas: tuple[int, ...]
    boxes: tuple[tuple[int, int, int, int] | None, ...]

    def regions(self) -> tuple[Region, ...]:
        """The masks in host memory, each over its own box."""
        packed = self.words.numpy().astype("<u4", copy=False)
        regions = []
        for words, box in zip(packed, self.boxes, strict=True):
            x0, y0, x1, y1 = box or (0, 0, 0, 0)
            octets = np.ascontiguousarray(words[y0:y1]).view(np.uint8)[:, x0 // 8 : (x1 + 7) // 8]
            bits = np.unpackbits(octets, axis=1, bitorder="little")[:, x0 % 8 : x0 % 8 + x1 - x0]
            regions.append(Region(self.size, y0, x0, bits.astype(np.bool_)))
        return tuple(regions)

    @classmethod
    def of_measures(cls, size: tuple[int, int], words: DeviceArray, measures: NDArray[np.uint32]) -> "PackedMasks":
        """Masks of a size with the measures [M, 5] that the kernel left."""
        height, width = size
        boxes = tuple(
            (width - from_right, height - from_bottom, right, bottom) if area else None
            for area, from_right, from_bottom, right, bottom in measures.tolist()
        )
        return cls(size, words, tuple(measures[:, 0].tolist()), boxes)
