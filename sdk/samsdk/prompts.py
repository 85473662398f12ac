"""Prompts: what a person points at, checked, and turned into the decoder's inputs."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samsdk.errors import PromptError
from samsdk.masks import reframe_logits
from samsdk.results import Result
from samsdk.semantic import SemanticResult
from samsdk.transforms import Frame, Preprocessing

PROMPT_KINDS: Final = ("points", "box", "mask")

# Labels that the decoder understands (Meta's numbering); users give only 0 and 1.
BACKGROUND: Final = 0
FOREGROUND: Final = 1
BOX_TOP_LEFT: Final = 2
BOX_BOTTOM_RIGHT: Final = 3
PADDING: Final = -1

# Logit of a pixel that a mask given as 0/1 calls certain. SAM's own low-res logits reach about +-10 on clear objects.
CERTAIN_LOGIT: Final = 10.0


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt: any mixture of points, one box and one mask, all of them about one object.

    Attributes:
        points: [K, 2] or [2], (x, y) in pixels of the image as given, inside it.
        labels: [K] of 1 (the object) and 0 (not the object); all 1 when left out.
        box: [4], (x0, y0, x1, y1) in pixels of the image as given; x1 and y1 are exclusive, so the box of one pixel
            (x, y) is (x, y, x + 1, y + 1).
        mask: a former result of the same image, whose best mask is then improved; or [H, W] of the image's size
            (bool or integers; not zero is the object); or low-res logits [4E, 4E] or [1, 4E, 4E] (floats) as a former
            result's `low_res_logits` holds them, if it saw the same window of the image.
    """

    points: ArrayLike | None = None
    labels: ArrayLike | None = None
    box: ArrayLike | None = None
    mask: ArrayLike | Result | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of prompt in this one, out of `points`, `box` and `mask`."""
        given = (self.points, self.box, self.mask)
        return tuple(kind for kind, value in zip(PROMPT_KINDS, given, strict=True) if value is not None)


@dataclass(frozen=True)
class DecoderInputs:
    """The decoder's feeds for one prompt, all float32.

    Attributes:
        point_coords: [K, 2], (x, y) in pixels of the network's input square.
        point_labels: [K].
        mask_input: [4E, 4E] logits, or probabilities where the bundle wants them; zeros without a mask.
        has_mask_input: 1.0 with a mask, else 0.0.
    """

    point_coords: NDArray[np.float32]
    point_labels: NDArray[np.float32]
    mask_input: NDArray[np.float32]
    has_mask_input: float


def check_kinds(prompt: Prompt, kinds: Sequence[str], *, needed: bool = True) -> None:
    """Check that a prompt is of the kinds that a bundle takes; none at all where it takes none.

    Args:
        prompt: what the user gave.
        kinds: the prompt kinds that the bundle has.
        needed: whether something has to be given; not to a bundle that prompts itself.

    Raises:
        PromptError: nothing was given where something is needed, or a kind that the bundle lacks.
    """
    given = prompt.kinds or (("labels",) if prompt.labels is not None else ())
    if not kinds:
        if given:
            raise PromptError(
                f"this bundle takes no prompt, got {' and '.join(given)}: it finds the objects of its classes by itself"
            )
        return
    if not prompt.kinds and (given or needed):
        detail = "labels without points" if given else "no prompt at all"
        raise PromptError(f"got {detail}; expected at least one of: {', '.join(kinds)}")
    lacking = [kind for kind in given if kind not in kinds]
    if lacking:
        raise PromptError(f"this bundle takes no {' and no '.join(lacking)}; it takes: {', '.join(kinds)}")


def encode_prompt(
    prompt: Prompt, frame: Frame, preprocessing: Preprocessing, mask_side: int, kinds: Sequence[str]
) -> DecoderInputs:
    """Check one prompt and turn it into the decoder's feeds.

    The tokens are Meta's: points, then the two box corners; points without a box are followed by one padding point,
    because SAM was trained with it; a mask alone has no token.

    Args:
        prompt: what the user gave.
        frame: the image's frame.
        preprocessing: the bundle's.
        mask_side: side of the decoder's mask input, 4E.
        kinds: the prompt kinds that the bundle has.

    Raises:
        PromptError: nothing was given, or a part is malformed, lies outside the image or the frame's window, or is a
            kind the bundle lacks.
    """
    check_kinds(prompt, kinds)
    points, labels = check_points(prompt, frame)
    coords = [preprocessing.apply_coords(points, frame)]
    tokens = [labels]
    if prompt.box is not None:
        box = _check_box(prompt.box, frame)
        coords.append(preprocessing.apply_boxes(box, frame).reshape(2, 2))
        tokens.append(np.array([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], dtype=np.float32))
    elif len(points):
        coords.append(np.zeros((1, 2), dtype=np.float32))
        tokens.append(np.array([PADDING], dtype=np.float32))
    mask = np.zeros((mask_side, mask_side), dtype=np.float32)
    if prompt.mask is not None:
        mask = _check_mask(prompt.mask, frame, preprocessing, mask_side)
        if preprocessing.mask_prompt == "sigmoid":
            # By tanh, which no logit makes overflow.
            mask = (0.5 + 0.5 * np.tanh(0.5 * mask)).astype(np.float32)
    return DecoderInputs(np.concatenate(coords), np.concatenate(tokens), mask, float(prompt.mask is not None))


def warn_untrained(prompt: Prompt, trained: Sequence[str], name: str) -> None:
    """Warn of a prompt that is of no kind that a model was trained with: it answers, but poorly.

    Args:
        prompt: what the user gave.
        trained: the prompt kinds that the model was trained with.
        name: of the bundle.
    """
    if not set(prompt.kinds) & set(trained):
        warnings.warn(
            f"{name!r} was trained with {' and '.join(trained)} prompts only, got {' and '.join(prompt.kinds)}: expect "
            "a poor mask",
            UserWarning,
            stacklevel=5,
        )


def decoder_feeds(prompts: Sequence[DecoderInputs]) -> dict[str, NDArray[np.float32]]:
    """The decoder's feeds for prompts of one number of tokens, by the graph's names, [P, ...] each."""
    return {
        "point_coords": np.stack([feeds.point_coords for feeds in prompts]),
        "point_labels": np.stack([feeds.point_labels for feeds in prompts]),
        "mask_input": np.stack([feeds.mask_input for feeds in prompts])[:, None],
        "has_mask_input": np.array([feeds.has_mask_input for feeds in prompts], dtype=np.float32),
    }


def _numbers(value: ArrayLike, what: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise PromptError(f"{what} must be numbers, got {value!r}") from error
    if not np.isfinite(array).all():
        raise PromptError(f"{what} must be finite, got {array.tolist()}")
    return array


def check_points(prompt: Prompt, frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The points of a prompt [K, 2] and their labels [K]; none where it has none.

    Raises:
        PromptError: they are malformed, or lie outside the image or the frame's window.
    """
    if prompt.points is None:
        if prompt.labels is not None:
            raise PromptError("got labels without points; give as many points as labels")
        return np.zeros((0, 2)), np.zeros(0, dtype=np.float32)
    points = _numbers(prompt.points, "points")
    if points.shape == (2,):
        points = points[None]
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise PromptError(f"points must have shape [K, 2] with (x, y) rows and K >= 1, got shape {list(points.shape)}")
    height, width = frame.original_size
    outside = (points < 0).any(axis=1) | (points[:, 0] >= width) | (points[:, 1] >= height)
    if outside.any():
        raise PromptError(
            f"points must lie inside the image, 0 <= x < {width} and 0 <= y < {height}, got (x, y) = "
            f"{', '.join(str(tuple(point)) for point in points[outside].tolist())}"
        )
    # A point is all of its pixel.
    _check_window(points, np.floor(points) + 1, frame, "points")
    return points, _check_labels(prompt.labels, len(points))


def _check_labels(labels: ArrayLike | None, count: int) -> NDArray[np.float32]:
    if labels is None:
        return np.full(count, FOREGROUND, dtype=np.float32)
    array = np.atleast_1d(_numbers(labels, "labels"))
    if array.shape != (count,):
        raise PromptError(f"labels must have one entry per point, expected {count}, got shape {list(array.shape)}")
    if not np.isin(array, (BACKGROUND, FOREGROUND)).all():
        raise PromptError(f"labels must be 1 (the object) or 0 (not the object), got {array.tolist()}")
    return array.astype(np.float32)


def _check_box(box: ArrayLike, frame: Frame) -> NDArray[np.float64]:
    array = _numbers(box, "box")
    if array.shape == (1, 4):
        array = array[0]
    if array.shape != (4,):
        raise PromptError(f"box must be 4 numbers (x0, y0, x1, y1), got shape {list(array.shape)}")
    x0, y0, x1, y1 = array.tolist()
    height, width = frame.original_size
    if x1 <= x0 or y1 <= y0:
        raise PromptError(f"box must have x0 < x1 and y0 < y1, got ({x0}, {y0}, {x1}, {y1})")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise PromptError(
            f"box must lie inside the image, 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}, "
            f"got ({x0}, {y0}, {x1}, {y1})"
        )
    _check_window(array[:2], array[2:], frame, "box")
    return array


def _check_window(starts: NDArray[np.float64], ends: NDArray[np.float64], frame: Frame, what: str) -> None:
    x0, y0, x1, y1 = frame.window
    if (starts < (x0, y0)).any() or (ends > (x1, y1)).any():
        raise PromptError(
            f"{what} must lie inside the window that was encoded, {frame.window}, "
            f"got {starts.tolist()} to {ends.tolist()}"
        )


def _check_mask(
    mask: ArrayLike | Result, frame: Frame, preprocessing: Preprocessing, mask_side: int
) -> NDArray[np.float32]:
    if isinstance(mask, Result):
        return _logits_of(mask, frame, mask_side)
    try:
        array = np.asarray(mask)
    except (TypeError, ValueError) as error:
        raise PromptError(f"mask prompt must be one array, got something that is none: {error}") from error
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    expected = (
        f"expected {list(frame.original_size)} bool or integers (the image's size), or low-res logits "
        f"[{mask_side}, {mask_side}] floats"
    )
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer):
        if array.shape != frame.original_size:
            raise PromptError(
                f"mask prompt of the wrong shape or dtype: {expected}; got {list(array.shape)} {array.dtype}"
            )
        share = preprocessing.apply_mask(array, frame, mask_side)
        return ((share * 2 - 1) * CERTAIN_LOGIT).astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating) or array.shape != (mask_side, mask_side):
        raise PromptError(f"mask prompt of the wrong shape or dtype: {expected}; got {list(array.shape)} {array.dtype}")
    if not np.isfinite(array).all():
        raise PromptError("mask prompt must be finite, got NaN or infinity")
    return array.astype(np.float32)


def _logits_of(result: Result, frame: Frame, mask_side: int) -> NDArray[np.float32]:
    if isinstance(result, SemanticResult):
        raise PromptError("a semantic result holds a mask for each class: give one of its `masks` as mask")
    logits = result.low_res_logits[result.best]
    if result.frame.original_size != frame.original_size or logits.shape != (mask_side, mask_side):
        raise PromptError(
            f"the result given as mask must be of an image of {list(frame.original_size)} and hold logits "
            f"[{mask_side}, {mask_side}], got {list(result.frame.original_size)} and {list(logits.shape)}"
        )
    return reframe_logits(logits, result.frame, frame, -CERTAIN_LOGIT)
