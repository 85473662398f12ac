"""A look at every image of a set: what they hold, counted, and what is wrong with each."""

import hashlib
from collections import Counter, defaultdict
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk_training.entries import Stored, find_fault, holds_instances, read_entry, whole_labels
from samsdk_training.set_folder import LABELS_FILE, NPZ_SUFFIX, DataError, Entry, SetFolder

# So many labels of a mask must lie in lines thinner than 3 pixels, and be most of its labels, to be a haze.
_HAZE: Final = 4


def has_haze(label: NDArray[np.uint8]) -> bool:
    """Whether labels blur into each other at borders, as in a mask that was a JPEG or resized smoothly.

    Args:
        label: [H, W] class numbers.

    Returns:
        True if most of its numbers, and several, nowhere fill a block of 3 x 3 pixels.
    """
    block = np.ones((3, 3), dtype=np.uint8)
    solid = label[cv2.erode(label, block) == cv2.dilate(label, block)]
    every = np.unique(label)
    thin = len(np.setdiff1d(every, solid))
    return thin >= _HAZE and 2 * thin > len(every)


class Survey:
    """What is gathered from one id after the other.

    Attributes:
        problems: for each kind (`set_report.TITLES`) the names that have it, each with what was found.
        notes: ids by what is no problem but worth a look.
        digests: ids by the hash of their pixels.
    """

    def __init__(self, source: SetFolder) -> None:
        self.problems: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.notes: defaultdict[str, list[str]] = defaultdict(list)
        self.digests: defaultdict[str, list[str]] = defaultdict(list)
        self._source = source
        self._sizes: Counter[str] = Counter()
        self._depths: Counter[str] = Counter()
        self._channels: Counter[str] = Counter()
        self._values: list[tuple[float, float]] = []
        self._spacings: list[tuple[float, float]] = []
        self._classes: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._objects: list[int] = []
        self._pixels = 0
        self._instances = False
        try:
            self._names = source.class_names()
        except DataError as error:
            self._names = {}
            self.add("malformed", LABELS_FILE, str(error))

    @property
    def labels(self) -> list[int]:
        """Numbers in the masks; instances are number 1."""
        return sorted(self._classes)

    @property
    def masks(self) -> int:
        """How many masks (slices) were looked at."""
        return len(self._objects)

    def add(self, kind: str, name: str, found: str = "") -> None:
        """Note a problem; of several of one kind with one name the first."""
        self.problems[kind].setdefault(name, found)

    def look(self, name: str) -> None:
        """Read one id: what it holds, and what is wrong with it."""
        first = self._source.images[name][0]
        if name not in self._source.masks and not first.name.lower().endswith(NPZ_SUFFIX):
            self.add("no mask", name)
            return
        try:
            entry = self._source.entry(name)
        except DataError as error:
            self.add("files", name, str(error))
            return
        try:
            stored = read_entry(entry, self._source.settings.axis)
        except DataError as error:
            self.add("unreadable", name, str(error))
            return
        fault = find_fault(stored)
        if fault:
            self.add(fault.kind, name, fault.text)
        self._measure(name, stored, fault is None or fault.kind != "not finite")
        if fault is None:
            self._count(entry, stored)

    def facts(self) -> dict[str, Any]:
        """The fields of a `SetReport` that images and masks alone tell."""
        lows, highs = zip(*self._values, strict=True) if self._values else ((), ())
        spacing = np.array(self._spacings)
        counts = [count for count in self._objects if count] or [0]
        return {
            "images": len(self._source.images),
            "slices": sum(self._sizes.values()),
            "sizes": dict(self._sizes.most_common()),
            "depths": dict(self._depths.most_common()),
            "channels": dict(self._channels.most_common()),
            "values": (min(lows), max(highs)) if lows else None,
            "spacing": (_pair(spacing.min(axis=0)), _pair(spacing.max(axis=0))) if self._spacings else None,
            "instances": self._instances,
            "classes": {number: self._class(number) for number in self.labels},
            "objects": {
                "total": sum(self._objects),
                "least": min(counts),
                "median": float(np.median(counts)),
                "most": max(counts),
            },
            "unlabelled": self._objects.count(0),
        }

    def _class(self, number: int) -> dict[str, Any]:
        row = self._classes[number]
        return {
            "name": "instances" if self._instances else self._names.get(number, ""),
            "images": row["images"],
            "objects": row["objects"],
            "pixels": row["pixels"] / self._pixels,
        }

    def _measure(self, name: str, stored: Stored, finite: bool) -> None:
        image, slices = stored.values, len(stored.planes or (name,))
        height, width = image.shape[1:3] if stored.planes else image.shape[:2]
        self._sizes[f"{height}x{width}"] += slices
        self._depths[stored.dtype] += 1
        grey = stored.planes is not None or image.ndim == 2
        colourless = not grey and bool((image == image[..., :1]).all())
        self._channels["grey" if grey else "RGB without colour" if colourless else "RGB"] += 1
        if finite:
            self._values.append((float(image.min()), float(image.max())))
        if stored.spacing is not None:
            self._spacings.append(stored.spacing)
        if not stored.oriented:
            self.notes["volumes do not say how the patient lies; their axes are taken for x, y and z"].append(name)
        digest = hashlib.blake2b(f"{image.dtype}{image.shape}".encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image).data)
        self.digests[digest.hexdigest()].append(name)

    def _count(self, entry: Entry, stored: Stored) -> None:
        labels = whole_labels(stored.labels)
        instances = holds_instances(entry, stored, self._source.settings)
        self._instances = self._instances or instances
        if entry.mask is not None and entry.mask.suffix.lower() in (".jpg", ".jpeg"):
            self.notes["masks are JPEG files, which do not keep label numbers exactly"].append(entry.name)
        if stored.planes is None and not instances and labels.dtype == np.uint8 and has_haze(labels.view(np.uint8)):
            self.add("haze", entry.name, f"{len(np.unique(labels))} label numbers")
        for label in labels if stored.planes else labels[None]:
            self._pixels += label.size
            numbers, pixels = np.unique(label[label > 0], return_counts=True)
            if instances:
                rows = [(1, len(numbers), int(pixels.sum()))] if len(numbers) else []
            else:
                rows = [
                    (int(number), cv2.connectedComponents((label == number).astype(np.uint8), connectivity=8)[0] - 1, n)
                    for number, n in zip(numbers, pixels.tolist(), strict=True)
                ]
            for number, objects, area in rows:
                self._classes[number].update(images=1, objects=objects, pixels=area)
                if self._names and not instances and number not in self._names:
                    self.add("unnamed", str(number), f"in {entry.name}")
            self._objects.append(sum(objects for _, objects, _ in rows))


def _pair(sizes: NDArray[np.floating]) -> tuple[float, float]:
    return float(sizes[0]), float(sizes[1])
