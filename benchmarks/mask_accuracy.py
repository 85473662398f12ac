"""Dice of whatever answers the peer protocol, by the very code that evaluates bundles."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peers.protocol import read_masks
from samsdk_training.data import read_set
from samsdk_training.evaluation import Segmenter, evaluate_images
from samsdk_training.set_folder import SetFolder, is_volume
from workloads import Request

Ask = Callable[[Request], dict[str, Any]]
PROMPTS: Final = ("box", "point1", "point3", "point5")


@dataclass(frozen=True, eq=False)
class Answer:
    """A mask [H, W] bool; what the protocol does not tell is unknown."""

    mask: NDArray[np.bool_]
    score: float = float("nan")


class WorkerSegmenter:
    """A worker behind the two methods that evaluation asks.

    Args:
        ask: asks the worker.
        folder: for the images and masks that go to and fro.
    """

    def __init__(self, ask: Ask, folder: Path) -> None:
        self._ask, self._image, self._masks = ask, folder / "image.npy", folder / "masks.npz"

    def encode(self, image: NDArray[Any], *, window: None = None) -> None:
        """Encode an image, which stays the worker's current one."""
        np.save(self._image, image)
        self._ask({"do": "encode", "image": str(self._image)})

    def decode(self, embedding: None, *, points: Any, labels: Any, box: ArrayLike | None, mask: None) -> Answer:
        """Answer one prompt on the image that was encoded last."""
        if box is not None:
            prompt: Request = {"boxes": [np.asarray(box, float).tolist()]}
        else:
            prompt = {"points": [np.asarray(points, float).tolist()], "labels": [np.asarray(labels).tolist()]}
        self._ask({"do": "decode", **prompt, "save": str(self._masks)})
        return Answer(read_masks(self._masks)[0])


def measure_accuracy(ask: Ask, data: Path, sets: int, images: int, objects: int) -> dict[str, Any]:
    """Dice after a tight box and after clicks, on sets of 8-bit pictures.

    Args:
        ask: asks a worker that has loaded.
        data: folder of sets.
        sets: how many of them at most, spread over all in the order of their names.
        images: of each set, the first so many of `val.txt`, or of the last third of `list.txt`.
        objects: of each image at most.

    Returns:
        `sets`: Dice by prompt and the number of objects of each; `dice`: the mean over sets.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        segmenter = WorkerSegmenter(ask, Path(folder))
        known = list(_sets(data))
        for name, pictures in known[:: -(-len(known) // sets)]:
            scores = list(
                evaluate_images(
                    cast(Segmenter, segmenter),
                    islice(pictures, images),
                    prompts=PROMPTS,
                    max_objects=objects,
                    feed_mask=False,
                )
            )
            if scores:
                means = {prompt: float(np.mean([one.dice[prompt] for one in scores])) for prompt in PROMPTS}
                found[name] = {"objects": len(scores), "dice": means}
    means = {prompt: float(np.mean([one["dice"][prompt] for one in found.values()])) for prompt in PROMPTS}
    return {"images_per_set": images, "objects_per_image": objects, "dice": means, "sets": found}


def _sets(data: Path) -> Iterator[tuple[str, Iterator[Any]]]:
    for folder in sorted(data.iterdir()):
        if not (folder / "images").is_dir():
            continue
        source = SetFolder(folder)
        listed = "val.txt" if source.has_ids("val.txt") else "list.txt"
        ids = source.ids(listed)
        if not ids or is_volume(source.entry(ids[0]).image):
            continue
        # What taught the default model: the first two thirds of a set without lists of its own.
        yield source.path.name, read_set(folder, listed, slice(len(ids) * 2 // 3 if listed == "list.txt" else 0, None))
