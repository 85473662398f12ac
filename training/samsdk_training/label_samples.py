"""Training samples of semantic models: an image with the class of each of its pixels, and points that name classes."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from samsdk.intensity import to_uint8
from samsdk.transforms import Frame, Preprocessing
from samsdk_training.class_points import joint_points
from samsdk_training.data import DataError, LabelledImage
from samsdk_training.pictures import Picture

# Labels of samples are of 8 bits.
_MOST_CLASSES: Final = 255


class LabelSample(NamedTuple):
    """What a semantic model is trained on, of one image; arrays stacked along N, and N frames, of a batch.

    Attributes:
        image: [3, S, S] float32, the encoder's input.
        label: [side, side] int64, the class of each cell of the decoder's logits.
        points: [K * n, 2] float32 (x, y) in pixels of the S x S input, n in each class, (0, 0) where it is absent.
        point_classes: [K * n] int64, 1 to K, or -1 where the class is absent.
        frame: where the image lies in the square.
    """

    image: NDArray[np.float32]
    label: NDArray[np.int64]
    points: NDArray[np.float32]
    point_classes: NDArray[np.int64]
    frame: Frame


class LabelBatch(NamedTuple):
    """Samples stacked along N, as tensors; the parts as those of `LabelSample`."""

    images: Tensor
    labels: Tensor
    points: Tensor
    point_classes: Tensor
    frames: tuple[Frame, ...]


class Varied(Protocol):
    """What may happen to a picture."""

    def apply(self, picture: Picture, rng: np.random.Generator) -> Picture:
        """Vary an image and its classes together."""


class LabelSource:
    """A stream of samples, each a pure function of its number.

    Args:
        draw: the picture of a number.
        preprocessing: the model's.
        augmentation: what may happen to a picture.
        classes: K, without the background.
        label_side: side of the decoder's logits. The label of the input square is brought to it by SAMed's rule: the
            nearest pixel, corners on corners (`scipy.ndimage.zoom`, order 0).
        points: n, how many points in each class.
        seed: another seed is another stream.
    """

    def __init__(
        self,
        draw: Callable[[int], Picture],
        preprocessing: Preprocessing,
        augmentation: Varied,
        *,
        classes: int,
        label_side: int,
        points: int = 1,
        seed: int = 0,
    ) -> None:
        self._draw = draw
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.classes, self.label_side, self.points, self.seed = classes, label_side, points, seed

    def sample(self, index: int) -> LabelSample:
        """The sample of a number from 0 on."""
        rng = np.random.default_rng((self.seed, index))
        picture = self.augmentation.apply(self._draw(index), rng)
        # Mirrored arrays are views of negative strides, which neither cv2 nor torch takes.
        pixels, label = (np.ascontiguousarray(one) for one in picture)
        image, frame = self.preprocessing.apply_image(pixels)
        size, (height, width) = self.preprocessing.input_size, frame.resized_size
        top, left = frame.offset
        square = np.zeros((size, size), dtype=np.uint8)
        square[top : top + height, left : left + width] = cv2.resize(
            label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT
        )
        drawn = joint_points(square, self.classes, rng, self.points)
        low = square if size == self.label_side else ndimage.zoom(square, self.label_side / size, order=0)
        return LabelSample(image[0], low.astype(np.int64), drawn.points, drawn.classes, frame)

    def batch(self, step: int, size: int) -> LabelBatch:
        """The samples `step * size` up to `(step + 1) * size`, stacked along N."""
        samples = [self.sample(index) for index in range(step * size, (step + 1) * size)]
        return LabelBatch(
            torch.from_numpy(np.stack([one.image for one in samples])),
            torch.from_numpy(np.stack([one.label for one in samples])),
            torch.from_numpy(np.stack([one.points for one in samples])),
            torch.from_numpy(np.stack([one.point_classes for one in samples])),
            tuple(one.frame for one in samples),
        )


def epochs(pictures: Sequence[Picture], seed: int = 0) -> Callable[[int], Picture]:
    """Draw pictures epoch by epoch: each once, in an order of its own, before any comes again.

    Raises:
        DataError: there are none.
    """
    if not pictures:
        raise DataError("expected at least one image to train on, got none")

    def draw(index: int) -> Picture:
        epoch, place = divmod(index, len(pictures))
        order = np.random.default_rng((seed, epoch)).permutation(len(pictures))
        return pictures[int(order[place])]

    return draw


def as_picture(labelled: LabelledImage, intensity: str, *, classes: int, union: bool = False) -> Picture:
    """Bring a labelled image to 8 bits and check its classes.

    Args:
        labelled: the image.
        intensity: the model's rule, see `samsdk.intensity`.
        classes: K, without the background.
        union: whether all labels, classes or instances, are class 1.

    Raises:
        DataError: see `check_classes`.
    """
    if union:
        labelled = labelled.united()
    check_classes(labelled, classes)
    return Picture(to_uint8(labelled.image, intensity), labelled.label.astype(np.uint8))


def check_classes(labelled: LabelledImage, classes: int) -> None:
    """Make sure that labels name classes.

    Args:
        labelled: the image.
        classes: K, without the background.

    Raises:
        DataError: the labels number objects, there is one above K, or K is above 255.
    """
    if labelled.instances:
        raise DataError(
            f"{labelled.name}: its labels number objects and do not name classes; train on their union (union), or say "
            'in set.json that they are classes: {"instances": false}'
        )
    if classes > _MOST_CLASSES:
        raise DataError(f"expected at most {_MOST_CLASSES} classes, got {classes}: renumber the labels from 1 on")
    low, high = labelled.label.min(), labelled.label.max()
    if low < 0 or high > classes:
        raise DataError(f"{labelled.name}: expected labels from 0 to {classes}, got {low} to {high}")
