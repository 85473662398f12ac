"""Training samples of several objects: one image, encoded once, and some of its objects, each of which is asked for."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samsdk_training.augment import INTENSITY, PROBABILITIES, augment
from samsdk_training.samples import SampleSource

_FULL: Final = 255


@dataclass(frozen=True)
class ImageSample:
    """One image with K of its objects, ready for the network.

    Attributes:
        image: [3, S, S] float32, the encoder's input, made by the runtime's own preprocessing; 0 in the padding.
        masks: [K, S, S] bool, the objects in the same square, an object possibly more than once; none is empty.
        set_name: the name of the set's folder.
        image_name: the image's id in its set.
    """

    image: NDArray[np.float32]
    masks: NDArray[np.bool_]
    set_name: str
    image_name: str


class ImageSource(SampleSource):
    """The images of some labelled sets with several of their objects at once, drawn by number.

    Sets and images are drawn as `SampleSource` draws them. Of an image, a class and then one of its objects are drawn
    anew each time, with replacement, as SAM-Med2D does. Without augmentation the input is what the runtime would make
    of the image, whatever the geometry.
    """

    def images(self, step: int, size: int, masks: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The images of one training step: numbers `step * size` up to `(step + 1) * size`, stacked.

        Args:
            step: 0 or more.
            size: N, how many images.
            masks: K, how many objects of each.

        Returns:
            [N, 3, S, S] float32, and [N, K, S, S] bool.
        """
        samples = [self.image(index, masks) for index in range(step * size, (step + 1) * size)]
        return np.stack([one.image for one in samples]), np.stack([one.masks for one in samples])

    def image(self, index: int, masks: int) -> ImageSample:
        """The image of this number.

        Args:
            index: 0 or more. The same number, seed, sets and settings give the same sample in whatever order they are
                asked for.
            masks: K, how many objects.
        """
        rng = np.random.default_rng((self.seed, index))
        place = int(np.searchsorted(self._bounds, rng.random(), side="right"))
        name, images = list(self._images.items())[min(place, len(self._images) - 1)]
        cached = images[int(rng.integers(len(images)))]
        known = np.unique(cached.classes)
        drawn = [int(rng.choice(1 + np.flatnonzero(cached.classes == rng.choice(known)))) for _ in range(masks)]
        # Each object once, however often it was drawn.
        found = {number: cached.objects == number for number in drawn}
        pixels = cached.image
        if any(getattr(self.augmentation, one) for one in PROBABILITIES):
            pixels, found = self._augmented(pixels, found, rng)
        image, frame = self.preprocessing.apply_image(pixels)
        size = self.preprocessing.input_size
        shares = {number: self.preprocessing.apply_mask(mask, frame, size) for number, mask in found.items()}
        # An object that nowhere fills half a pixel keeps those that it fills best, rather than vanish.
        squares = {number: share >= min(0.5, float(share.max())) for number, share in shares.items()}
        return ImageSample(image[0], np.stack([squares[number] for number in drawn]), name, cached.name)

    def _augmented(
        self, image: NDArray[np.uint8], masks: dict[int, NDArray[np.bool_]], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], dict[int, NDArray[np.bool_]]]:
        """Image and masks after one and the same warp, which is made for the first mask."""
        first, *others = masks
        size, twin = self.preprocessing.input_size, np.random.default_rng()
        state = rng.bit_generator.state
        pixels, anchor = augment(image, masks[first], rng, self.augmentation, size)
        geometry = self.augmentation.with_probabilities(0.0, INTENSITY)
        warped = {first: anchor}
        for number in others:
            # The same state moves the other mask, in place of the image, as it has moved the image.
            twin.bit_generator.state = state
            cover = np.where(masks[number], np.uint8(_FULL), np.uint8(0))
            # What lies beyond the image gets the mean of the outermost pixels, which has to be background.
            cover[[0, -1]] = cover[:, [0, -1]] = 0
            moved = augment(cover, masks[first], twin, geometry, size)[0][..., 0] > _FULL // 2
            # One that the warp took out of sight is replaced by the one that the warp was made for.
            warped[number] = moved if np.count_nonzero(moved) >= max(1, self.augmentation.fewest) else anchor
        return pixels, warped
