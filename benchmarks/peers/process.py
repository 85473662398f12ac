"""The harness's side of the peer protocol: a worker process that is asked and answers, or is ended."""

import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Loading a large model on a small machine, and 64 prompts at 3000 x 2400 pixels, both stay below it.
TIMEOUT = 600.0
# Libraries count their threads by these; all of them are set before a worker's first import.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_TAIL = 2000


class WorkerError(RuntimeError):
    """A worker answered with an error, died, or did not answer in time; the text says which and what it last said."""


class Worker:
    """One worker process. Use it as a context, so that it ends whatever happens.

    Args:
        python: the peer's interpreter.
        script: its worker script.
        threads: of the libraries that read the environment; None leaves it to them.

    Attributes:
        started: `time.perf_counter` when the process was started.
    """

    def __init__(self, python: Path, script: Path, *, threads: int | None = None) -> None:
        # A path of the project would put its libraries in the place of the peer's.
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        if threads is not None:
            environment |= dict.fromkeys(THREADS, str(threads))
        self._threads = threads
        self._script = script
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill)
        self._lines: queue.Queue[str] = queue.Queue()
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def call(self, request: Mapping[str, Any], timeout: float = TIMEOUT) -> dict[str, Any]:
        """Ask and wait for the answer.

        Args:
            request: see `protocol`.
            timeout: seconds; a worker that needs longer is ended.

        Raises:
            WorkerError: the answer is an error, or there is none.
        """
        what = f"{self._script.stem}, {request['do']}"
        self._say(request)
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            self.kill()
            raise WorkerError(f"{what}: no answer within {timeout:g} s") from None
        if not line:
            status = self._process.wait()
            raise WorkerError(f"{what}: the process ended with status {status}; it last said: {self._tail()}")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise WorkerError(f"{what}: expected a line of JSON, got {line[:200]!r}") from None
        if "error" in answer:
            raise WorkerError(f"{what}: {answer['error']}")
        return answer

    def load(self, request: Mapping[str, Any], timeout: float = TIMEOUT) -> dict[str, Any]:
        """Let the worker load its model; `request` is what the peer wants to know besides the threads."""
        return self.call({"do": "load", "threads": self._threads, **request}, timeout)

    def cold_start(
        self, request: Mapping[str, Any], image: Path, prompt: Mapping[str, Any], timeout: float = TIMEOUT
    ) -> dict[str, Any]:
        """Load, encode and decode for the first time.

        Args:
            request: see `load`.
            image: an .npy file.
            prompt: the rest of a `decode` request.
            timeout: seconds for each of the three.

        Returns:
            What loading answered; `loaded_ms` and `first_mask_ms`, both since the process was started; and
            `first_encode_ms` and `first_decode_ms`, which no later call takes again.

        Raises:
            WorkerError: see `call`.
        """
        about = self.load(request, timeout)
        loaded = time.perf_counter()
        encoded = self.call({"do": "encode", "image": str(image)}, timeout)
        decoded = self.call({"do": "decode", **prompt}, timeout)
        return {
            **about,
            "batched": decoded["batched"],
            "loaded_ms": (loaded - self.started) * 1e3,
            "first_mask_ms": (time.perf_counter() - self.started) * 1e3,
            "first_encode_ms": encoded["ms"],
            "first_decode_ms": decoded["ms"],
        }

    def end(self, timeout: float = 10.0) -> int:
        """Let the process end, and give its exit status; one that does not end in time is killed."""
        self._say({"do": "end"})
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return -1
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process, whatever it does; nothing if it ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream and not stream.closed:
                # What was not read any more cannot be flushed.
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        self._said.close()

    def _say(self, request: Mapping[str, Any]) -> None:
        stream = self._process.stdin
        if stream is None or stream.closed:
            raise WorkerError(f"{self._script.stem} was ended and answers no more")
        try:
            stream.write(json.dumps(request) + "\n")
            stream.flush()
        except BrokenPipeError:
            # It ended; that no answer comes is found out when it is read.
            return

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put("")

    def _tail(self) -> str:
        end = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, end - _TAIL))
        return self._said.read().decode("utf-8", "replace").strip() or "nothing"
