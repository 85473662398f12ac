"""Objects of a session: what was answered to each one's prompts, backwards and forwards."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from samsdk.io.dicom_spacing import Spacing
from samsdk.results import Result
from samsdk.serve.problems import Refused


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to one prompt.

    Attributes:
        number: counted from 1 in its session.
        object: number of the object that it is about.
        result: what the model said.
        milliseconds: that the answer took, all looks together.
        measured: what was measured of it already, by the (x, y) mm of a pixel.
    """

    number: int
    object: int
    result: Result
    milliseconds: float
    measured: dict[Spacing | None, list[dict[str, Any]]] = field(default_factory=dict, repr=False)

    @cached_property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return int(self.result.low_res_logits.nbytes + sum(region.inside.nbytes for region in self.result.regions))


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
