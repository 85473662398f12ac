"""Prompts moved a little, as if somebody had given them once more.

Each of them is answered from the embedding that answered the first, in one engine call. What then changes much was
never certain.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samsdk.embedding import Embedding
from samsdk.errors import PromptError
from samsdk.masks import Region
from samsdk.prompts import Prompt
from samsdk.results import Result
from samsdk.transforms import Window
from samsdk.zoom import Encode, within

DecodeMany = Callable[[Embedding, Sequence[Prompt]], Sequence[Result]]

AMOUNT: Final = 0.05
"""How far a prompt moves: the standard deviation as a share of the width and the height of what is meant."""
# Moves are cut off at so many standard deviations, as those of the simulated users that models are trained with.
_FARTHEST: Final = 2.0
# A point that came off what it was on is moved anew so often; then it stays where it was.
_TRIES: Final = 8


def perturbed(
    prompt: Prompt, region: Region, window: Window, rng: np.random.Generator, *, count: int = 8, amount: float = AMOUNT
) -> list[Prompt]:
    """Prompts that might have been given as well.

    Each side of a box moves by a share of the box's width or height, each point by a share of the mask's. A point that
    was on the mask stays on it, one that was off it stays off, none leaves the window. A mask prompt stays as it is.

    Args:
        prompt: as it was given.
        region: the mask that answered it.
        window: that was encoded, (x0, y0, x1, y1); the prompt lies in it.
        rng: the source of chance; the same seed gives the same prompts.
        count: how many.
        amount: standard deviation of a move as a share of the object's size; moves are cut off at twice that.

    Returns:
        `count` prompts of the same kinds, their points [K, 2].

    Raises:
        ValueError: the amount is negative.
    """
    if amount < 0:
        raise ValueError(f"amount must not be negative, got {amount}")
    mask = None if prompt.points is None else region.full()
    prompts = []
    for _ in range(count):
        box = None if prompt.box is None else _moved_box(prompt.box, window, rng, amount)
        points = None if mask is None else _moved_points(prompt.points, mask, region.box, window, rng, amount)
        prompts.append(replace(prompt, points=points, box=box))
    return prompts


def vary(result: Result, prompt: Prompt, encode: Encode, decode: DecodeMany, count: int) -> Result:
    """A result with what moved prompts give, all from the embedding that gave the result.

    Args:
        result: the answer to the prompt.
        prompt: in pixels of the whole image.
        encode: the embedding of a window of the image, None is the whole.
        decode: answers several prompts from an embedding.
        count: how many prompts; the same result has the same ones.

    Raises:
        PromptError: the count is negative.
    """
    if count < 0:
        raise PromptError(f"expected a number of variations from 0 on, got {count}")
    window, (height, width) = result.frame.window, result.frame.original_size
    embedding = encode(None if window == (0, 0, width, height) else window)
    moved = perturbed(within(prompt, window), result.region, window, np.random.default_rng(0), count=count)
    return replace(result, variations=tuple(one.region for one in decode(embedding, moved)))


def _moves(rng: np.random.Generator, shape: tuple[int, ...], amount: float) -> NDArray[np.float64]:
    return np.asarray(amount * np.clip(rng.normal(size=shape), -_FARTHEST, _FARTHEST))


def _moved_box(given: object, window: Window, rng: np.random.Generator, amount: float) -> NDArray[np.float64]:
    box = np.asarray(given, dtype=np.float64).reshape(2, 2)  # first corner, last corner
    moved = box + _moves(rng, (2, 2), amount) * (box[1] - box[0])
    low, high = np.array(window, dtype=np.float64).reshape(2, 2)
    # At least a pixel wide and high, unless the box was given narrower.
    least = np.minimum(1.0, box[1] - box[0])
    start = np.clip(moved[0], low, high - least)
    return np.concatenate([start, np.clip(moved[1], start + least, high)])


def _moved_points(
    given: object,
    mask: NDArray[np.bool_],
    extent: tuple[int, int, int, int] | None,
    window: Window,
    rng: np.random.Generator,
    amount: float,
) -> NDArray[np.float64]:
    points = np.asarray(given, dtype=np.float64).reshape(-1, 2).copy()
    if extent is None:
        return points
    size = np.array([extent[2] - extent[0], extent[3] - extent[1]])
    # Drawn at once, so that how often a point is tried does not move the others.
    moves = _moves(rng, (len(points), _TRIES, 2), amount) * size
    for index, (point, tries) in enumerate(zip(points.copy(), moves, strict=True)):
        was = mask[_pixel(point)]
        for moved in point + tries:
            inside = (moved >= window[:2]).all() and (moved < window[2:]).all()
            if inside and mask[_pixel(moved)] == was:
                points[index] = moved
                break
    return points


def _pixel(point: NDArray[np.float64]) -> tuple[int, int]:
    """Row and column of the pixel that a point is in."""
    return int(point[1]), int(point[0])
