"""Files handed out to processes on this machine: one file at a time each, so that it is known what one died of."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Final

import cv2

from samsdk.batch.outcome import Outcome
from samsdk.batch.plan import FileTask
from samsdk.batch.settings import Settings
from samsdk.batch.worker import open_predictor, process_died, segment_file
from samsdk.errors import BackendError, SamsdkError

# Seconds that a process is given to end by itself.
_GRACE: Final = 5


def cores() -> int:
    """Processor cores that this process may use."""
    # Not every system can bind processes to cores.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def segment_in_processes(settings: Settings, tasks: Sequence[FileTask], processes: int) -> Iterator[Outcome]:
    """Segment files in several processes.

    A process that dies, as by a codec that crashes or for want of memory, costs the file that it had; another takes its
    place.

    Args:
        settings: the run's.
        tasks: the files.
        processes: how many, at most one a file.

    Yields:
        What became of each file, as they are finished.

    Raises:
        SamsdkError: the bundle cannot be loaded.
        BackendError: a process died while it loaded the bundle.
    """
    left = list(reversed(tasks))
    workers: list[_Worker] = []
    try:
        workers += [_Worker(settings) for _ in range(min(processes, len(tasks)))]
        busy = {worker.pipe: worker for worker in workers}
        for worker in workers:
            worker.await_ready()
            worker.give(left.pop())
        while busy:
            answered = wait(list(busy))
            for pipe in [one for one in busy if one in answered]:
                worker = busy.pop(pipe)
                yield worker.outcome()
                if not left:
                    continue
                if worker.died:
                    worker.stop()
                    workers[workers.index(worker)] = worker = _Worker(settings)
                    worker.await_ready()
                worker.give(left.pop())
                busy[worker.pipe] = worker
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that segments files, seen from the one that hands them out."""

    def __init__(self, settings: Settings) -> None:
        # Not fork: engines and OpenCV have threads, which a forked process lacks.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.died = False
        self._settings = settings
        self._task: FileTask | None = None
        self._process = context.Process(target=_serve, args=(theirs, settings), daemon=True)
        self._process.start()
        # Only the process itself may hold this end, so that its death closes the pipe.
        theirs.close()

    def await_ready(self) -> None:
        """Wait until it has loaded the bundle.

        Raises:
            SamsdkError: it cannot.
        """
        try:
            problem = self.pipe.recv()
        except EOFError:
            raise BackendError(f"a process died while it loaded the bundle, {self._last_words()}") from None
        if problem is not None:
            raise problem

    def give(self, task: FileTask) -> None:
        """Hand out a file; whether the process is alive shows itself in `outcome`."""
        self._task = task
        try:
            self.pipe.send(task)
        except OSError:
            self.died = True

    def outcome(self) -> Outcome:
        """What became of the file that was handed out."""
        assert self._task is not None
        try:
            outcome: Outcome = self.pipe.recv()
        except (EOFError, OSError):
            self.died = True
            return process_died(self._settings, self._task, self._last_words())
        return outcome

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.pipe.close()
        self._process.terminate()
        self._process.join(_GRACE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _last_words(self) -> str:
        self._process.join(_GRACE)
        code = self._process.exitcode
        return f"by signal {-code}" if code is not None and code < 0 else f"with exit status {code}"


def _serve(pipe: Connection, settings: Settings) -> None:
    """Segment what comes through the pipe, until it is closed."""
    # Ctrl+C goes to all processes; the one that hands out files ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    cv2.setNumThreads(settings.threads)
    try:
        open_predictor(settings)
    except SamsdkError as error:
        pipe.send(error)
        return
    pipe.send(None)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(segment_file(settings, task))


def _die_with_parent() -> None:
    """End this process at once when the one that hands out files was killed: nobody is left to take an answer."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
