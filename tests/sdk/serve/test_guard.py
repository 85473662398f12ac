import logging
import time
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from samsdk.serve.guard import Access
from samsdk.serve.limits import Allowances, Limits

TOKEN = "a-token-of-the-tests"


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8300", True),
        ("localhost:8300", True),
        ("LOCALHOST", True),
        ("[::1]:8300", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("10.0.0.1", False),
        ("127.0.0.1:8300@evil.example", False),
        ("", False),
    ],
)
def test_only_its_own_names_are_answered(api: Any, host: str, passes: bool) -> None:
    reply = api.get("/health", headers={"host": host})
    assert reply.status_code == (200 if passes else 421), reply.text
    if not passes:
        assert reply.json()["error"] == "host"


def test_addresses_but_no_names_will_do_for_a_service_on_all_interfaces(calling: Any) -> None:
    access = Access(frozenset({"localhost", "ward-7.local"}), any_address=True, token=TOKEN)
    with calling(access=access) as api:
        for host in ("10.0.0.1", "[fe80::1]:8300", "ward-7.local:8300"):
            assert api.get("/health", headers={"host": host}).status_code == 200
        assert api.get("/health", headers={"host": "rebound.example"}).status_code == 421


def test_pages_of_other_sites_get_nothing(api: Any) -> None:
    own = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
    assert api.get("/models", headers=own).status_code == 200
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ):
        reply = api.get("/models", headers=headers)
        assert (reply.status_code, reply.json()["error"]) == (403, "origin"), headers
        assert "access-control-allow-origin" not in reply.headers
    assert api.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}).status_code == 200
    preflight = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    assert api.options("/sessions", headers=preflight).status_code == 403


def test_every_answer_bears_the_headers(api: Any) -> None:
    for path in ("/", "/page/main.js", "/models", "/nothing", "/sessions/none"):
        headers = api.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
    assert api.get("/health", headers={"host": "evil.example"}).headers["x-frame-options"] == "DENY"


def test_without_the_token_there_is_only_the_page(calling: Any, tissue: NDArray[np.uint8]) -> None:
    with calling(access=Access(token=TOKEN)) as api:
        for path in ("/", "/page/main.js", "/health", "/ready"):
            assert api.get(path).status_code == 200
        wrong = (
            {},
            {"authorization": "Bearer "},
            {"authorization": f"Bearer {TOKEN}x"},
            {"authorization": TOKEN},
            {"authorization": f"Basic {TOKEN}"},
            {"cookie": f"token={TOKEN}"},
            {"authorization": "Bearer \u00fc"},
        )
        for headers in wrong:
            for path in ("/models", "/metrics", "/openapi.json", "/sessions/x", "/health/../models"):
                encoded = {name: value.encode("latin-1") for name, value in headers.items()}
                reply = api.get(path, headers=encoded)
                assert (reply.status_code, reply.json()["error"]) == (401, "token"), (path, headers)
            assert api.upload(tissue).status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert api.get("/models", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert api.upload(tissue, authorization=f"bearer {TOKEN}").status_code == 201


def test_a_client_that_asks_too_fast_has_to_wait(calling: Any) -> None:
    with calling(limits=Limits(requests_per_second=0.001, burst=3)) as api:
        statuses = [api.get("/models").status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert 900 <= int(api.get("/models").headers["retry-after"]) <= 1001


def test_allowances_are_refilled_and_each_clients_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    allowances = Allowances(2.0, 3)
    assert [allowances.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert allowances.take("b") == 0
    now += 0.75
    assert [allowances.take("a") for _ in range(2)] == [0, pytest.approx(0.25)]
    now += 1000
    assert [allowances.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_bodies_beyond_the_limits_are_refused_with_or_without_their_length(calling: Any) -> None:
    with calling(limits=Limits(upload_bytes=1000, body_bytes=500, burst=1000)) as api:
        session = api.open(np.zeros((8, 8), np.uint8))

        def chunks(count: int) -> Any:
            return (b"x" * 100 for _ in range(count))

        binary, text = {"content-type": "application/octet-stream"}, {"content-type": "application/json"}
        for path, headers, count in (("/sessions", binary, 20), (f"{session}/prompts", text, 6)):
            for content in (b"x" * 100 * count, chunks(count)):
                reply = api.post(path, content=content, headers=headers)
                assert (reply.status_code, reply.json()["error"]) == (413, "too_large"), path
        assert api.post("/sessions", content=chunks(9), headers=binary).json()["error"] == "image"


def test_images_and_prompts_beyond_the_limits(calling: Any) -> None:
    limits = Limits(pixels=100, batch=2, points=3, objects=2, burst=1000)
    with calling(limits=limits) as api:
        reply = api.upload(np.zeros((11, 10), np.uint8))
        assert (reply.status_code, reply.json()["error"]) == (413, "too_large")
        session = api.open(np.zeros((10, 10), np.uint8))
        assert api.post(f"{session}/prompts", json={"points": [[1, 1]] * 4}).status_code == 413
        assert api.post(f"{session}/batches", json={"prompts": [{"points": [[1, 1]]}] * 3}).status_code == 413
        assert api.post(f"{session}/batches", json={"prompts": [{"points": [[1, 1]]}] * 2}).status_code == 200
        full = api.post(f"{session}/prompts", json={"points": [[1, 1]]})
        assert (full.status_code, full.json()["error"]) == (409, "objects")
        assert api.ask(session, points=[[1, 1]], object=2)["object"] == 2
        # A header of a few bytes that promises 10 gigapixels is refused before anything is decoded.
        bomb = bytearray(api.png(np.zeros((4, 4), np.uint8)))
        bomb[16:24] = (100_000).to_bytes(4) * 2
        assert api.upload(bytes(bomb)).json()["error"] == "too_large"


def test_the_page_that_is_asked_for_is_checked_before_it_is_decoded(
    calling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, stack = cv2.imencodemulti(".tif", [np.full(size, 7, np.uint8) for size in ((8, 8), (900, 900), (9, 9))])
    assert done
    decoded = []
    real = cv2.imdecodemulti
    monkeypatch.setattr(cv2, "imdecodemulti", lambda *args, **how: decoded.append(how) or real(*args, **how))
    with calling(limits=Limits(pixels=100, burst=1000)) as api:
        for frame, status in ((0, 201), (1, 413), (2, 201), (3, 422)):
            assert api.upload(stack.tobytes(), f"?frame={frame}").status_code == status, frame
        assert [how["range"] for how in decoded] == [(2, 3)], "the large page never was"


def test_malformed_prompts_are_the_clients_fault(api: Any, opened: str) -> None:
    bodies: list[Any] = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"points": [[NaN, 1]]}',
        b'{"points": [[1e999, 1]]}',
        b'{"points": [[' + b"9" * 5000 + b", 1]]}",
        b'{"points": [["1", 2]]}',
        b'{"points": [[true, 2]]}',
        b'{"points": [[1]]}',
        b'{"points": []}',
        b'{"points": [[1, 2]], "labels": [2]}',
        b'{"labels": [1]}',
        b'{"points": [[1, 2]], "labels": [1, 0]}',
        b'{"box": [1, 2, 3]}',
        b'{"box": [9, 9, 3, 3]}',
        b'{"box": [0, 0, 9999, 3]}',
        b'{"points": [[1, 2]], "object": 0}',
        b'{"points": [[1, 2]], "unknown": 1}',
        b"{}",
        b'{"points": [[1, 2]], "include": ["gif"]}',
        b'{"mask": "1"}',
        b'{"points": [[-1, 2]]}',
    ]
    for body in bodies:
        reply = api.post(f"{opened}/prompts", content=body, headers={"content-type": "application/json"})
        assert reply.status_code in (400, 422), (body[:60], reply.status_code)
        assert set(reply.json()) == {"error", "detail"}
        assert len(reply.text) < 2000
    assert api.get(opened).json()["objects"] == []


def test_a_failure_inside_says_nothing_of_what_was_sent(
    api: Any, opened: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = next(iter(api.app.state.service.sessions._open.values()))

    def fail(*_: object, **__: object) -> None:
        # In two words, because the log shows lines of code, this one too.
        raise RuntimeError(" ".join(("Jane", "Doe")))

    monkeypatch.setattr(session, "ask", fail)
    with caplog.at_level(logging.DEBUG):
        reply = api.post(f"{opened}/prompts", json={"points": [[1, 1]]})
    assert (reply.status_code, reply.json()["error"]) == (500, "internal")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "Jane Doe" not in reply.text + caplog.text
    assert "RuntimeError" in caplog.text


def test_logs_hold_neither_images_nor_sessions(
    api: Any, cell: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "samsdk"):
        session = api.open(cell)
        api.ask(session, points=[[300, 300]])
        api.upload(b"Jane Doe")
        api.post(f"{session}/prompts", json={"points": [[9999, 1]]})
    own = [record.getMessage() for record in caplog.records if record.name.startswith("samsdk")]
    assert session.rpartition("/")[2] not in "".join(own)
    assert "Jane Doe" not in caplog.text


def test_a_service_that_stops_takes_nothing_new(api: Any, opened: str) -> None:
    api.app.state.service.stopping = True
    for path in ("/ready", opened, "/models"):
        reply = api.get(path)
        assert (reply.status_code, reply.json()["error"]) == (503, "stopping")


def test_there_are_no_pages_that_load_from_elsewhere(api: Any) -> None:
    assert api.get("/docs").status_code == 404
    assert api.get("/redoc").status_code == 404
    modules = ("main", "api", "work", "view", "picture", "gestures", "panel", "rle")
    for name in ("", "page/style.css", *(f"page/{module}.js" for module in modules)):
        text = api.get(f"/{name}").text
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
        assert "innerHTML" not in text
        assert "eval(" not in text
    for path in ("/page/..%2fapp.py", "/page/../app.py", "/page/app.py", "/page/"):
        assert api.get(path).status_code == 404
