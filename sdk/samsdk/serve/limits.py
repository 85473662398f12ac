"""What one service gives at most, to all of its clients and to each of them."""

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

# Clients whose allowance is remembered; of more, those that were silent longest start afresh.
_CLIENTS: Final = 4096


@dataclass(frozen=True)
class Limits:
    """Bounds of a service; what is beyond them is refused with a text, never tried.

    Attributes:
        upload_bytes: of one image file.
        upload_seconds: until an image file has to be here.
        uploads: image files that are read at once, each of which is in memory.
        body_bytes: of any other request.
        pixels: of one image.
        sessions: images that are open at once.
        memory_bytes: pixels, embeddings and answers of all sessions; what was used least recently gives way.
        idle_seconds: without a request, after which a session is closed.
        objects: of one session.
        answers: that an object keeps, to be undone; of more the oldest is forgotten.
        points: of one prompt.
        batch: prompts of one request.
        requests_per_second: of one client, on average.
        burst: requests of one client at once, after a pause.
        encodes: images that are encoded at once, which bounds the engine's memory.
        decodes: prompts that are answered at once.
        waiting: prompts, or images, that wait for their turn; more are refused.
    """

    upload_bytes: int = 64 * 2**20
    upload_seconds: float = 60.0
    uploads: int = 4
    body_bytes: int = 2**20
    pixels: int = 50_000_000
    sessions: int = 64
    memory_bytes: int = 2**30
    idle_seconds: float = 1800.0
    objects: int = 250
    answers: int = 50
    points: int = 100
    batch: int = 64
    requests_per_second: float = 30.0
    burst: int = 120
    encodes: int = 2
    decodes: int = max(2, os.cpu_count() or 1)
    waiting: int = 256

    def __post_init__(self) -> None:
        small = [name for name, value in vars(self).items() if not value > 0]
        if small:
            raise ValueError(f"limits must be greater than 0, got {', '.join(f'{n}={vars(self)[n]!r}' for n in small)}")


class Allowances:
    """Requests that each client has left: so many at once, refilled at a steady rate.

    Args:
        per_second: refilled for each client.
        burst: at most.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, client: str) -> float:
        """Take one request from a client's allowance.

        Args:
            client: its address.

        Returns:
            0.0, or the seconds after which the next one may come.
        """
        now = time.monotonic()
        with self._lock:
            left, since = self._left.pop(client, (self._burst, now))
            left = min(self._burst, left + (now - since) * self._per_second)
            wait = 0.0 if left >= 1 else (1 - left) / self._per_second
            self._left[client] = (left if wait else left - 1, now)
            while len(self._left) > _CLIENTS:
                self._left.popitem(last=False)
            return wait
