"""Objects of a session: what was answered to each one's prompts, backwards and forwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from samsdk.io.dicom_spacing import Spacing
from samsdk.prompts import Prompt
from samsdk.results import Result
from samsdk.serve.problems import Refused

Measured = dict[str, Any]
"""Measurements as JSON: `measures`, and `stability` where prompts were moved."""


@dataclass(eq=False)
class Answer:
    """The answer to one prompt.

    Attributes:
        number: counted from 1 in its session.
        object: number of the object that it is about.
        result: what the model said.
        prompt: that it answers, in pixels; None where the model answered by itself, so that no prompt can be moved.
        milliseconds: that the answer took, all looks together.
        measured: what was measured of it last, by the (x, y) mm of a pixel and the number of moved prompts.
    """

    number: int
    object: int
    result: Result
    prompt: Prompt | None
    milliseconds: float
    measured: Mapping[tuple[Spacing | None, int], Measured] = field(default_factory=dict, repr=False)

    @property
    def results(self) -> list[Result]:
        """What it keeps in memory: its result, and the one that its prompt corrects, which others may keep too."""
        former = self.prompt.mask if self.prompt else None
        return [self.result, *([former] if isinstance(former, Result) else [])]

    def remember(self, spacing: Spacing | None, variations: int, found: Measured) -> None:
        """Keep a measurement in the place of former ones, but for the plain one with the same size of a pixel."""
        plain = self.measured.get((spacing, 0))
        kept = {} if plain is None else {(spacing, 0): plain}
        # A new mapping: threads may read the former one.
        self.measured = {**kept, (spacing, variations): found}


@dataclass(eq=False)
class TrackedObject:
    """One object of a session.

    Attributes:
        number: from 1 on.
        name: that the user gave it.
        answers: the last is the object's mask as it is.
        undone: the last is what `redo` brings back.
    """

    number: int
    name: str
    answers: list[Answer] = field(default_factory=list)
    undone: list[Answer] = field(default_factory=list)

    @property
    def current(self) -> Answer | None:
        """The object's mask as it is; None before the first and when all was undone."""
        return self.answers[-1] if self.answers else None

    def add(self, answer: Answer, most: int) -> None:
        """Take a new answer; what was undone is gone for good, and of more than `most` answers the oldest."""
        self.answers.append(answer)
        del self.answers[:-most]
        self.undone.clear()

    def undo(self) -> None:
        """Go back to the answer before.

        Raises:
            Refused: there is nothing to undo.
        """
        if not self.answers:
            raise Refused(409, "nothing_to_undo", f"object {self.number} has no answer to undo")
        self.undone.append(self.answers.pop())

    def redo(self) -> None:
        """Bring back what was undone last.

        Raises:
            Refused: nothing was undone since the last prompt.
        """
        if not self.undone:
            raise Refused(409, "nothing_to_redo", f"nothing of object {self.number} was undone since its last prompt")
        self.answers.append(self.undone.pop())

    def forget(self) -> None:
        """Let go of all answers but the present one."""
        del self.answers[:-1]
        self.undone.clear()
