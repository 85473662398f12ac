"""Threads that run the engine: so many at a time, prompts before new images, and none for clients that are gone."""

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from fastapi import Request

from samsdk.errors import CancelledError
from samsdk.serve.limits import Limits
from samsdk.serve.problems import Refused

T = TypeVar("T")
Cancelled = Callable[[], bool]
Job = Callable[[Cancelled], T]
# How much longer a new image waits for the encoder than a second look that somebody who clicked is waiting for. Not
# forever: clicks without end must not keep new images out.
_PATIENCE: Final = 2.0


class Gate:
    """Lets so many threads encode at once; of those that wait, prompts come before new images.

    Args:
        slots: how many.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: list[tuple[float, int]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()

    @contextmanager
    def slot(self, *, urgent: bool) -> Iterator[None]:
        """Wait for a slot and hold it.

        Args:
            urgent: somebody clicked, and waits.
        """
        with self._changed:
            ticket = (time.monotonic() + (0.0 if urgent else _PATIENCE), next(self._numbers))
            heapq.heappush(self._waiting, ticket)
            self._changed.wait_for(lambda: self._free > 0 and self._waiting[0] == ticket)
            heapq.heappop(self._waiting)
            self._free -= 1
            # Another slot may be free for the next in line, who was not the first until now.
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()


class Workers:
    """Two pools of threads, so that somebody who clicked never waits behind a queue of new images.

    Args:
        limits: of the service.
    """

    def __init__(self, limits: Limits) -> None:
        self.gate = Gate(limits.encodes)
        self._bulk = ThreadPoolExecutor(limits.encodes, "samsdk-bulk")
        self._prompts = ThreadPoolExecutor(limits.decodes, "samsdk-prompts")
        self._most = limits.waiting
        self._pending = {self._bulk: 0, self._prompts: 0}
        self._lock = threading.Lock()

    @property
    def pending(self) -> int:
        """Jobs that run or wait."""
        return sum(self._pending.values())

    async def bulk(self, request: Request, job: Job[T]) -> T:
        """Run a job that may take longer: a new image, many prompts, a file to download; see `prompt`."""
        return await self._run(self._bulk, request, job)

    async def prompt(self, request: Request, job: Job[T]) -> T:
        """Run a job that somebody who clicked waits for.

        Args:
            request: whose client may go away meanwhile; its body has been read.
            job: called in a thread, with a function that says whether its answer is still wanted.

        Returns:
            What the job returned.

        Raises:
            Refused: too many wait already.
            CancelledError: the client is gone.
        """
        return await self._run(self._prompts, request, job)

    async def _run(self, pool: ThreadPoolExecutor, request: Request, job: Job[T]) -> T:
        with self._lock:
            if self._pending[pool] >= self._most:
                raise Refused(503, "busy", f"{self._most} requests wait already; ask again soon", {"Retry-After": "1"})
            self._pending[pool] += 1
        unwanted = threading.Event()
        running = pool.submit(job, unwanted.is_set)
        running.add_done_callback(lambda _: self._count_off(pool))
        answer = asyncio.wrap_future(running)
        gone = asyncio.create_task(_disconnected(request))
        try:
            both: list[asyncio.Future[Any]] = [answer, gone]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise CancelledError("the client is gone")
            return answer.result()
        finally:
            # Also when this request was cancelled: what has not begun never will, the rest stops where it looks.
            unwanted.set()
            answer.cancel()
            gone.cancel()

    def _count_off(self, pool: ThreadPoolExecutor) -> None:
        with self._lock:
            self._pending[pool] -= 1

    def stop(self) -> None:
        """Wait for what runs; what waits is dropped."""
        for pool in self._pending:
            pool.shutdown(wait=True, cancel_futures=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
