"""Regions: of an image far larger than the network's input, a first look at the part that a prompt is about.

Of a microscope's field of 20,000 pixels a side, shrunk to 256, nothing is left of a cell of 60. So the first look is
at a square around the prompt, and at larger ones as long as what is found there runs into the square's border.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from samsdk.manifest import Manifest
from samsdk.masks import Region
from samsdk.prompts import Prompt, encode_prompt
from samsdk.results import Result
from samsdk.zoom import (
    NEARLY_ALL,
    Decode,
    Encode,
    Extent,
    Zoom,
    foreground,
    join_extent,
    object_extent,
    segment_zoomed,
    touches_border,
    within,
    zoom_window,
)

LARGE: Final = 24
"""An image is looked at in regions if its longest side is more than so many times the network's input.

That is beyond the radiographs that are made (6,144 pixels for an input of 256): in those the objects that people point
at are large, and a look at a small part takes a piece of one for the whole. Measured with the default model and one
point: fetal heads enlarged to 4,096 pixels, Dice 0.935 from the whole and 0.011 from regions; nuclei in a field of
8,192 pixels, 0.012 from the whole and 0.866 from regions.
"""

# The first square's side: as many inputs of the network, and as many sides of what the prompt spans. Twice as many
# inputs give nuclei 0.816.
_INPUTS: Final = 2
_SPANS: Final = 4.0
_GROWTH: Final = 2


@dataclass(frozen=True)
class FirstLook:
    """Answers a prompt on the whole of an image, or of a large one on the region that the prompt is about.

    The first region is a square of 2 sides of the network's input, or of 4 spans of the prompt if that is more; it
    doubles until the object ends inside of it, or it is nearly the whole image.

    Attributes:
        encode: encodes a window of the image, None is the whole; called again for the same window, it should know it.
        decode: answers a prompt from an embedding.
        size: (height, width) of the image.
        input_size: side of the network's input square.
    """

    encode: Encode
    decode: Decode
    size: tuple[int, int]
    input_size: int

    def __call__(self, prompt: Prompt) -> Result:
        """Answer a prompt in pixels of the whole image."""
        extent = prompt_extent(prompt, self.size)
        points = foreground(prompt)
        side = _INPUTS * self.input_size
        while extent is not None and max(self.size) > LARGE * self.input_size:
            window = zoom_window(extent, self.size, Zoom(_SPANS, side), worthwhile=NEARLY_ALL)
            if window is None:
                break
            result = self.decode(self.encode(window), within(prompt, window))
            found = object_extent(result.region, points)
            if found is None or not touches_border(found, window, self.size):
                return result
            side = _GROWTH * max(window[2] - window[0], window[3] - window[1])
        return self.decode(self.encode(None), prompt)


def answer_prompt(
    encode: Encode, decode: Decode, prompt: Prompt, size: tuple[int, int], manifest: Manifest, zoom: Zoom | None
) -> Result:
    """Answer one prompt by a first look and, where it is wanted, a second one from close up.

    Args:
        encode: see `FirstLook`; likewise `decode` and `size`.
        decode: see `encode`.
        prompt: in pixels of the whole image.
        size: see `encode`.
        manifest: the bundle's.
        zoom: how close the second look is, None for none.

    Raises:
        PromptError: the prompt is malformed, or as `segment_zoomed`.
    """
    # A malformed prompt is refused as it was given, before anything is cut to a window.
    frame = manifest.preprocessing.frame(size)
    encode_prompt(prompt, frame, manifest.preprocessing, manifest.mask_side, manifest.prompt_kinds)
    look = FirstLook(encode, decode, size, frame.input_size)
    return look(prompt) if zoom is None else segment_zoomed(encode, decode, prompt, size, zoom, look)


def prompt_extent(prompt: Prompt, size: tuple[int, int]) -> Extent | None:
    """What a prompt spans, (x0, y0, x1, y1) in pixels of the image; None where that cannot be said.

    Args:
        prompt: in pixels of the whole image, well-formed.
        size: (height, width) of the image.
    """
    extents: list[Extent] = []
    if prompt.box is not None:
        x0, y0, x1, y1 = np.asarray(prompt.box, dtype=np.float64).ravel().tolist()
        extents.append((x0, y0, x1, y1))
    if isinstance(prompt.mask, Result):
        extents += [prompt.mask.box] if prompt.mask.box else []
    elif prompt.mask is not None:
        mask = np.asarray(prompt.mask)
        if np.issubdtype(mask.dtype, np.floating):
            # Low-res logits are of the whole image, as far as they are known to be of any part.
            return None
        box = Region(size, 0, 0, mask.reshape(size) != 0).box
        extents += [box] if box else []
    points = foreground(prompt)
    if not extents and len(points) == 0:
        points = np.asarray([] if prompt.points is None else prompt.points, dtype=np.float64).reshape(-1, 2)
    if not extents:
        return None if len(points) == 0 else join_extent((*points[0], *points[0]), points)
    x0, y0 = (min(extent[axis] for extent in extents) for axis in (0, 1))
    x1, y1 = (max(extent[axis] for extent in extents) for axis in (2, 3))
    return join_extent((x0, y0, x1, y1), points)
