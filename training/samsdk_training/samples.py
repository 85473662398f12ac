"""Training samples: labelled sets become a stream of (network input, object), each a pure function of its number."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.intensity import to_uint8
from samsdk.transforms import Preprocessing
from samsdk_training.augment import Augmentation, augment
from samsdk_training.data import DataError, LabelledImage, part_of_list, read_set

# Images are kept at up to this many times the input's side: enough to zoom in, small enough to keep all in memory.
_SPARE_RESOLUTION: Final = 2
# A pixel of the square belongs to an object that fills half of it.
_HALF: Final = 0.5


@dataclass(frozen=True)
class SampleSet:
    """One labelled set to draw from.

    Attributes:
        folder: of the set, with `images/`, `masks/` and the list.
        list_name: of the list file in it, usually `train.txt`.
        weight: how much more often than its size says it is drawn; must be positive.
        share: (from, to) of the list that is used, 0 to 1: a set without lists for training and validation keeps the
            rest back.
        exclude: ids of images or volumes that are left out, such as others of a patient who is kept back.
    """

    folder: str | os.PathLike[str]
    list_name: str = "train.txt"
    weight: float = 1.0
    share: tuple[float, float] = (0.0, 1.0)
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingSample:
    """One object of one image, ready for the network.

    Attributes:
        image: [3, S, S] float32, the encoder's input, made by the runtime's own preprocessing; 0 in the padding.
        mask: [S, S] bool, the object in the same square; False in the padding.
        resized_size: (height, width) of the part of the square that is image.
        set_name: the name of the set's folder.
        image_name: the image's id in its set.
        class_id: the number of the object's class in the set's masks; 1 where the masks hold instances.
        semantic: whether the mask is the union of all objects of that class in the image.
        weight: share of its set among all samples, 0 to 1; a loss divided by it counts all sets alike.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    resized_size: tuple[int, int]
    set_name: str
    image_name: str
    class_id: int
    semantic: bool
    weight: float


@dataclass(frozen=True)
class SampleBatch:
    """Samples stacked along N.

    Attributes:
        images: [N, 3, S, S] float32.
        masks: [N, S, S] bool.
        samples: what the arrays were stacked from, in their order.
    """

    images: NDArray[np.float32]
    masks: NDArray[np.bool_]
    samples: tuple[TrainingSample, ...]


@dataclass(frozen=True)
class _CachedImage:
    name: str
    image: NDArray[np.uint8]  # [H, W], or [H, W, 3] where it has colours
    objects: NDArray[np.uint16]  # [H, W], 0 is background
    classes: NDArray[np.int64]  # [objects], the class of object 1, 2, ...


class SampleSource:
    """All objects of some labelled sets, kept in memory and drawn by number.

    A set is drawn by its weight times the square root of its number of images, then one of its images, one of the
    classes that lie in it, and one object of that class: neither a large set, nor an image of hundreds of nuclei, nor
    the lesions around an optic disc push the rest aside.
    """

    def __init__(
        self,
        sets: Sequence[SampleSet],
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        seed: int = 0,
        smallest: int = 30,
        semantic: float = 0.0,
    ) -> None:
        """Read and cache all images.

        Args:
            sets: where to draw from; their folder names must differ.
            preprocessing: of the model that is trained.
            augmentation: applied to each sample.
            seed: another seed is another stream.
            smallest: objects of fewer pixels are left out; counted in the image, or in the input square where that is
                smaller.
            semantic: probability that a sample is the union of all objects of one class in its image.

        Raises:
            DataError: a set is missing, malformed, given twice, has no positive weight, or no object of that size.
        """
        names = [Path(one.folder).name for one in sets]
        if not sets or len(set(names)) < len(names):
            raise DataError(f"expected at least one set and each once, got: {', '.join(names) or 'none'}")
        for one in sets:
            if not one.weight > 0:
                raise DataError(f"the weight of {one.folder} must be positive, got {one.weight}")
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        self.semantic = semantic
        self._images = {name: _read_all(one, preprocessing, smallest) for name, one in zip(names, sets, strict=True)}
        shares = [one.weight * math.sqrt(len(self._images[name])) for name, one in zip(names, sets, strict=True)]
        self._shares = {name: share / sum(shares) for name, share in zip(names, shares, strict=True)}
        self._bounds = np.cumsum(list(self._shares.values()))

    def summary(self) -> dict[str, dict[str, Any]]:
        """For each set: `images` and `objects` that can be drawn, and its `share` of all samples."""
        return {
            name: {
                "images": len(images),
                "objects": sum(len(cached.classes) for cached in images),
                "share": self._shares[name],
            }
            for name, images in self._images.items()
        }

    def sample(self, index: int) -> TrainingSample:
        """The sample of this number.

        Args:
            index: 0 or more. The same number, seed, sets and settings give the same sample in whatever order they are
                asked for.
        """
        rng = np.random.default_rng((self.seed, index))
        place = int(np.searchsorted(self._bounds, rng.random(), side="right"))
        name, images = list(self._images.items())[min(place, len(self._images) - 1)]
        cached = images[int(rng.integers(len(images)))]
        class_id = int(rng.choice(np.unique(cached.classes)))
        numbers = 1 + np.flatnonzero(cached.classes == class_id)
        semantic = bool(rng.random() < self.semantic)
        chosen = np.zeros(len(cached.classes) + 1, dtype=np.bool_)
        chosen[numbers if semantic else rng.choice(numbers)] = True
        size = self.preprocessing.input_size
        pixels, mask = augment(cached.image, chosen[cached.objects], rng, self.augmentation, size)
        image, frame = self.preprocessing.apply_image(pixels)
        share = self.preprocessing.apply_mask(mask, frame, size)
        # An object that nowhere fills half a pixel keeps those that it fills best, rather than vanish.
        square = (share > 0) & (share >= min(_HALF, float(share.max())))
        return TrainingSample(
            image[0], square, frame.resized_size, name, cached.name, class_id, semantic, self._shares[name]
        )

    def batch(self, step: int, size: int) -> SampleBatch:
        """The samples of one training step: numbers `step * size` up to `(step + 1) * size`, stacked."""
        samples = tuple(self.sample(index) for index in range(step * size, (step + 1) * size))
        images, masks = np.stack([one.image for one in samples]), np.stack([one.mask for one in samples])
        return SampleBatch(images, masks, samples)


def _read_all(one: SampleSet, preprocessing: Preprocessing, smallest: int) -> list[_CachedImage]:
    labelled = read_set(one.folder, one.list_name, part_of_list(one.folder, one.list_name, one.share))
    images = [
        _cache(image, preprocessing, smallest) for image in labelled if not {image.name, image.volume} & {*one.exclude}
    ]
    usable = [cached for cached in images if len(cached.classes)]
    if not usable:
        raise DataError(f"{one.list_name} of {one.folder} names no image with an object of at least {smallest} pixels")
    return usable


def _cache(labelled: LabelledImage, preprocessing: Preprocessing, smallest: int) -> _CachedImage:
    image = to_uint8(labelled.image, preprocessing.intensity)
    label = labelled.label
    if image.ndim == 3 and (image == image[..., :1]).all():
        image = np.ascontiguousarray(image[..., 0])
    limit = _SPARE_RESOLUTION * preprocessing.input_size
    if max(label.shape) > limit:
        height, width = Preprocessing(limit).frame((label.shape[0], label.shape[1])).resized_size
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        label = np.asarray(cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), dtype=label.dtype)
    needed = math.ceil(smallest * max(1.0, max(label.shape) / preprocessing.input_size) ** 2)
    small = LabelledImage(labelled.name, image, label, labelled.instances)
    objects, classes = np.zeros(label.shape, dtype=np.uint16), []
    for number, mask in enumerate(small.objects(smallest=needed), start=1):
        objects[mask] = number
        classes.append(1 if labelled.instances else int(label[mask][0]))
    return _CachedImage(labelled.name, image, objects, np.array(classes, dtype=np.int64))
