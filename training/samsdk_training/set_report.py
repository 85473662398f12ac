"""What `samsdk data check` says of a set: an object for programs, lines for people, both of bounded length."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

# So many rows of a table are worth reading; classes beyond them are counted.
_ROWS: Final = 40
_SIZES: Final = 5
TITLES: Final = {
    "empty": "no images: expected images/<id>.png and masks/<id>.png, or the like as .nii.gz or .npz",
    "one image": "one image only: nothing can be held back for validation",
    "no mask": "images without mask",
    "no image": "masks without image",
    "files": "files that do not fit together",
    "unreadable": "images or masks that cannot be read",
    "sizes": "masks of another size than their image",
    "not finite": "images with NaN or infinite values",
    "labels": "masks whose labels are fractions, negative or above 65535",
    "apart": "masks that lie elsewhere than their image",
    "unnamed": "labels that labels.json does not name, such as those above its number of classes",
    "no objects": "every mask is empty",
    "haze": "masks with a haze of labels along borders, as JPEG or smooth resizing leaves; save them as PNG from the "
    'source, resize by the nearest pixel; if each number is an object, set.json needs "instances": true',
    "lists": "lines of lists without image, or given twice",
    "in both": "ids in both train.txt and val.txt",
    "patients": "patients in both train.txt and val.txt",
    "duplicates": "images of train.txt and val.txt with the same pixels",
    "malformed": "files beside the images that cannot be used",
}
"""The kinds of problems, in the order in which they are told."""


@dataclass(frozen=True)
class Problem:
    """One kind of problem.

    Attributes:
        kind: a key of `TITLES`.
        count: how many images, ids or labels have it.
        names: of the first of them.
        text: a line for people.
    """

    kind: str
    count: int
    names: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class SetReport:
    """What a set holds.

    Attributes:
        images: ids, each an image or a volume.
        slices: images that training sees: slices of volumes count one by one.
        sizes: number of images (slices) by `height x width`.
        depths: number of ids by stored type, as `uint8`.
        channels: number of ids that are `grey`, `RGB`, or `RGB without colour`.
        values: smallest and largest value of all images; None without images.
        spacing: smallest and largest (down, across) in mm; None where no file says.
        instances: whether the masks number objects instead of classes.
        classes: by number: `name`, `images` (slices that show it), `objects` (8-connected components), `pixels` (share
            of all pixels); instances are one class, number 1.
        objects: `total`, and `least`, `median`, `most` in a labelled image (slice).
        unlabelled: images (slices) whose mask is empty.
        patients: how many; None where they are unknown.
        lists: for each list: `images` and `patients` (None where unknown).
        duplicates: groups of ids with the same pixels.
        notes: what is no problem but worth a look.
        problems: what is.
    """

    images: int = 0
    slices: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)
    depths: Mapping[str, int] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)
    values: tuple[float, float] | None = None
    spacing: tuple[tuple[float, float], tuple[float, float]] | None = None
    instances: bool = False
    classes: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    objects: Mapping[str, float] = field(default_factory=dict)
    unlabelled: int = 0
    patients: int | None = None
    lists: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    duplicates: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    problems: Sequence[Problem] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {**asdict(self), "classes": {str(number): dict(row) for number, row in self.classes.items()}}

    def text(self) -> str:
        """The report as lines."""
        lines = [f"{self.images} images" + (f", {self.slices} slices" if self.slices != self.images else "")]
        if self.values is not None:
            lines += self._pixels(self.values)
        lines += self._objects()
        if self.patients is not None:
            lines.append(f"{self.patients} patients")
        for name, row in self.lists.items():
            lines.append(
                f"{name}: {row['images']} images" + (f", {row['patients']} patients" if row["patients"] else "")
            )
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"PROBLEM: {problem.text}" for problem in self.problems]
        return "\n".join([*lines, "no problems" if not self.problems else f"{len(self.problems)} kinds of problems"])

    def _pixels(self, values: tuple[float, float]) -> list[str]:
        stored = [_counted(part) for part in (self.depths, self.channels)]
        lines = [
            f"sizes: {_counted(self.sizes)}",
            f"stored: {', '.join(stored)}, values {values[0]:g} to {values[1]:g}",
        ]
        if self.spacing is not None:
            (down, across), (most_down, most_across) = self.spacing
            lines.append(f"mm per pixel: {_range(down, most_down)} down, {_range(across, most_across)} across")
        return lines

    def _objects(self) -> list[str]:
        if not self.classes:
            return []
        count = len(self.classes)
        what = "objects" if self.instances else f"objects of {count} class{'es' if count > 1 else ''}"
        least, median, most = (self.objects[name] for name in ("least", "median", "most"))
        lines = [
            f"{self.objects['total']:g} {what}, {least:g} to {most:g} in an image (median {median:g}), "
            f"{self.unlabelled} images without any",
            f"  {'class':<28} {'images':>7} {'objects':>8} {'pixels':>8}",
        ]
        for number, row in list(self.classes.items())[:_ROWS]:
            name = f"{number} {row['name']}"[:28]
            lines.append(f"  {name:<28} {row['images']:>7} {row['objects']:>8} {row['pixels']:>8.3%}")
        return lines + ([f"  and {len(self.classes) - _ROWS} more"] if len(self.classes) > _ROWS else [])


def _counted(counts: Mapping[str, int]) -> str:
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [name if len(shown) == 1 else f"{name} ({count})" for name, count in shown[:_SIZES]]
    return ", ".join(parts) + (f" and {len(shown) - _SIZES} others" if len(shown) > _SIZES else "")


def _range(low: float, high: float) -> str:
    return f"{low:g}" if f"{low:g}" == f"{high:g}" else f"{low:g} to {high:g}"
