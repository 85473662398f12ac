"""Synthetic images on disk, in the plain layout of labelled images, with a contact sheet to look at."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from samsdk.errors import OutputError
from samsdk.io.atomic import atomic_folder
from samsdk.io.images import write_png
from samsdk_training.set_folder import LABELS_FILE
from samsdk_training.sheets import contact_sheet
from samsdk_training.synthesis.synthesiser import Synthesiser, SyntheticImage

RECORD_FILE: Final = "synthesis.json"
SHEET_FILE: Final = "sheet.png"
_SHOWN: Final = 16  # images on the sheet of a folder
_CELLS: Final = 4  # of one image: exemplar, background, synthetic image without and with its outlines


def write_synthetic_set(
    synthesiser: Synthesiser, output: str | os.PathLike[str], count: int, classes: Mapping[int, str] | None = None
) -> list[str]:
    """Write the first images of a stream as a set of labelled images.

    Beside `images/`, `masks/`, `list.txt` and `labels.json` there is `synthesis.json`, with all that made the images
    and the origin of each, and `sheet.png`.

    Args:
        synthesiser: its images 0 to `count` - 1 are written.
        output: the new set's folder, which must not exist, or be empty.
        count: of images, at least 1.
        classes: names by id, for `labels.json`; None names those that occur by their numbers.

    Returns:
        The ids of the images.

    Raises:
        ValueError: `count` is not positive.
        OutputError: the folder holds something, or the system refuses the write.
    """
    if count < 1:
        raise ValueError(f"expected at least 1 image, got {count}")
    target = Path(output)
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise OutputError(f"{os.fspath(output)!r} exists and is no empty folder; choose another one")
    origins: dict[str, dict[str, str | None]] = {}
    found: set[int] = set()
    digits = max(4, len(str(count - 1)))
    with atomic_folder(target) as root:
        for kind in ("images", "masks"):
            (root / kind).mkdir()
        for index in range(count):
            name, made = f"synthetic_{index:0{digits}d}", synthesiser.sample(index)
            write_png(root / "images" / f"{name}.png", made.image)
            write_png(root / "masks" / f"{name}.png", made.label)
            origins[name] = {"exemplar": made.exemplar, "background": made.background}
            found |= set(np.unique(made.label).tolist()) - {0}
        (root / "list.txt").write_text("\n".join(origins) + "\n", encoding="utf-8")
        names = {value: f"class {value}" for value in sorted(found)} if classes is None else classes
        _write_json(root / LABELS_FILE, {str(value): name for value, name in names.items()})
        record = {
            "config": synthesiser.config.to_dict(),
            "seed": synthesiser.seed,
            "intensity": synthesiser.intensity,
            "exemplars": synthesiser.exemplars,
            "images": origins,
        }
        _write_json(root / RECORD_FILE, record)
        write_png(root / SHEET_FILE, synthesis_sheet(synthesiser, min(count, _SHOWN)))
    return list(origins)


def synthesis_sheet(
    synthesiser: Synthesiser, count: int, *, first: int = 0, side: int = 160, across: int = 2
) -> NDArray[np.uint8]:
    """Show where synthetic images come from: for each, its exemplar, its background, itself, itself with outlines.

    Args:
        synthesiser: of the images.
        count: how many of them.
        first: the number of the first.
        side: of a cell, pixels.
        across: images in a row of the sheet.

    Returns:
        [h, w, 3] RGB, uint8.
    """
    cells: list[NDArray[np.uint8]] = []
    for index in range(first, first + count):
        made = synthesiser.sample(index)
        background = made.background or made.exemplar
        cells += [
            _outlined(synthesiser.exemplar(made.exemplar), side),
            _fitted(synthesiser.background(background), side),
            _fitted(made.image, side),
            _outlined(made, side),
        ]
    empty = [np.zeros(cell.shape[:2], dtype=np.bool_) for cell in cells]
    return contact_sheet(cells, empty, columns=_CELLS * min(across, count), side=side)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _fitted(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = (max(1, round(length * side / max(image.shape[:2]))) for length in image.shape[:2])
    # Nearest enlarges: what one pixel shows must be seen as one pixel.
    mode = cv2.INTER_AREA if side < max(image.shape[:2]) else cv2.INTER_NEAREST_EXACT
    return np.asarray(cv2.resize(image, (width, height), interpolation=mode), dtype=np.uint8)


def _outlined(made: SyntheticImage, side: int) -> NDArray[np.uint8]:
    """The image at its cell's size, the outermost pixels of each class in a colour of its own."""
    cell = _fitted(made.image, side)
    cell = np.repeat(cell[..., None], 3, axis=2) if cell.ndim == 2 else np.ascontiguousarray(cell)
    size = (cell.shape[1], cell.shape[0])
    label = np.asarray(cv2.resize(made.label, size, interpolation=cv2.INTER_NEAREST_EXACT))
    for value in np.unique(label[label > 0]):
        contours, _ = cv2.findContours((label == value).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(cell, contours, -1, _colour(int(value)), 1)
    return cell


def _colour(value: int) -> tuple[int, int, int]:
    # Steps of the golden angle around the hues (0 to 179 in OpenCV): neighbouring classes differ most.
    hue = round((value - 1) * 68.75) % 180
    red, green, blue = cv2.cvtColor(np.array([[[hue, 230, 255]]], dtype=np.uint8), cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue
