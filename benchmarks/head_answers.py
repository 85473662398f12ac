"""Answers to prompts on fetal heads, for `head_circumference`."""

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import samsdk
from samsdk.measuring.perturbation import perturbed
from samsdk.prompts import FOREGROUND
from samsdk.transforms import Window
from samsdk.zoom import Zoom, segment_zoomed
from samsdk_training.data import LabelledImage, part_of_list, read_set, tight_box
from samsdk_training.simulate import centre_point, correction, jittered_box

TAUGHT = (0.0, 2 / 3)
HELD_BACK = (2 / 3, 1.0)
# Another image of an examination of the last third.
LEFT_OUT = ("566_2HC",)
VARIATIONS = 8
# How people draw boxes that are not tight: standard deviation of each side's place as a share of the box's side.
JITTER = 0.03
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Head:
    """One image and its answers.

    Attributes:
        name: its id.
        spacing: mm of a pixel, one number for both axes.
        circumference: of the table, in mm.
        truth: the reference mask.
        image: its pixels.
        answers: by prompt, with and without zoom: the mask, and the boxes that were drawn for it, if any.
    """

    name: str
    spacing: float
    circumference: float
    truth: NDArray[np.bool_]
    image: NDArray[np.generic]
    answers: dict[tuple[str, bool], "Answer"]


@dataclass(frozen=True)
class Answer:
    """A mask, those of moved prompts, and the box of the prompt."""

    mask: NDArray[np.bool_]
    variations: list[NDArray[np.bool_]]
    box: Box | None


def read_heads(predictor: samsdk.Predictor, folder: Path, share: tuple[float, float]) -> Iterator[Head]:
    """All images of a part of the list, each prompted in every way."""
    with (folder / "pixel_size.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    table = {Path(name).stem: (float(size), float(length)) for name, size, length in rows}
    for number, labelled in enumerate(read_set(folder, "list.txt", part_of_list(folder, "list.txt", share))):
        if share == TAUGHT and labelled.name in LEFT_OUT:
            continue
        truth = labelled.label > 0
        answers = {
            (prompt, zoomed): answer
            for zoomed in (True, False)
            for prompt, answer in ask(predictor, labelled, truth, predictor.zoom(zoomed), number).items()
        }
        print(labelled.name, file=sys.stderr, flush=True)
        yield Head(labelled.name, *table[labelled.name], truth, labelled.image, answers)


def ask(
    predictor: samsdk.Predictor, labelled: LabelledImage, truth: NDArray[np.bool_], zoom: Zoom | None, seed: int
) -> dict[str, Answer]:
    """The answers to a tight box, to one as people draw it, and to three clicks."""
    embeddings = Embeddings(predictor, labelled.image)

    def answer(prompt: samsdk.Prompt) -> samsdk.Result:
        if zoom is None:
            return decode(embeddings.of(None), prompt)
        return segment_zoomed(embeddings.of, decode, prompt, truth.shape, zoom)

    def decode(embedding: samsdk.Embedding, prompt: samsdk.Prompt) -> samsdk.Result:
        return predictor.decode_batch(embedding, [prompt])[0]

    boxes = {"box": tight_box(truth), "drawn_box": jittered_box(truth, np.random.default_rng(seed), JITTER)}
    asked = {name: (prompt := samsdk.Prompt(box=box), answer(prompt)) for name, box in boxes.items()}
    asked["point3"] = click(answer, truth)
    found = {}
    for name, (prompt, result) in asked.items():
        moved = perturbed(prompt, result.region, result.frame.window, np.random.default_rng(0), count=VARIATIONS)
        variations = predictor.decode_batch(embeddings.of(result.frame.window), moved)
        found[name] = Answer(result.mask, [one.mask for one in variations], boxes.get(name))
    return found


class Embeddings:
    """What was encoded of one image, each window once."""

    def __init__(self, predictor: samsdk.Predictor, image: NDArray[np.generic]) -> None:
        self._encode = cache(lambda window: predictor.encode(image, window=window))
        self._whole = (0, 0, image.shape[1], image.shape[0])

    def of(self, window: Window | None) -> samsdk.Embedding:
        """The embedding of a window; None is the whole image."""
        return self._encode(None if window == self._whole else window)


def click(
    answer: Callable[[samsdk.Prompt], samsdk.Result], truth: NDArray[np.bool_]
) -> tuple[samsdk.Prompt, samsdk.Result]:
    """Three clicks of a simulated user, as `samsdk evaluate` has them: the last prompt and its answer."""
    points, labels = [centre_point(truth)], [FOREGROUND]
    prompt = samsdk.Prompt(points, labels)
    result = answer(prompt)
    for _ in range(2):
        further = correction(result.mask, truth)
        if further is not None:
            points, labels = [*points, further[0]], [*labels, further[1]]
            prompt = samsdk.Prompt(points, labels, mask=result)
            result = answer(prompt)
    return prompt, result
