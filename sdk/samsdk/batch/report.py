"""The report of a run: what is done, and what failed and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from samsdk.batch.outcome import DONE, FAILED, SKIPPED, Outcome


@dataclass(frozen=True)
class BatchReport:
    """What became of a run.

    Attributes:
        outcomes: of all files, those of earlier runs in the same folder included, by name.
        fresh: number of files that this run did.
        seconds: that this run took.
        bundle: name and content hash of the bundle.
        written: the files of the table, relative to the run's folder.
    """

    outcomes: Sequence[Outcome]
    fresh: int
    seconds: float
    bundle: str
    written: Sequence[str]

    @property
    def failed(self) -> list[Outcome]:
        """The files of which something failed."""
        return self._of(FAILED)

    @property
    def done(self) -> list[Outcome]:
        """The files that are done."""
        return self._of(DONE)

    @property
    def skipped(self) -> list[Outcome]:
        """The files that were not for the run."""
        return self._of(SKIPPED)

    def _of(self, state: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.state == state]

    def failures(self) -> list[dict[str, Any]]:
        """Each object that failed, with the kind of error and its text."""
        return [
            {"file": outcome.file, "object": row.name, "error": row.error, "message": row.message}
            for outcome in self.failed
            for row in outcome.rows
            if row.state == FAILED
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "files": len(self.outcomes),
            "done": len(self.done),
            "failed": len(self.failed),
            "skipped": len(self.skipped),
            "fresh": self.fresh,
            "objects": sum(row.state == DONE for outcome in self.outcomes for row in outcome.rows),
            "seconds": round(self.seconds, 3),
            "bundle": self.bundle,
            "providers": sorted({outcome.provider for outcome in self.outcomes if outcome.provider}),
            "table": list(self.written),
            "failures": self.failures(),
            "skips": [{"file": outcome.file, "message": outcome.rows[0].message} for outcome in self.skipped],
        }
