"""Evaluation with simulated users: how good a mask is after a box, after one click, and after corrections.

The protocol: a tight box; or a first click on the point that is farthest from the object's border, then one click a
round in the largest error of the last answer, at the point that is farthest from that error's border, with the last
answer's logits as mask prompt. Nothing is random, so that two runs give the same numbers.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samsdk.embedding import Embedding
from samsdk.masks import dice, mask_iou
from samsdk.prompts import FOREGROUND, Prompt
from samsdk.results import Result
from samsdk.transforms import Window
from samsdk.zoom import Zoom, segment_zoomed
from samsdk_training.data import LabelledImage, tight_box
from samsdk_training.simulate import centre_point, correction

BOX = "box"
Answer = Callable[[Prompt], Result]


class Segmenter(Protocol):
    """What is evaluated: a `samsdk.Predictor`, or a torch model behind the same two methods (`TorchPredictor`)."""

    def encode(self, image: object, *, window: Window | None = None) -> Embedding:
        """Encode one image, or a window of it."""

    def decode(
        self,
        embedding: Embedding,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | Result | None = None,
    ) -> Result:
        """Decode one prompt."""


@dataclass(frozen=True)
class ObjectScores:
    """What one object's masks were worth.

    Attributes:
        image: the image's id.
        area: of the object, in pixels.
        dice: Dice after each prompt, by the prompt's name: `box`, or the number of clicks as text.
        iou: IoU after each prompt.
        predicted_iou: the model's own estimate of it.
    """

    image: str
    area: int
    dice: Mapping[str, float]
    iou: Mapping[str, float]
    predicted_iou: Mapping[str, float]


def evaluate_images(
    predictor: Segmenter,
    images: Iterable[LabelledImage],
    *,
    clicks: Sequence[int] = (1, 3),
    max_objects: int = 8,
    smallest: int = 30,
    feed_mask: bool = True,
    zoom: Zoom | None = None,
) -> Iterator[ObjectScores]:
    """Prompt for each object of each image.

    Args:
        predictor: what is evaluated.
        images: with their labels.
        clicks: numbers of clicks after which the mask is scored.
        max_objects: of an image, the first in the order of their labels.
        smallest: objects of fewer pixels are left out.
        feed_mask: whether each correction comes with the last answer.
        zoom: how close a second look at each object is; None answers from the whole image.

    Yields:
        One entry an object.
    """
    for labelled in images:
        objects = labelled.objects(smallest=smallest)[:max_objects]
        if not objects:
            continue
        answer = answering(predictor, labelled, zoom)
        for truth in objects:
            with warnings.catch_warnings():
                # A bundle that was not trained with points says so; here that is what is measured.
                warnings.simplefilter("ignore", UserWarning)
                answers = {BOX: answer(Prompt(box=tight_box(truth)))}
                answers |= _click(answer, truth, clicks, feed_mask)
            yield ObjectScores(
                image=labelled.name,
                area=int(np.count_nonzero(truth)),
                dice={name: dice(result.mask, truth) for name, result in answers.items()},
                iou={name: mask_iou(result.mask, truth) for name, result in answers.items()},
                predicted_iou={name: result.score for name, result in answers.items()},
            )


def answering(predictor: Segmenter, labelled: LabelledImage, zoom: Zoom | None) -> Answer:
    """Answer prompts on one image, each window of which is encoded once.

    Args:
        predictor: what answers.
        labelled: the image.
        zoom: how close a second look at each object is; None answers from the whole image.
    """
    encode = cache(lambda window: predictor.encode(labelled.image, window=window))

    def decode(embedding: Embedding, prompt: Prompt) -> Result:
        return predictor.decode(embedding, points=prompt.points, labels=prompt.labels, box=prompt.box, mask=prompt.mask)

    if zoom is None:
        return lambda prompt: decode(encode(None), prompt)
    height, width = labelled.image.shape[:2]
    return lambda prompt: segment_zoomed(encode, decode, prompt, (height, width), zoom)


def _click(answer: Answer, truth: NDArray[np.bool_], clicks: Sequence[int], feed_mask: bool) -> dict[str, Result]:
    points, labels = [centre_point(truth)], [FOREGROUND]
    result = answer(Prompt(points, labels))
    answers = {1: result}
    for count in range(2, max(clicks, default=1) + 1):
        click = correction(result.mask, truth)
        if click is not None:
            points.append(click[0])
            labels.append(click[1])
            result = answer(Prompt(points, labels, mask=result if feed_mask else None))
        # A perfect mask needs no further click: it stays the answer.
        answers[count] = result
    return {str(count): answers[count] for count in clicks}


def summarise(scores: Sequence[ObjectScores]) -> dict[str, Any]:
    """Means over objects, and the calibration of the predicted IoU over all prompts.

    Args:
        scores: at least one.

    Returns:
        `objects`, `images`, `dice` and `iou` by prompt, and `calibration` (see `calibration`).

    Raises:
        ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("nothing to summarise: no object was large enough")
    prompts = list(scores[0].dice)
    predicted = np.array([score.predicted_iou[prompt] for score in scores for prompt in prompts])
    actual = np.array([score.iou[prompt] for score in scores for prompt in prompts])
    return {
        "images": len({score.image for score in scores}),
        "objects": len(scores),
        "dice": {prompt: float(np.mean([score.dice[prompt] for score in scores])) for prompt in prompts},
        "iou": {prompt: float(np.mean([score.iou[prompt] for score in scores])) for prompt in prompts},
        "calibration": calibration(predicted, actual),
    }


def calibration(predicted: NDArray[np.floating], actual: NDArray[np.floating], bins: int = 10) -> dict[str, Any]:
    """How far the predicted IoU can be believed.

    Args:
        predicted: [N] estimates; clipped to 0-1.
        actual: [N] true IoU.
        bins: of equal width over 0-1.

    Returns:
        `error`: the expected calibration error, the mean over bins of |mean predicted - mean actual| weighted by their
        counts (Naeini et al., 2015); `mean_absolute_error` over all N; `curve`: for each bin that is not empty, its
        `count` and the means `predicted` and `actual`.
    """
    believed = np.clip(np.asarray(predicted, dtype=np.float64), 0, 1)
    true = np.asarray(actual, dtype=np.float64)
    index = np.minimum((believed * bins).astype(int), bins - 1)
    curve = [
        {
            "count": int(np.count_nonzero(index == one)),
            "predicted": float(believed[index == one].mean()),
            "actual": float(true[index == one].mean()),
        }
        for one in np.unique(index)
    ]
    gaps = sum(row["count"] * abs(row["predicted"] - row["actual"]) for row in curve)
    return {
        "error": float(gaps / len(believed)),
        "mean_absolute_error": float(np.abs(believed - true).mean()),
        "curve": curve,
    }
