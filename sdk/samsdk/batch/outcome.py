"""What became of one file of a run, and of each object in it."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

STATES: Final = ("done", "failed", "skipped")
DONE, FAILED, SKIPPED = STATES
Stamp = tuple[int, int]


@dataclass(frozen=True)
class ObjectRow:
    """One object of a file: a prompt's answer, a class of a label map, or why there is none.

    Attributes:
        name: of the object, the class, or empty where nothing is known of the file.
        state: `done`, `failed` or `skipped`.
        error: kind of error of one that failed, else None.
        message: what went wrong, or why it was skipped; without any path.
        seconds: that it took; reading and encoding the file counts for its first object.
        score: the model's own estimate of its mask; None of classes.
        area: pixels of the mask.
        box: (x0, y0, x1, y1) of the mask in pixels, x1 and y1 exclusive; None of an empty one.
        spacing: (x, y) millimetres a pixel, of volumes (x, y, z); None if unknown.
        instances: number of objects that the mask was split into, where the bundle says how; or that were found without
            a prompt.
        instances_cut: number of those found without a prompt that the image's border cuts.
        voxels: of a class of a volume.
        ml: volume of a class of a volume in millilitres.
        measurements: name with unit to value, where it was measured.
        mask: path of its mask within the run's folder.
    """

    name: str
    state: str = DONE
    error: str | None = None
    message: str | None = None
    seconds: float = 0.0
    score: float | None = None
    area: int | None = None
    box: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    instances: int | None = None
    instances_cut: int | None = None
    voxels: int | None = None
    ml: float | None = None
    measurements: dict[str, float] = field(default_factory=dict)
    mask: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        file: its name relative to the folder, with `/`.
        rows: of its objects; exactly one where the file itself failed or was skipped.
        outputs: what was written for it, relative to the run's folder.
        stamp: size and time of change (ns) of the file that was segmented, to see that it was replaced; None if there
            is no such file.
        bundle: name and content hash of the bundle; empty where it was not asked.
        provider: the execution provider that ran it; empty where none did.
    """

    file: str
    rows: tuple[ObjectRow, ...]
    outputs: tuple[str, ...] = ()
    stamp: Stamp | None = None
    bundle: str = ""
    provider: str = ""

    @property
    def state(self) -> str:
        """`failed` if one of its objects failed, else `skipped` if it was, else `done`."""
        states = {row.state for row in self.rows}
        return FAILED if FAILED in states else SKIPPED if SKIPPED in states else DONE

    @classmethod
    def skip(cls, file: str, message: str) -> "Outcome":
        """Of a file that is not for this run; `message` says why."""
        return cls(file, (ObjectRow("", SKIPPED, message=message),))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Outcome":
        """Read what `to_dict` gave.

        Raises:
            TypeError, KeyError, ValueError, AttributeError: it is something else.
        """
        if set(values) != {one.name for one in fields(cls)} or not values["rows"]:
            raise ValueError("this is not an outcome")
        rows = tuple(_row(row) for row in values["rows"])
        stamp = values["stamp"] and (int(values["stamp"][0]), int(values["stamp"][1]))
        return cls(**{**values, "rows": rows, "outputs": tuple(values["outputs"]), "stamp": stamp})


def _row(values: dict[str, Any]) -> ObjectRow:
    lists = {name: tuple(values[name]) for name in ("box", "spacing") if values[name] is not None}
    return ObjectRow(**{**values, **lists})
