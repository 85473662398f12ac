"""Points for models that answer for a whole image: in each class that it shows, or where an expert sees an error.

What a person would click on is taken from the reference, so these numbers stand beside those without a prompt, never
in their place. Coordinates are (x, y) in pixels of the image as given.
"""

import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samsdk.embedding import Embedding
from samsdk.prompts import CERTAIN_LOGIT
from samsdk.semantic import SemanticResult, name_pixels
from samsdk.transforms import Window
from samsdk_training.class_points import ABSENT, ClassPoints, joint_points
from samsdk_training.data import LabelledImage
from samsdk_training.evaluation.objects import NO_PROMPT, Segmenter, point_count
from samsdk_training.simulate import Point, correction


class ClassSegmenter(Protocol):
    """What names pixels with points that name classes: a `TorchPredictor`, or a promptable model (`PassPerClass`)."""

    def encode(self, image: object, *, window: Window | None = None) -> Embedding:
        """Encode one image."""

    def decode_classes(self, embedding: Embedding, points: ClassPoints) -> SemanticResult:
        """Name the class of each pixel, given points in the classes that the image shows."""


class PassPerClass:
    """A promptable model that names pixels: a pass for each class, and of each pixel the class that is surest of it.

    The background has the probability that the surest class leaves: a pixel is of it where no class reaches one half.

    Args:
        predictor: answers points with a mask.
        classes: name by number as text, `0` the background.
    """

    def __init__(self, predictor: Segmenter, classes: Mapping[str, str]) -> None:
        self.predictor = predictor
        self.classes = classes

    def encode(self, image: object, *, window: Window | None = None) -> Embedding:
        """Encode one image."""
        return self.predictor.encode(image, window=window)

    def decode_classes(self, embedding: Embedding, points: ClassPoints) -> SemanticResult:
        """Name the class of each pixel; a class without points is not asked for, and not found."""
        shown = [int(one) for one in np.unique(points.classes) if one != ABSENT]
        with warnings.catch_warnings():
            # A bundle that was not trained with points says so; here that is what is measured.
            warnings.simplefilter("ignore", UserWarning)
            answers = [self.predictor.decode(embedding, points=points.points[points.classes == one]) for one in shown]
        side = answers[0].low_res_logits.shape[-1] if answers else 1
        # A logit of 0 is a probability of one half.
        logits = np.full((len(self.classes), side, side), -CERTAIN_LOGIT, dtype=np.float32)
        logits[0] = 0
        for number, answer in zip(shown, answers, strict=True):
            logits[number] = answer.low_res_logits[answer.best]
        return name_pixels(logits, embedding.frame, self.classes, {}, embedding.provider, embedding.bundle)


def draw_class_points(labelled: LabelledImage, classes: int, count: int) -> ClassPoints:
    """The points of an image, drawn as in training, and the same ones whenever they are drawn.

    Args:
        labelled: the image; its name is the seed.
        classes: K, without the background.
        count: points in each class.

    Raises:
        ValueError: the label image holds a class above K.
    """
    rng = np.random.default_rng(zlib.crc32(labelled.name.encode()))
    return joint_points(labelled.label, classes, rng, count)


def guided_masks(
    predictor: Segmenter, embedding: Embedding, truth: NDArray[np.bool_], prompts: Sequence[str]
) -> dict[str, NDArray[np.bool_]]:
    """The foreground that a model finds by itself, and after each point that an expert adds.

    Each point lies in the largest error of the last answer, at the pixel that is farthest from that error's border, the
    first one in that of the answer without any; the model's own points stay beside them.

    Args:
        predictor: a model that prompts itself.
        embedding: of the image.
        truth: [H, W] bool, the whole foreground.
        prompts: `none`, and `pointN` for N points.

    Returns:
        Masks [H, W] by prompt.
    """
    counts = {prompt: 0 if prompt == NO_PROMPT else point_count(prompt) for prompt in prompts}
    points: list[Point] = []
    labels: list[int] = []
    masks = [predictor.decode(embedding).mask]
    for _ in range(max(counts.values())):
        click = correction(masks[-1], truth)
        if click is None:
            # A perfect mask needs no further point: it stays the answer.
            masks.append(masks[-1])
            continue
        points.append(click[0])
        labels.append(click[1])
        masks.append(predictor.decode(embedding, points=points, labels=labels).mask)
    return {prompt: masks[count] for prompt, count in counts.items()}
