"""A teacher's image embeddings on disk, computed once: one file an image, half precision."""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from samsdk.embedding import Embedding
from samsdk.io.atomic import atomic_write
from samsdk.transforms import Preprocessing
from samsdk_training.data import DataError
from samsdk_training.evaluation import Segmenter

FORMAT: Final = 1
TEACHER_FILE: Final = "teacher.json"
# Statistics of so many images, evenly drawn from the list, no longer change with more of them.
_STATISTICS_IMAGES: Final = 500
logger = logging.getLogger(__name__)


def cache_embeddings(
    teacher: Segmenter,
    images: Iterable[tuple[str, Path]],
    folder: str | os.PathLike[str],
    preprocessing: Preprocessing,
) -> int:
    """Encode images that are not in the cache yet.

    Args:
        teacher: encodes; its embeddings are [1, C, E, E].
        images: id and file of each; an id becomes a file name.
        folder: `<id>.npz` with `image_embeddings` [C, E, E] float16, `resized_size` (height, width) and `input_size`;
            and `teacher.json`. Made if it is missing; what lies in it is kept.
        preprocessing: the teacher's, for `teacher.json`.

    Returns:
        How many images were encoded now.

    Raises:
        DataError: the folder holds another teacher's embeddings, or an embedding does not fit half precision.
        ImageError: an image cannot be read.
    """
    root, encoded = Path(folder), 0
    root.mkdir(parents=True, exist_ok=True)
    for name, path in images:
        target = root / f"{name}.npz"
        if target.exists():
            continue
        embedding = teacher.encode(path)
        _check_teacher(root, embedding, preprocessing)
        values = embedding.image_embeddings[0]
        if np.abs(values).max() > np.finfo(np.float16).max:
            raise DataError(f"the embedding of {name} reaches {np.abs(values).max():.3g}, too much for half precision")
        with atomic_write(target) as file:
            np.savez(
                file,
                image_embeddings=values.astype(np.float16),
                resized_size=np.array(embedding.frame.resized_size),
                input_size=np.array(embedding.frame.input_size),
            )
        encoded += 1
        logger.info("%s: embedding cached (%d now)", name, encoded)
    return encoded


def _check_teacher(root: Path, embedding: Embedding, preprocessing: Preprocessing) -> None:
    rules = asdict(preprocessing)
    # An embedding does not depend on what the decoder takes as a mask.
    del rules["mask_prompt"]
    given: dict[str, Any] = {
        "format": FORMAT,
        "teacher": embedding.bundle,
        "shape": list(embedding.image_embeddings.shape[1:]),
        "input_size": embedding.frame.input_size,
        "preprocessing": rules,
    }
    path = root / TEACHER_FILE
    if not path.exists():
        with atomic_write(path) as file:
            file.write(json.dumps(given, indent=2).encode() + b"\n")
    found = _read_teacher(path)
    if found != given:
        differ = [key for key in given if found.get(key) != given[key]]
        raise DataError(f"{root} holds embeddings of {found.get('teacher')!r}; {', '.join(differ)} differ")


def _read_teacher(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read, so whose embeddings these are is not known: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} does not describe a cache of format {FORMAT}")
    return content


class EmbeddingCache:
    """Reads what `cache_embeddings` wrote.

    Args:
        folder: of the cache.

    Attributes:
        teacher: identity of the teacher.
        shape: (C, E, E) of each embedding.

    Raises:
        DataError: the folder is no cache.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        about = _read_teacher(self._folder / TEACHER_FILE)
        self.teacher: str = about["teacher"]
        self.shape: tuple[int, ...] = tuple(about["shape"])

    def require(self, names: Iterable[str]) -> None:
        """Make sure that each image has its embedding.

        Raises:
            DataError: some have none; the text names the first of them.
        """
        missing = [name for name in names if not (self._folder / f"{name}.npz").exists()]
        if missing:
            raise DataError(f"{self._folder} lacks {len(missing)} embeddings, among them {', '.join(missing[:5])}")

    def read(self, name: str) -> NDArray[np.float16]:
        """One image's embedding, [C, E, E] float16.

        Raises:
            DataError: it is missing, damaged or of another shape.
        """
        return self._read(name)[0]

    def statistics(self, names: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of each channel over cells that image fills at least in part, [C] float32.

        Args:
            names: at least one; of many only some hundred, evenly spaced, are read.
        """
        total, squares, count = np.zeros(self.shape[0]), np.zeros(self.shape[0]), 0
        for name in names[:: max(1, len(names) // _STATISTICS_IMAGES)]:
            embedding, (height, width) = self._read(name)
            cells = embedding[:, :height, :width].astype(np.float64).reshape(len(embedding), -1)
            total += cells.sum(axis=1)
            squares += np.square(cells).sum(axis=1)
            count += cells.shape[1]
        mean = total / count
        return mean.astype(np.float32), np.sqrt(np.maximum(squares / count - mean**2, 0)).astype(np.float32)

    def _read(self, name: str) -> tuple[NDArray[np.float16], tuple[int, int]]:
        path = self._folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as archive:
                embedding = archive["image_embeddings"]
                share = archive["resized_size"] / archive["input_size"]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        if embedding.shape != self.shape:
            raise DataError(f"{path}: expected an embedding of shape {self.shape}, got {embedding.shape}")
        height, width = np.ceil(share * self.shape[-1] - 1e-6).astype(int).tolist()
        return embedding, (height, width)


def valid_share(resized_size: tuple[int, int], input_size: int, side: int) -> NDArray[np.float32]:
    """Share of each cell of a side x side grid that image, not padding, fills.

    Args:
        resized_size: (height, width) of the image in the square, from its top left corner.
        input_size: side of the square, in the same pixels.
        side: of the grid.

    Returns:
        [side, side] float32, 0 to 1.
    """
    rows, columns = (np.clip(length * side / input_size - np.arange(side), 0, 1) for length in resized_size)
    return np.outer(rows, columns).astype(np.float32)
