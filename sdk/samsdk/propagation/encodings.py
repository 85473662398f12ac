"""The embeddings of a volume's planes: each made once, kept within a bound of memory, and made ahead of their use."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from samsdk.embedding import Embedding
from samsdk.transforms import Window

Place = tuple[int, Window | None]
"""A plane's index and the window of it that is encoded; None is all of it."""


class Encodings:
    """Embeddings by plane and window; safe to share between threads.

    Args:
        encode: encodes a window of a plane; called in this thread and in one other.
        most_bytes: of the embeddings that are kept; those that were used longest ago go first. The last one stays in
            any case.
    """

    def __init__(self, encode: Callable[[int, Window | None], Embedding], most_bytes: int) -> None:
        self._encode = encode
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Place, Embedding] = OrderedDict()
        self._bytes = 0
        self._coming: dict[Place, Future[Embedding]] = {}
        self._lock = threading.Lock()
        # One: an engine for the CPU takes all cores for one image.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="samsdk-encode")
        self.encoded = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes of the embeddings that are kept now."""
        return self._bytes

    def get(self, index: int, window: Window | None) -> Embedding:
        """The embedding of a window of a plane, which is waited for if it has to be made.

        Raises:
            BackendError: the engine failed.
        """
        with self._lock:
            found = self._kept.get((index, window))
            if found is not None:
                self._kept.move_to_end((index, window))
                return found
            coming = self._start((index, window))
        return coming.result()

    def prepare(self, index: int, window: Window | None) -> None:
        """Encode a window of a plane in the background, if that has not been done."""
        with self._lock:
            if (index, window) not in self._kept:
                self._start((index, window))

    def forget_coming(self) -> None:
        """Leave out what was to be prepared and has not been begun."""
        with self._lock:
            for place, future in list(self._coming.items()):
                if future.cancel():
                    del self._coming[place]

    def _start(self, place: Place) -> Future[Embedding]:
        """The embedding to come; called with the lock held, without which it might come and be kept meanwhile."""
        if place not in self._coming:
            self._coming[place] = self._worker.submit(self._make, place)
        return self._coming[place]

    def _make(self, place: Place) -> Embedding:
        try:
            embedding = self._encode(*place)
        except BaseException:
            # Whoever waits for it is told; whoever asks again has it tried again.
            with self._lock:
                del self._coming[place]
            raise
        with self._lock:
            del self._coming[place]
            self._kept[place] = embedding
            self._bytes += _size(embedding)
            self.encoded += 1
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
        return embedding


def _size(embedding: Embedding) -> int:
    probabilities = embedding.point_probabilities
    return sum(tensor.nbytes for tensor in embedding.tensors.values()) + (
        0 if probabilities is None else probabilities.nbytes
    )
