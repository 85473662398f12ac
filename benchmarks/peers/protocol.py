"""The worker's side of the peer protocol: one JSON object a line on stdin, one JSON line on stdout.

A worker runs in its peer's own environment, so this module needs the standard library and NumPy only. Requests:

    {"do": "load", "threads": N or null, ...}     answers what is timed and what is not, and `load_ms`
    {"do": "encode", "image": PATH.npy}           answers `ms`: preprocessing and the encoder; the embedding is kept
    {"do": "decode", "boxes": [[x0, y0, x1, y1], ...]} or
    {"do": "decode", "points": [[[x, y], ...], ...], "labels": [[1, ...], ...]}
                                                  answers `ms`: all prompts, up to boolean masks of the image's size,
                                                  and `batched`; with "save": PATH.npz the masks are kept, untimed
    {"do": "clients", "clients": N, "requests": M, "image": PATH.npy, ...as decode}
                                                  answers `ms` of each request, `seconds` of all together and `locked`:
                                                  N threads encode and decode, M times in all, each time another image
    {"do": "memory"}                              answers `peak_memory_mb` and `resident_mb`, which it is now
    {"do": "end"}

Coordinates are (x, y) in pixels of the image as given; a box's x1 and y1 are exclusive. Whatever goes wrong is answered
as {"error": TEXT}.
"""

import json
import os
import re
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

# What every `load` answers, so that no row of the table lacks it.
ABOUT = ("name", "version", "weights", "timed", "excluded")


@dataclass(frozen=True)
class Prompts:
    """Prompts of one kind for one image.

    Attributes:
        boxes: [P, 4], (x0, y0, x1, y1); None for points.
        points: one [K, 2] of (x, y) a prompt; empty for boxes.
        labels: one [K] a prompt, 1 for the object and 0 for what is not.
    """

    boxes: NDArray[np.float64] | None
    points: tuple[NDArray[np.float64], ...] = ()
    labels: tuple[NDArray[np.int64], ...] = ()

    def __len__(self) -> int:
        return len(self.points) if self.boxes is None else len(self.boxes)


@dataclass(frozen=True)
class Decoded:
    """What a decoder answers.

    Attributes:
        masks: one [H, W] bool a prompt, of the image's size.
        batched: whether the prompts shared one call of the decoder.
    """

    masks: Sequence[NDArray[np.bool_]]
    batched: bool


class Peer(ABC):
    """One system that segments: what its worker script implements."""

    # A peer that reads images of any kind itself does so within the time that is taken.
    reads_any_image = False
    # Whether several threads may call `answer` at once; a predictor that holds one image must not be shared.
    thread_safe = False

    @abstractmethod
    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Import the libraries and load the model; gives all of `ABOUT`."""

    @abstractmethod
    def encode(self, image: NDArray[Any]) -> None:
        """Preprocess and encode an image, [H, W, 3] uint8 RGB, and keep what `decode` needs of it."""

    @abstractmethod
    def decode(self, prompts: Prompts) -> Decoded:
        """Answer prompts on the image that was encoded last, the way that the peer's own interface does."""

    def answer(self, image: NDArray[Any], prompts: Prompts) -> Decoded:
        """Encode an image and answer prompts on it."""
        self.encode(image)
        return self.decode(prompts)


def serve(peer: Peer) -> int:
    """Answer requests until the end or until nobody asks any more; gives the exit status."""
    answers = _claim_stdout()
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if request["do"] == "end":
                return 0
            answer = _answer(peer, request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def _claim_stdout() -> TextIO:
    """The real stdout, for answers alone: what libraries print, in Python or in C, goes to stderr from here on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)
    return answers


def _answer(peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    kind = request["do"]
    if kind == "load":
        return _load(peer, request)
    if kind == "encode":
        image = _read_image(peer, request)
        start = time.perf_counter()
        peer.encode(image)
        return {"ms": _since(start)}
    if kind == "decode":
        prompts = read_prompts(request)
        start = time.perf_counter()
        decoded = peer.decode(prompts)
        ms = _since(start)
        if "save" in request:
            save_masks(Path(request["save"]), decoded.masks)
        return {"ms": ms, "batched": decoded.batched}
    if kind == "clients":
        return _clients(peer, request)
    if kind == "memory":
        return {"peak_memory_mb": peak_memory_mb(), "resident_mb": resident_mb()}
    raise ValueError(f"expected load, encode, decode, clients, memory or end, got {kind!r}")


def _read_image(peer: Peer, request: Mapping[str, Any]) -> NDArray[Any]:
    image = np.load(request["image"], allow_pickle=False)
    return image if peer.reads_any_image else as_rgb(image)


def _clients(peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    image, prompts = _read_image(peer, request), read_prompts(request)
    alone = nullcontext() if peer.thread_safe else threading.Lock()

    def ask(number: int) -> float:
        own = image.copy()
        # Another image for whoever recognises those that it has seen.
        own.flat[0] = number % 256
        start = time.perf_counter()
        with alone:
            peer.answer(own, prompts)
        return _since(start)

    start = time.perf_counter()
    with ThreadPoolExecutor(request["clients"]) as pool:
        times = list(pool.map(ask, range(request["requests"])))
    return {"ms": times, "seconds": time.perf_counter() - start, "locked": not peer.thread_safe}


def _load(peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    threads = request.get("threads")
    if threads is not None:
        # OpenMP reads it when a library brings it, which is in `load`.
        os.environ["OMP_NUM_THREADS"] = str(threads)
    start = time.perf_counter()
    about = peer.load(request)
    missing = [name for name in ABOUT if name not in about]
    if missing:
        raise ValueError(f"the worker does not say {', '.join(missing)}")
    return {"ok": True, **about, "load_ms": _since(start)}


def read_prompts(request: Mapping[str, Any]) -> Prompts:
    """The prompts of a `decode` request.

    Raises:
        ValueError: there are boxes and points, or none of them, or their shapes do not fit.
    """
    if ("boxes" in request) == ("points" in request):
        raise ValueError("expected either boxes or points")
    if "boxes" in request:
        return Prompts(np.asarray(request["boxes"], dtype=np.float64).reshape(-1, 4))
    points = tuple(np.asarray(some, dtype=np.float64).reshape(-1, 2) for some in request["points"])
    labels = tuple(np.asarray(some, dtype=np.int64).reshape(-1) for some in request["labels"])
    if [len(some) for some in points] != [len(some) for some in labels]:
        raise ValueError("expected a label for each point")
    return Prompts(None, points, labels)


def as_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image as every peer takes it: [H, W, 3] uint8; a grey one is repeated.

    Raises:
        ValueError: it is neither grey nor RGB, or not uint8.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"expected uint8 [H, W] or [H, W, 3], got {image.dtype} {list(image.shape)}")
    return np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2))


def save_masks(path: Path, masks: Sequence[NDArray[np.bool_]]) -> None:
    """Keep masks, [P, H, W] bool, as packed bits."""
    stacked = np.stack(masks).astype(bool)
    np.savez(path, bits=np.packbits(stacked), shape=np.asarray(stacked.shape))


def read_masks(path: Path) -> NDArray[np.bool_]:
    """The masks that a worker saved, [P, H, W] bool."""
    with np.load(path, allow_pickle=False) as kept:
        shape = tuple(int(side) for side in kept["shape"])
        return np.unpackbits(kept["bits"], count=int(np.prod(shape))).reshape(shape).astype(bool)


def peak_memory_mb() -> float | None:
    """The largest resident memory of this process so far, in MB (1e6 bytes); None where the system does not tell."""
    # As `samsdk.environment`'s, which peers' environments do not have: a process starts with what its parent held in
    # `ru_maxrss`; Linux counts `VmHWM` of the program alone.
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    if found:
        return int(found[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def resident_mb() -> float | None:
    """The resident memory of this process now, in MB (1e6 bytes); None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3
