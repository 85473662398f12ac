"""Simulated users: how good the mask of each object is after a box, after one click, and after corrections.

The protocol: a tight box; or a first click on the point that is farthest from the object's border, then one click a
round in the largest error of the last answer, at the point that is farthest from that error's border, with the last
answer's logits as mask prompt. Nothing is random, so that two runs give the same numbers.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samsdk.embedding import Embedding
from samsdk.prompts import FOREGROUND, Prompt
from samsdk.results import Result
from samsdk.transforms import Window
from samsdk.zoom import Zoom, segment_zoomed
from samsdk_training.data import LabelledImage, tight_box
from samsdk_training.evaluation.measures import DICE, IOU, Measures
from samsdk_training.simulate import centre_point, correction

BOX: Final = "box"
# What models that answer by themselves are asked with: nothing.
NO_PROMPT: Final = "none"
# What is asked where nobody says otherwise.
PROMPTS: Final = (BOX, "point1", "point3")
# Of fewer pixels, objects are left out.
SMALLEST: Final = 30
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
        number: of the object in its image, from 1 on, of those that were large enough.
        area: of the object, in pixels.
        dice: Dice after each prompt, by the prompt's name: `box`, or `point` and the number of clicks.
        iou: IoU after each prompt.
        predicted_iou: the model's own estimate of it.
        distances: `nsd` and `hd95` after each prompt, as far as they were asked for.
        patient: whose image it is; None where nothing says so.
        volume: the volume that the image is a slice of; None for an image.
    """

    image: str
    number: int
    area: int
    dice: Mapping[str, float]
    iou: Mapping[str, float]
    predicted_iou: Mapping[str, float]
    distances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    patient: str | None = None
    volume: str | None = None

    @property
    def values(self) -> dict[str, Mapping[str, float]]:
        """Each measure by its name, and in it the value after each prompt."""
        return {DICE: self.dice, IOU: self.iou, **self.distances}

    @property
    def cluster(self) -> tuple[str, str]:
        """What the object belongs to: the patient where one is known, else the volume, else the image."""
        if self.patient is not None:
            return "patient", self.patient
        return ("volume", self.volume) if self.volume is not None else ("image", self.image)


def point_count(prompt: str) -> int:
    """How many points a prompt's name stands for: 0 for `box`, 3 for `point3`.

    Raises:
        ValueError: it is neither `box` nor `point1` to `point99`.
    """
    if prompt == BOX:
        return 0
    match = re.fullmatch(r"point([1-9][0-9]?)", prompt)
    if match is None:
        raise ValueError(f"unknown prompt {prompt!r}, expected box, or point1 to point99")
    return int(match[1])


def evaluate_images(
    predictor: Segmenter,
    images: Iterable[LabelledImage],
    *,
    prompts: Sequence[str] = PROMPTS,
    max_objects: int = 8,
    smallest: int = SMALLEST,
    feed_mask: bool = True,
    zoom: Zoom | None = None,
    measures: Measures = Measures(),  # noqa: B008 (frozen)
) -> Iterator[ObjectScores]:
    """Prompt for each object of each image.

    Args:
        predictor: what is evaluated.
        images: with their labels.
        prompts: after which the mask is scored: `box`, and `pointN` for N clicks.
        max_objects: of an image, the first in the order of their labels.
        smallest: objects of fewer pixels are left out.
        feed_mask: whether each correction comes with the last answer.
        zoom: how close a second look at each object is; None answers from the whole image.
        measures: what is measured beside Dice and IoU.

    Yields:
        One entry an object.

    Raises:
        ValueError: there is no prompt, one is not known, or the measures are those of whole volumes.
        DataError: a distance is measured, and nothing says how large a pixel of an image is.
    """
    counts = {prompt: point_count(prompt) for prompt in prompts}
    if not counts or measures.transunet:
        raise ValueError("expected at least one prompt, and not the transunet protocol, which is of whole volumes")
    for labelled in images:
        objects = labelled.objects(smallest=smallest)[:max_objects]
        if not objects:
            continue
        size = measures.size(labelled, axes=2)
        answer = answering(predictor, labelled, zoom)
        for number, truth in enumerate(objects, start=1):
            with warnings.catch_warnings():
                # A bundle that was not trained with points says so; here that is what is measured.
                warnings.simplefilter("ignore", UserWarning)
                answers = _ask(answer, truth, counts, feed_mask)
            scores = {prompt: measures.score(result.mask, truth, size) for prompt, result in answers.items()}
            yield _object_scores(labelled, number, truth, answers, scores)


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


def _ask(answer: Answer, truth: NDArray[np.bool_], counts: Mapping[str, int], feed_mask: bool) -> dict[str, Result]:
    """The answer to each prompt, by its name; `counts` has its number of points."""
    answers: dict[int, Result] = {}
    if BOX in counts:
        answers[0] = answer(Prompt(box=tight_box(truth)))
    last = max(counts.values(), default=0)
    if last > 0:
        answers |= enumerate(_click(answer, truth, last, feed_mask), start=1)
    return {prompt: answers[count] for prompt, count in counts.items()}


def _click(answer: Answer, truth: NDArray[np.bool_], last: int, feed_mask: bool) -> Iterator[Result]:
    """The answers after the first click, after the second, and so on to the last."""
    points, labels = [centre_point(truth)], [FOREGROUND]
    result = answer(Prompt(points, labels))
    yield result
    for _ in range(1, last):
        click = correction(result.mask, truth)
        if click is not None:
            points.append(click[0])
            labels.append(click[1])
            result = answer(Prompt(points, labels, mask=result if feed_mask else None))
        # A perfect mask needs no further click: it stays the answer.
        yield result


def _object_scores(
    labelled: LabelledImage,
    number: int,
    truth: NDArray[np.bool_],
    answers: Mapping[str, Result],
    scores: Mapping[str, Mapping[str, float]],
) -> ObjectScores:
    values = {name: {prompt: row[name] for prompt, row in scores.items()} for name in next(iter(scores.values()))}
    return ObjectScores(
        image=labelled.name,
        number=number,
        area=int(np.count_nonzero(truth)),
        dice=values.pop(DICE),
        iou=values.pop(IOU),
        predicted_iou={prompt: result.score for prompt, result in answers.items()},
        distances=values,
        patient=labelled.patient,
        volume=labelled.volume,
    )
