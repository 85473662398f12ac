"""The embeddings of the last images, so that a second prompt on the same image does not encode it again."""

import os
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import Final, Protocol

from samsdk.embedding import Embedding
from samsdk.io.dicom_spacing import Spacing
from samsdk.io.images import as_scan, image_key
from samsdk.io.scans import Scan
from samsdk.transforms import Window

# A user goes back and forth between a few images, and between a few objects of each; LiteMedSAM's are 4 MB each.
_KEPT: Final = 16


class Encode(Protocol):
    """`Predictor.encode`."""

    def __call__(self, image: object, *, window: Window | None = None) -> Embedding:
        """Encode an image or a window of it."""


class RecentEmbeddings:
    """Keeps the embeddings that were used last, by image and window; safe to share between threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, Window | None], Embedding] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: str, window: Window | None) -> Embedding | None:
        """The embedding of a window (None: the whole) of the image with this key, if it is kept."""
        with self._lock:
            found = self._kept.get((key, window))
            if found is not None:
                self._kept.move_to_end((key, window))
            return found

    def find_any(self, key: str) -> Embedding | None:
        """The embedding of any window of the image with this key, if one is kept."""
        with self._lock:
            return next((one for (name, _), one in self._kept.items() if name == key), None)

    def clear(self) -> None:
        """Let go of all embeddings."""
        with self._lock:
            self._kept.clear()

    def keep(self, key: str, window: Window | None, embedding: Embedding) -> None:
        """Keep an embedding; whoever finds it did not wait for it, so its timings are 0."""
        with self._lock:
            self._kept[key, window] = replace(embedding, timings={"preprocess": 0.0, "encode": 0.0})
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)


class ImageView:
    """One image whose windows can be encoded, each of them once as long as it is kept.

    Args:
        image: see `Predictor.encode`.
        encode: `Predictor.encode`.
        recent: where embeddings are kept.

    Raises:
        ImageError: the image cannot be read or used.
    """

    def __init__(self, image: object, encode: Encode, recent: RecentEmbeddings) -> None:
        self._stored = isinstance(image, (str, os.PathLike))
        # An encoded image is hashed as it is stored; anything else is checked before the hash, which would copy
        # whatever is no image.
        self._image = image if self._stored or isinstance(image, (bytes, bytearray)) else as_scan(image)
        self._key = image_key(self._image)
        self._scan: Scan | None = None
        self._encode = encode
        self._recent = recent

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        known = self._recent.find_any(self._key)
        if known:
            return known.frame.original_size
        height, width = self._read().pixels.shape[:2]
        return height, width

    @property
    def spacing(self) -> Spacing | None:
        """(x, y) millimetres a pixel, None if unknown."""
        return (self._recent.find_any(self._key) or self._read()).spacing

    def encode(self, window: Window | None) -> Embedding:
        """The embedding of a window of the image; None is the whole."""
        found = self._recent.find(self._key, window)
        if found:
            return found
        embedding = self._encode(self._read(), window=window)
        # A file that was replaced meanwhile: whose embedding this is, is not known.
        if not self._stored or image_key(self._image) == self._key:
            self._recent.keep(self._key, window, embedding)
        return embedding

    def _read(self) -> Scan:
        if self._scan is None:
            self._scan = as_scan(self._image)
        return self._scan
