import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray

import samsdk
from samsdk.errors import CancelledError
from samsdk.serve.app import create_app
from samsdk.serve.limits import Limits
from samsdk.serve.problems import Refused
from samsdk.serve.workers import Gate, Workers


class Client:
    """As much of a request as the workers look at."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        await self.gone.wait()
        return {"type": "http.disconnect"}


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def wait_for(gate: Gate, waiting: int) -> None:
    until(lambda: len(gate._waiting) == waiting)


def test_the_gate_bounds_what_runs_and_lets_prompts_pass_first() -> None:
    gate = Gate(1)
    order: list[str] = []
    running: list[str] = []
    release = threading.Event()

    def work(name: str, urgent: bool) -> None:
        with gate.slot(urgent=urgent):
            running.append(name)
            assert len(running) == 1
            release.wait(30)
            running.remove(name)
            order.append(name)

    threads = []
    for name, urgent in (("first", False), ("image", False), ("image 2", False), ("prompt", True)):
        threads.append(threading.Thread(target=work, args=(name, urgent)))
        threads[-1].start()
        wait_for(gate, len(threads) - 1)
        until(lambda: bool(running))
    release.set()
    for thread in threads:
        thread.join(30)
    assert order == ["first", "prompt", "image", "image 2"]


def test_prompts_without_end_do_not_keep_an_image_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("samsdk.serve.workers.time.monotonic", lambda: now)
    gate = Gate(1)
    order: list[str] = []

    def work(name: str, urgent: bool) -> None:
        with gate.slot(urgent=urgent):
            order.append(name)

    with gate.slot(urgent=True):
        threads = []
        for name, urgent, at in (("image", False, 0.0), ("soon", True, 1.0), ("late", True, 3.0)):
            now = at
            threads.append(threading.Thread(target=work, args=(name, urgent)))
            threads[-1].start()
            wait_for(gate, len(threads))
    for thread in threads:
        thread.join(30)
    assert order == ["soon", "image", "late"]


def test_what_waits_for_a_client_that_is_gone_is_never_run() -> None:
    async def scene() -> None:
        workers = Workers(Limits(decodes=1, encodes=1))
        begun, release, ran = threading.Event(), threading.Event(), []

        def slow(cancelled: Callable[[], bool]) -> str:
            begun.set()
            release.wait(30)
            return "told to stop" if cancelled() else "done"

        first, second, third = Client(), Client(), Client()
        running = asyncio.create_task(workers.prompt(first, slow))  # type: ignore[arg-type]
        await asyncio.to_thread(begun.wait)
        waiting = asyncio.create_task(workers.prompt(second, lambda _: ran.append("second")))  # type: ignore[arg-type]
        cancelled = asyncio.create_task(workers.prompt(third, lambda _: ran.append("third")))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        assert workers.pending == 3
        second.gone.set()
        cancelled.cancel()
        with pytest.raises(CancelledError):
            await waiting
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        release.set()
        assert await running == "done"
        await asyncio.to_thread(workers.stop)
        assert ran == []
        assert workers.pending == 0

    asyncio.run(scene())


def test_what_runs_for_a_client_that_is_gone_is_told() -> None:
    async def scene() -> None:
        workers = Workers(Limits(decodes=1))
        client, seen, begun = Client(), [], threading.Event()

        def job(cancelled: Callable[[], bool]) -> None:
            begun.set()
            until(cancelled)
            seen.append("told")

        running = asyncio.create_task(workers.prompt(client, job))  # type: ignore[arg-type]
        await asyncio.to_thread(begun.wait)
        client.gone.set()
        with pytest.raises(CancelledError):
            await running
        await asyncio.to_thread(workers.stop)
        assert seen == ["told"]

    asyncio.run(scene())


def test_too_many_that_wait_are_refused() -> None:
    async def scene() -> None:
        workers = Workers(Limits(decodes=1, waiting=2))
        release = threading.Event()
        jobs = [asyncio.create_task(workers.prompt(Client(), lambda _: release.wait(30))) for _ in range(2)]  # type: ignore[arg-type]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="2 requests wait already"):
            await workers.prompt(Client(), lambda _: None)  # type: ignore[arg-type]
        release.set()
        assert await asyncio.gather(*jobs) == [True, True]
        assert await workers.prompt(Client(), lambda _: 5) == 5  # type: ignore[arg-type]
        workers.stop()

    asyncio.run(scene())


def test_no_more_images_are_encoded_at_once_than_allowed(
    calling: Any, predictor: samsdk.Predictor, cell: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, lock = 0, 0, threading.Lock()
    real = predictor.encode

    def encode(image: object, *, window: Any = None) -> samsdk.Embedding:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        try:
            return real(image, window=window)
        finally:
            with lock:
                running -= 1

    with calling(limits=Limits(encodes=2, decodes=4, burst=1000)) as api:
        session = api.open(cell)
        monkeypatch.setattr(predictor, "encode", encode)
        tasks = [lambda: api.open(cell)] * 3 + [
            lambda left=left: api.ask(session, box=[left, 10, left + 60, 70], zoom=True) for left in range(0, 300, 50)
        ]
        threads = [threading.Thread(target=task) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert most == 2


def test_a_stopping_server_answers_what_it_has_taken(
    serve: Any, predictor: samsdk.Predictor, cell: NDArray[np.uint8], api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(create_app({"tiny": predictor}))
    begun, release = threading.Event(), threading.Event()
    real = predictor.encode

    def slow(image: object, *, window: Any = None) -> samsdk.Embedding:
        begun.set()
        release.wait(30)
        return real(image, window=window)

    monkeypatch.setattr(predictor, "encode", slow)
    replies = []

    def upload() -> None:
        headers = {"content-type": "application/octet-stream"}
        replies.append(httpx2.post(f"{server.url}/sessions", content=api.png(cell), headers=headers, timeout=60))

    thread = threading.Thread(target=upload)
    thread.start()
    assert begun.wait(30)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    until(lambda: not server.uvicorn.servers or not server.uvicorn.servers[0].is_serving())
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.url}/health")
    release.set()
    thread.join(30)
    stopping.join(30)
    assert [reply.status_code for reply in replies] == [201]
    assert server.app.state.service.workers.pending == 0
