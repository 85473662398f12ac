"""What systems are asked in the side-by-side benchmark: images, prompts, a click session, a stream.

With the labelled sets the images are real ones at their native sizes; without, they are those that scikit-image
carries. Prompts lie where nothing but the image's size decides, so that every system gets the same ones.
"""

from collections.abc import Iterator
from itertools import cycle, islice, zip_longest
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from samsdk.io.images import read_image
from samsdk_training.data import read_ids
from samsdk_training.set_folder import SetFolder, is_volume

Image = NDArray[Any]
Request = dict[str, Any]
PROMPT_COUNTS: Final = (1, 4, 16, 64)
CLICKS: Final = 10
# (height, width) of a chest radiograph.
RADIOGRAPH: Final = (3000, 2400)
_RADIOGRAPHS: Final = ("unlabeled", "xray_chest_hannover")


def reference_image() -> Image:
    """The image that all repeats are made on: a stained section, 512 x 512 RGB."""
    return np.asarray(skimage.data.immunohistochemistry())


def sized_images(data: Path | None) -> dict[str, Image]:
    """Images of other sizes by what they are; the largest is enlarged to a radiograph's size, which no set has."""
    if data is None:
        cell = np.asarray(skimage.data.cell())
        return {"cells, 550 x 660": cell, "cells, enlarged to 2400 x 3000": _enlarged(cell)}
    first = {name: _first(data / name) for name in ("nuclei_dsb2018", "us_hc18", "fundus_idrid")}
    chest = next(iter(sorted((data.joinpath(*_RADIOGRAPHS)).glob("*.jp*g"))))
    named = {f"{name}, {image.shape[1]} x {image.shape[0]}": image for name, image in first.items()}
    return {**named, "chest X-ray, enlarged to 2400 x 3000": _enlarged(read_image(chest))}


def stream_images(data: Path | None, count: int) -> Iterator[Image]:
    """Images one after the other as a device gets them: of each set in turn, at their native sizes."""
    if data is None:
        own = [np.asarray(image()) for image in (skimage.data.immunohistochemistry, skimage.data.cell)]
        yield from islice(cycle(own), count)
        return
    sets = [SetFolder(folder) for folder in sorted(data.iterdir()) if (folder / "images").is_dir()]
    ids = {one.path: _picture_ids(one) for one in sets}
    rounds = zip_longest(*([(one, name) for name in ids[one.path]] for one in sets))
    places = [place for together in rounds for place in together if place is not None]
    for one, name in islice(cycle(places), count):
        yield read_image(one.entry(name).image)


def box_prompts(size: tuple[int, int], count: int) -> Request:
    """Boxes on a grid over the image, each a tenth of it wide and high."""
    height, width = size
    side = int(np.ceil(np.sqrt(count)))
    across, down = width / 20, height / 20
    boxes = []
    for index in range(count):
        x, y = (0.5 + index % side) / side * width, (0.5 + index // side) / side * height
        boxes.append([max(x - across, 0), max(y - down, 0), min(x + across, width), min(y + down, height)])
    return {"boxes": boxes}


def click_session(size: tuple[int, int]) -> list[Request]:
    """Ten clicks of one user: each request has all clicks so far, and every third click says what is not meant."""
    height, width = size
    rng = np.random.default_rng(0)
    points, labels, session = [], [], []
    for number in range(CLICKS):
        outside = number % 3 == 2
        reach = 0.2 if outside else 0.05
        angle = rng.uniform(0, 2 * np.pi)
        place = width * (0.5 + reach * np.cos(angle)), height * (0.5 + reach * np.sin(angle))
        points.append([float(one) for one in place])
        labels.append(0 if outside else 1)
        session.append({"points": [list(points)], "labels": [list(labels)]})
    return session


def _picture_ids(one: SetFolder) -> list[str]:
    listed = "list.txt" if one.has_ids("list.txt") else "val.txt"
    return [name for name in read_ids(one.path, listed) if not is_volume(one.entry(name).image)]


def _first(folder: Path) -> Image:
    source = SetFolder(folder)
    return read_image(source.entry(_picture_ids(source)[0]).image)


def _enlarged(image: Image) -> Image:
    return np.asarray(cv2.resize(image, RADIOGRAPH[::-1], interpolation=cv2.INTER_CUBIC))
