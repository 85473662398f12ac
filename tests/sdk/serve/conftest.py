"""What the tests of the service share: the application in this process, and as a server on this machine."""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import cv2
import numpy as np
import pycocotools.mask
import pytest
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from starlette.testclient import TestClient

import samsdk
from samsdk.serve.app import create_app
from samsdk.serve.limits import Limits

# Tests ask faster than people click.
FAST = Limits(requests_per_second=1e6, burst=10**6)


class Api(TestClient):
    """The application in this process, spoken to over HTTP."""

    @staticmethod
    def png(image: NDArray[Any]) -> bytes:
        """An image as a PNG file."""
        done, data = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)
        assert done
        return data.tobytes()

    def upload(self, content: bytes | NDArray[Any], query: str = "", **headers: str) -> Any:
        """Send an image."""
        data = content if isinstance(content, bytes) else self.png(content)
        return self.post(
            f"/sessions{query}", content=data, headers={"content-type": "application/octet-stream", **headers}
        )

    def open(self, image: NDArray[Any]) -> str:
        """Path of a session of an image."""
        reply = self.upload(image)
        assert reply.status_code == 201, reply.text
        return f"/sessions/{reply.json()['id']}"

    def ask(self, session: str, **body: Any) -> dict[str, Any]:
        """The answer to a prompt."""
        reply = self.post(f"{session}/prompts", json=body)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    @staticmethod
    def mask_of(answer: dict[str, Any]) -> NDArray[np.bool_]:
        """What COCO's own code makes of the mask of an answer."""
        return np.asarray(pycocotools.mask.decode(answer["rle"])).astype(bool)


Calling = Callable[..., AbstractContextManager[Api]]


@pytest.fixture
def calling(predictor: samsdk.Predictor) -> Calling:
    """Run an application of the tiny model, or of others, and talk to it."""

    @contextmanager
    def call(predictors: Mapping[str, samsdk.Predictor] | None = None, **settings: Any) -> Iterator[Api]:
        app = create_app(predictors or {"tiny": predictor}, **{"limits": FAST, **settings})
        with Api(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as api:
            yield api

    return call


@pytest.fixture
def api(calling: Calling) -> Iterator[Api]:
    with calling() as found:
        yield found


@pytest.fixture
def opened(api: Api, tissue: NDArray[np.uint8]) -> str:
    """Path of a session of `tissue`."""
    return api.open(tissue)


class Server:
    """A real server in a thread, on an address of this machine alone."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=20)
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def start(self) -> None:
        self.thread.start()
        while not self.uvicorn.started:
            assert self.thread.is_alive()
            self.thread.join(0.02)

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[[FastAPI], Server]]:
    """Start an application; it is stopped after the test."""
    servers: list[Server] = []

    def start(app: FastAPI) -> Server:
        servers.append(Server(app))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
