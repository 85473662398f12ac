"""Pseudo-labels: what a teacher is sure of in unlabelled images becomes a labelled set that recipes can train on.

The teacher is prompted with proposed boxes, and an answer is kept only where independent signs agree that there is an
object: the mask hardly moves when the box does (in the spirit of the stability score of Kirillov et al., Segment
Anything, 2023), the teacher believes in it, it fills its box, it is one piece, and its border is seen in the image.
"""

import json
import logging
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.embedding import Embedding
from samsdk.intensity import to_uint8
from samsdk.io.atomic import atomic_write
from samsdk.io.images import as_array, write_png
from samsdk.masks import mask_iou
from samsdk_training.data import DataError, read_ids, read_set
from samsdk_training.evaluation import Segmenter
from samsdk_training.mask_selection import Candidate, MaskLimits, decode_boxes, instance_map, judge, suppress
from samsdk_training.proposals import ProposalConfig, propose_boxes
from samsdk_training.sheets import contact_sheet
from samsdk_training.simulate import jittered_box

FORMAT: Final = 1
ROWS_FILE: Final = "labels.jsonl"
CONFIG_FILE: Final = "config.json"
logger = logging.getLogger(__name__)
_NAME: Final = re.compile(r"[^\s/\\.][^\s/\\]*")
# Okabe and Ito's colours that stand out from grey scans and stains, RGB.
_COLOURS: Final = ((86, 180, 233), (240, 228, 66), (0, 158, 115), (213, 94, 0), (204, 121, 167), (230, 159, 0))


@dataclass(frozen=True)
class PseudoLabelConfig:
    """When a teacher's mask is believed.

    Attributes:
        proposals: where the teacher is asked.
        limits: what a mask must be like by itself.
        jitters: further boxes around a mask that passed these tests, to see whether it stays.
        jitter: standard deviation of their sides as a share of the box's sides, see `simulate.jittered_box`.
        stability: least mean IoU of the masks of those boxes with the mask itself.
        duplicate: of two masks with a larger IoU than this the better one is kept.
        covered: a mask that loses a larger share of its pixels to smaller ones on top of it is dropped.
    """

    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    limits: MaskLimits = field(default_factory=MaskLimits)
    jitters: int = 3
    jitter: float = 0.08
    stability: float = 0.85
    duplicate: float = 0.5
    covered: float = 0.3

    def __post_init__(self) -> None:
        if self.jitters < 1 or self.jitter <= 0:
            raise ValueError(f"jitters must be at least 1 and jitter above 0, got {self.jitters} and {self.jitter}")


@dataclass(frozen=True)
class PseudoLabelSummary:
    """What a folder holds: `images` asked, those `labelled`, `proposals`, `objects`, and why others were `rejected`."""

    images: int
    labelled: int
    proposals: int
    objects: int
    rejected: dict[str, int]


def label_images(
    teacher: Segmenter,
    images: Iterable[tuple[str, Path]],
    output: str | os.PathLike[str],
    config: PseudoLabelConfig,
    *,
    seed: int = 0,
) -> PseudoLabelSummary:
    """Let a teacher label images, or go on where an earlier call was interrupted; the outcome is the same.

    Args:
        teacher: takes boxes.
        images: id and file of each; an id becomes a file name and a line of `train.txt`.
        output: the folder: `images/`, `masks/` (16-bit instances), `train.txt` with the ids of images that kept an
            object, `labels.jsonl` with a row for each image (boxes as x0, y0, x1, y1 in pixels, exclusive at x1, y1),
            `config.json`, and `sheet.png` to look at before training on any of this.
        config: when a mask is believed.
        seed: of proposals and jitter; those of an image depend on its id, not on the other images.

    Returns:
        Counts over all rows of the folder.

    Raises:
        DataError: the folder holds labels of another teacher, configuration or seed, or is damaged; an id is given
            twice or is no file name.
        ImageError: an image cannot be read.
    """
    folder = Path(output)
    _open_folder(folder, {"format": FORMAT, "seed": seed, **asdict(config)})
    rows, seen = _read_rows(folder), set[str]()
    done = {row["id"] for row in rows}
    for name, path in images:
        if name in seen or not _NAME.fullmatch(name):
            raise DataError(f"an id must be a file name without spaces, and given once, got {name!r}")
        seen.add(name)
        if name in done:
            continue
        row = _label_image(teacher, name, path, folder, config, seed)
        if rows and rows[0]["teacher"] != row["teacher"]:
            raise DataError(f"{folder} holds labels of the teacher {rows[0]['teacher']}, got {row['teacher']}")
        with (folder / ROWS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        rows.append(row)
        logger.info("%s: %d of %d proposals kept (image %d)", name, len(row["objects"]), row["proposals"], len(rows))
    labelled = [row["id"] for row in rows if row["objects"]]
    with atomic_write(folder / "train.txt") as list_file:
        list_file.write("".join(f"{name}\n" for name in labelled).encode())
    if labelled:
        write_png(folder / "sheet.png", sheet(folder, np.random.default_rng(seed)))
    rejected = sum((Counter(row["rejected"]) for row in rows), Counter[str]())
    asked, objects = sum(row["proposals"] for row in rows), sum(len(row["objects"]) for row in rows)
    return PseudoLabelSummary(len(rows), len(labelled), asked, objects, dict(rejected))


def sheet(folder: str | os.PathLike[str], rng: np.random.Generator, count: int = 24) -> NDArray[np.uint8]:
    """Draw some of a set's images with the outline of each instance, as a contact sheet (RGB, uint8).

    Raises:
        DataError: the set is missing, malformed or empty.
    """
    names = read_ids(folder, "train.txt")
    if not names:
        raise DataError(f"{folder} has no labelled image to draw")
    drawn = {names[int(index)] for index in rng.permutation(len(names))[:count]}
    pictures, side = [], 320
    for one in read_set(folder, "train.txt"):
        if one.name not in drawn:
            continue
        scale = side / max(one.label.shape)
        size = tuple(max(1, round(length * scale)) for length in reversed(one.label.shape))
        grey_or_colour = cv2.resize(to_uint8(one.image, "uint8_or_minmax"), size, interpolation=cv2.INTER_AREA)
        picture = cv2.merge([grey_or_colour] * 3) if grey_or_colour.ndim == 2 else grey_or_colour
        for index, mask in enumerate(one.objects()):
            small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            contours, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, contours, -1, _COLOURS[index % len(_COLOURS)], 1)
        pictures.append(np.asarray(picture, dtype=np.uint8))
    nothing = [np.zeros(picture.shape[:2], dtype=np.bool_) for picture in pictures]
    return contact_sheet(pictures, nothing, columns=6, side=side)


def _label_image(
    teacher: Segmenter, name: str, path: Path, folder: Path, config: PseudoLabelConfig, seed: int
) -> dict[str, Any]:
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    image = to_uint8(as_array(path), "uint8_or_minmax")
    boxes = propose_boxes(image, config.proposals, rng)
    embedding = teacher.encode(image)
    rejected: Counter[str] = Counter()
    passed: list[Candidate] = []
    for box, answer in zip(boxes.tolist(), decode_boxes(teacher, embedding, boxes.tolist()), strict=True):
        found = judge(answer.mask, answer.score, tuple(box), image, config.limits)
        if isinstance(found, Candidate):
            passed.append(found)
        else:
            rejected[found] += 1
    # Suppressed before the jitter too, so that no prompts are spent on the same object twice.
    steady = _steady(teacher, embedding, suppress(passed, config.duplicate, rejected), config, rng, rejected)
    kept = suppress(steady, config.duplicate, rejected)
    if kept:
        label, kept = instance_map(kept, config.covered, rejected)
        write_png(folder / "images" / f"{name}.png", image)
        write_png(folder / "masks" / f"{name}.png", label)
    return {
        "id": name,
        "teacher": embedding.bundle,
        "proposals": len(boxes),
        "rejected": dict(sorted(rejected.items())),
        "objects": [one.to_dict() for one in kept],
    }


def _steady(
    teacher: Segmenter,
    embedding: Embedding,
    candidates: Sequence[Candidate],
    config: PseudoLabelConfig,
    rng: np.random.Generator,
    rejected: Counter[str],
) -> list[Candidate]:
    boxes = [jittered_box(one.mask, rng, config.jitter) for one in candidates for _ in range(config.jitters)]
    answers = iter(decode_boxes(teacher, embedding, boxes))
    steady = []
    for one in candidates:
        stability = float(np.mean([mask_iou(one.mask, next(answers).mask) for _ in range(config.jitters)]))
        if stability >= config.stability:
            steady.append(replace(one, stability=stability))
        else:
            rejected["unstable"] += 1
    return steady


def _open_folder(folder: Path, content: dict[str, Any]) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    path, given = folder / CONFIG_FILE, json.loads(json.dumps(content))
    if not path.exists():
        with atomic_write(path) as file:
            file.write(json.dumps(given, indent=2).encode() + b"\n")
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if found != given:
        differ = sorted(key for key in found.keys() | given.keys() if found.get(key) != given.get(key))
        raise DataError(f"{folder} was labelled with another {', '.join(differ)}; choose another folder")


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows so far; a last line that a kill cut off is removed from the file."""
    path = folder / ROWS_FILE
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        logger.warning("%s ends in an incomplete line, whose image is labelled again", path)
        with atomic_write(path) as file:
            file.write(whole)
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
