"""What is checked of every request before anything else sees it, and the headers that every answer bears."""

import ipaddress
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samsdk.serve.limits import Allowances, Limits
from samsdk.serve.problems import Refused, failure, problem

UPLOAD_PATH: Final = "/sessions"
# What takes an image file as its body.
_UPLOADS: Final = re.compile(rf"{UPLOAD_PATH}(/[^/]+/dicom/[^/]+)?")
# What is the same for everybody and says nothing of any image; a monitor may ask for it without a token.
_OPEN: Final = frozenset({"/", "/health", "/ready"})
PAGE: Final = "/page/"
_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
Observe = Callable[[Scope, int, float], None]


@dataclass(frozen=True)
class Access:
    """Who may come in.

    Attributes:
        hosts: names, in lower case, by which the service may be called. A page elsewhere can point a name of its own at
            this address (DNS rebinding); its name is not among them.
        any_address: whether an IP address will do for a name; a name that was pointed here is none.
        token: that a request must bear; None lets all in who reach the service.
    """

    hosts: frozenset[str] = LOOPBACK_NAMES
    any_address: bool = False
    token: str | None = None


class Guard:
    """The outermost layer of the service.

    Args:
        app: what is behind it.
        access: who may come in.
        limits: of the service.
        stopping: whether the service is about to stop, and takes nothing new.
        observe: called with each request's scope, status and seconds.
    """

    def __init__(
        self, app: ASGIApp, *, access: Access, limits: Limits, stopping: Callable[[], bool], observe: Observe
    ) -> None:
        self._app = app
        self._access = access
        self._limits = limits
        self._stopping = stopping
        self._observe = observe
        self._allowances = Allowances(limits.requests_per_second, limits.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # There are no WebSockets here.
            await send({"type": "websocket.close", "code": 1008})
            return
        start = time.perf_counter()
        status, started = 500, False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, self._counted(scope, receive), send_with_headers)
        except Refused as refusal:
            answer = problem(refusal.status, refusal.kind, str(refusal), refusal.headers)
            await answer(scope, receive, send_with_headers)
        except Exception as error:
            # Here, because servers log an error that reaches them with its text, which may hold what was sent.
            answer = failure(error)
            if not started:
                await answer(scope, receive, send_with_headers)
        finally:
            self._observe(scope, status, time.perf_counter() - start)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        _check_origin(headers)
        wait = self._allowances.take(_client(scope))
        if wait:
            raise Refused(
                429,
                "rate",
                f"expected at most {self._limits.requests_per_second:g} requests a second; wait {wait:.1f} s",
                {"Retry-After": str(int(wait) + 1)},
            )
        path = scope["path"]
        if not (path in _OPEN or path.startswith(PAGE)):
            self._check_token(headers)
        if self._stopping() and path != "/ready":
            raise Refused(503, "stopping", "the service is stopping; ask again when it is back", {"Retry-After": "10"})
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._most(scope):
            raise _too_large(self._most(scope))

    def _check_host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        found = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        name = found["name"].strip("[]").lower() if found else ""
        if not (name in self._access.hosts or (self._access.any_address and _is_address(name))):
            raise Refused(
                421, "host", "this service does not go by the name in the Host header; start it with --allow-host NAME"
            )

    def _check_token(self, headers: Headers) -> None:
        if self._access.token is None:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # As bytes, because compare_digest takes no text beyond ASCII.
        if scheme.lower() != "bearer" or not secrets.compare_digest(given.encode(), self._access.token.encode()):
            raise Refused(
                401,
                "token",
                "expected the header `Authorization: Bearer TOKEN` with the token that the service was started with",
                {"WWW-Authenticate": "Bearer"},
            )

    def _most(self, scope: Scope) -> int:
        return self._limits.upload_bytes if _UPLOADS.fullmatch(scope["path"]) else self._limits.body_bytes

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        most, seen = self._most(scope), 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                # The framework turns any other exception of a body into 400.
                raise HTTPException(413, str(_too_large(most)))
            return message

        return counted


def _too_large(most: int) -> Refused:
    return Refused(413, "too_large", f"expected at most {most} bytes, got more; send less, or start with higher limits")


def _check_origin(headers: Headers) -> None:
    """Refuse what another site's page makes a browser ask for: there is no CORS, but forms and images need none."""
    origin = headers.get("origin")
    site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
    foreign = origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
    # Following a link to the page is not a request for data.
    if foreign or (site in ("cross-site", "same-site") and mode != "navigate"):
        raise Refused(403, "origin", "requests from pages of other sites are refused; open the page of this service")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _client(scope: Scope) -> str:
    address = scope["client"][0] if scope.get("client") else ""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return str(address)
    # One household or ward holds a whole /64 of IPv6.
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
