"""What the tests of the export room share: labelled sets that are drawn here."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk.io.images import write_png

# (x, y, radius) of each disc; one tuple of discs an image.
Discs = Sequence[tuple[int, int, int]]
MakeSet = Callable[..., Path]


def disc(shape: tuple[int, int], x: int, y: int, radius: int) -> NDArray[np.bool_]:
    """The pixels within a radius of a centre."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


@pytest.fixture(scope="session")
def make_set() -> MakeSet:
    """Write a set of grey images, 96x128, with bright discs: each disc is an object."""

    def write(folder: Path, images: Sequence[Discs], *, list_name: str = "list.txt") -> Path:
        noise = np.random.default_rng(len(images))
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for index, discs in enumerate(images):
            label = np.zeros((96, 128), np.uint8)
            image = noise.normal(70, 12, label.shape)
            for number, (x, y, radius) in enumerate(discs, start=1):
                inside = disc(label.shape, x, y, radius)
                label[inside], image[inside] = number, image[inside] + 30 * number
            write_png(folder / "images" / f"{index}.png", np.clip(image, 0, 255).astype(np.uint8))
            write_png(folder / "masks" / f"{index}.png", label)
        (folder / list_name).write_text("".join(f"{index}\n" for index in range(len(images))))
        return folder

    return write
