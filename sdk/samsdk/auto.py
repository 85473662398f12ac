"""Bundles that prompt themselves: the points that they pick for themselves, and the answers that tell them.

One set of points stands for all objects of the image, and one mask answers (Segment Any Cell, Na et al., 2024);
instances are parted afterwards. What a person adds goes before what the bundle picks.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.embedding import Embedding
from samsdk.errors import BundleError, OutputError
from samsdk.io.images import write_png
from samsdk.masks import Region
from samsdk.point_selection import PointSelection, select_points
from samsdk.prompts import CERTAIN_LOGIT, Prompt, check_points
from samsdk.results import Result
from samsdk.splitting import Splitting

# The decoder's graph takes 256 tokens, and points without a box are followed by one of padding.
_MOST_POINTS: Final = 255
_MOST_NUMBERS: Final = 2**16 - 1
Answer = Callable[[Sequence[Prompt]], list[Result]]


@dataclass(frozen=True)
class AutoPrompts:
    """How a bundle prompts itself: `selection` and `splitting` of the `prompts` of its manifest and checkpoint.

    Attributes:
        selection: how points are picked.
        splitting: how the mask is split into objects; None where they do not count.
    """

    selection: PointSelection
    splitting: Splitting | None = None

    @classmethod
    def of(cls, prompts: Mapping[str, Any]) -> "AutoPrompts":
        """Read what a manifest or a checkpoint says.

        Args:
            prompts: its field `prompts`.

        Raises:
            ValueError: the settings are missing or not valid, or points are not among the prompts.
        """
        for field in ("kinds", "trained"):
            kinds = prompts.get(field)
            if not isinstance(kinds, list) or "points" not in kinds:
                raise ValueError(f"prompts.{field} must name points, which it prompts itself with, got {kinds!r}")
        if "selection" not in prompts:
            raise ValueError("prompts.selection is missing: how it picks its points")
        splitting = prompts.get("splitting")
        return cls(
            PointSelection.from_dict(prompts["selection"]),
            None if splitting is None else Splitting.from_dict(splitting),
        )


@dataclass(frozen=True, eq=False)
class AutoResult(Result):
    """The answer of a bundle that prompts itself. Where it finds nothing, the mask is empty and its score is 0.

    Attributes:
        points: [K, 2], (x, y) in pixels of the image as given: all that were used, those that the user gave first.
        point_labels: [K], 1 for objects and 0 for background.
        splitting: how the bundle splits its mask into objects; None where it does not say.
    """

    points: NDArray[np.float64]
    point_labels: NDArray[np.float32]
    splitting: Splitting | None

    def instances(self, splitting: Splitting | None = None) -> NDArray[np.int32]:
        """The best mask split into its objects; see `Result.instances`.

        Args:
            splitting: how; None does as the bundle says.

        Raises:
            BundleError: the bundle does not say how.
        """
        how = splitting or self.splitting
        if how is None:
            raise BundleError(f"{self.bundle} does not say how objects are split: give a splitting")
        return super().instances(how)

    def save_instances(self, path: str | os.PathLike[str]) -> None:
        """Write the objects' numbers as a PNG of 16 bits, under a temporary name first.

        Raises:
            BundleError: the bundle does not say how objects are split.
            OutputError: there are more than 65,535 objects, or the file cannot be written.
        """
        numbers = self.instances()
        if numbers.max() > _MOST_NUMBERS:
            raise OutputError(
                f"cannot write {os.fspath(path)}: a PNG numbers at most {_MOST_NUMBERS} objects, got {numbers.max()}"
            )
        write_png(path, numbers.astype(np.uint16))

    def _summary(self) -> dict[str, Any]:
        labels = self.point_labels.astype(int).tolist()
        return {**super()._summary(), "points": self.points.tolist(), "point_labels": labels}

    def _arrays(self) -> dict[str, Any]:
        return {**super()._arrays(), "points": self.points, "point_labels": self.point_labels}


def prompts_itself(prompt: Prompt) -> bool:
    """Whether a bundle adds its own points to a prompt: a box or a mask says which object is meant, points do not."""
    return prompt.box is None and prompt.mask is None


def complete_prompt(prompt: Prompt, embedding: Embedding, selection: PointSelection) -> Prompt:
    """Add the bundle's own points to those that the user gave.

    Args:
        prompt: the user's; none of its points is dropped.
        embedding: of the image.
        selection: how points are picked.

    Returns:
        The prompt, its points [K, 2] with their labels; without any where neither the user nor the bundle has one.

    Raises:
        PromptError: the user's points are malformed or lie outside.
        BundleError: the embedding lacks the map of probabilities.
    """
    points, labels = check_points(prompt, embedding.frame)
    if prompts_itself(prompt):
        if embedding.point_probabilities is None:
            raise BundleError("the embedding does not say where points may go: encode the image again")
        found, marks = select_points(embedding.point_probabilities, embedding.frame, selection)
        room = max(_MOST_POINTS - len(points), 0)
        points, labels = np.concatenate([points, found[:room]]), np.concatenate([labels, marks[:room]])
    given = (points, labels) if len(points) else (None, None)
    return replace(prompt, points=given[0], labels=given[1])


def answer_alone(
    auto: AutoPrompts,
    embedding: Embedding,
    prompts: Sequence[Prompt],
    answer: Answer,
    nothing: Callable[[], Result],
) -> list[AutoResult]:
    """Answer prompts that the bundle completes.

    Args:
        auto: how.
        embedding: of the image.
        prompts: the user's; an empty one leaves all to the bundle.
        answer: answers prompts that are complete, in their order.
        nothing: the answer to a prompt for which there is nothing to point at, see `empty_result`.

    Raises:
        PromptError, BundleError: as `complete_prompt`.
    """
    complete = [complete_prompt(prompt, embedding, auto.selection) for prompt in prompts]
    answers = iter(answer([prompt for prompt in complete if prompt.kinds]))
    return [_told(next(answers) if prompt.kinds else nothing(), prompt, auto.splitting) for prompt in complete]


def _told(result: Result, prompt: Prompt, splitting: Splitting | None) -> AutoResult:
    points = np.zeros((0, 2)) if prompt.points is None else np.asarray(prompt.points, dtype=np.float64)
    labels = np.zeros(0, np.float32) if prompt.labels is None else np.asarray(prompt.labels, dtype=np.float32)
    same = {field.name: getattr(result, field.name) for field in fields(Result)}
    return AutoResult(**same, points=points, point_labels=labels, splitting=splitting)


def empty_result(embedding: Embedding, labels: Mapping[str, str], masks: int, side: int) -> Result:
    """The answer where there is nothing to point at: the decoder is not run.

    Args:
        embedding: of the image.
        labels: see `Result`.
        masks: how many masks were asked for.
        side: of the low-res logits.
    """
    nothing = Region(embedding.frame.original_size, 0, 0, np.zeros((0, 0), np.bool_))
    logits = np.full((masks, side, side), -CERTAIN_LOGIT, dtype=np.float32)
    timings = {**embedding.timings, "decode": 0.0, "postprocess": 0.0}
    return Result(
        (nothing,) * masks,
        np.zeros(masks, np.float32),
        logits,
        embedding.frame,
        labels,
        timings,
        embedding.provider,
        embedding.bundle,
    )
