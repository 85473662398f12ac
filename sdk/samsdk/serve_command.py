"""`samsdk serve`."""

import argparse
import os
import secrets
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import samsdk
from samsdk.command import Report, Subparsers, WrongCallError, add_command, add_engine_options
from samsdk.errors import MissingExtraError

if TYPE_CHECKING:
    from samsdk.serve.limits import Limits

PORT: Final = 8300
TOKEN_VARIABLE: Final = "SAMSDK_TOKEN"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE: Final = ("0.0.0.0", "::")
# Connections at once, and how long requests in flight may take to finish when the service stops.
_CONNECTIONS: Final = 512
_GRACE_SECONDS: Final = 30
_LARGEST_PORT: Final = 65535


def add_serve(commands: Subparsers) -> None:
    """Add the command `serve`."""
    parser = add_command(commands, "serve", _run_serve, "serve a page to click on and an HTTP interface to programs")
    parser.add_argument(
        "--model", action="append", metavar="BUNDLE", help="bundle or name; repeatable; the default model if left out"
    )
    add_engine_options(parser)
    parser.add_argument("--threads", type=int, help="threads of one call on the CPU")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; other than this machine's own, every request needs the token",
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"{PORT} when left out; 0 takes any that is free")
    parser.add_argument(
        "--token",
        help=f"that requests must bear; better in ${TOKEN_VARIABLE}, which no list of processes shows; made "
        "and printed once where one is needed and none is given",
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="name by which it may be called; repeatable"
    )
    parser.add_argument("--certificate", type=Path, metavar="PEM", help="for HTTPS, with --key")
    parser.add_argument("--key", type=Path, metavar="PEM", help="the certificate's private key")
    for option, what in _LIMIT_OPTIONS.values():
        parser.add_argument(option, type=float, help=what)


# Field of `Limits`: option, help; megabytes and minutes become bytes and seconds below.
_LIMIT_OPTIONS: Final = {
    "upload_bytes": ("--max-upload-mb", "size of an image file, in 1e6 bytes"),
    "pixels": ("--max-megapixels", "size of an image"),
    "sessions": ("--max-sessions", "images that are open at once"),
    "memory_bytes": ("--max-memory-mb", "memory of all open images, in 1e6 bytes"),
    "idle_seconds": ("--idle-minutes", "after which an image that nobody uses is closed"),
    "requests_per_second": ("--max-rate", "requests a second of one client"),
}
_FACTORS: Final = {"upload_bytes": 1e6, "pixels": 1e6, "memory_bytes": 1e6, "idle_seconds": 60.0}


def _run_serve(args: argparse.Namespace) -> Report:
    try:
        import prometheus_client  # noqa: F401 (looked for)
        import uvicorn

        from samsdk.serve.app import create_app
        from samsdk.serve.guard import Access
    except ImportError as error:
        raise MissingExtraError(f"samsdk serve needs {error.name}: pip install 'samsdk[serve]'") from error
    if (args.certificate is None) != (args.key is None):
        raise WrongCallError("HTTPS needs both: --certificate PEM and --key PEM")
    local = args.host in _LOOPBACK
    given = args.token or os.environ.get(TOKEN_VARIABLE)
    token = given or (None if local else secrets.token_urlsafe(32))
    access = Access(
        hosts=frozenset(name.lower() for name in (*_LOOPBACK, args.host, *args.allow_host)) - {*_EVERYWHERE},
        any_address=args.host in _EVERYWHERE,
        token=token,
    )
    predictors = {}
    for model in args.model or [None]:
        predictor = samsdk.load(model, device=args.device, tier=args.tier, threads=args.threads)
        if predictor.manifest.name in predictors:
            raise WrongCallError(f"two models are called {predictor.manifest.name!r}; serve one of them")
        predictors[predictor.manifest.name] = predictor
    app = create_app(predictors, limits=_limits(args), access=access)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: object) -> None:
            # From now on requests on connections that are still open are refused, those in flight are answered. Unlike
            # the original, it does not raise the signal again afterwards: this is how one stops a service.
            app.state.service.stopping = True
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.should_exit = True

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        # Paths hold the names of sessions, and who knows a session's name may see its image.
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ssl_certfile=args.certificate,
        ssl_keyfile=args.key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise WrongCallError(f"the certificate or its key cannot be used: {error}") from error
    with _listening(args.host, args.port) as listening:
        url = _url(args, listening)
        _announce(args, url, token, generated=given is None)
        Server(config).run(sockets=[listening])
    return Report({"url": url, "stopped": True}, "stopped")


def _limits(args: argparse.Namespace) -> "Limits":
    from samsdk.serve.limits import Limits

    values = {}
    for field, (option, _) in _LIMIT_OPTIONS.items():
        value = getattr(args, option.removeprefix("--").replace("-", "_"))
        if value is not None:
            scaled = value * _FACTORS.get(field, 1.0)
            values[field] = scaled if isinstance(getattr(Limits, field), float) else int(scaled)
    try:
        return Limits(**values)
    except (ValueError, OverflowError) as error:
        raise WrongCallError(str(error)) from error


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port <= _LARGEST_PORT:
        # The system would take what is left of it after a division.
        raise WrongCallError(f"cannot listen on {host}:{port}: expected a port of 0 to {_LARGEST_PORT}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address[0], address[1]), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        raise WrongCallError(f"cannot listen on {host}:{port}: {error}; choose another --host or --port") from error


def _url(args: argparse.Namespace, listening: socket.socket) -> str:
    host = "localhost" if args.host in _EVERYWHERE else args.host
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if args.certificate else 'http'}://{name}:{listening.getsockname()[1]}/"


def _announce(args: argparse.Namespace, url: str, token: str | None, *, generated: bool) -> None:
    # A fragment: browsers keep it to themselves, so that it is in no log on the way.
    link = f"{url}#token={token}" if token and generated else url
    lines = [f"samsdk serve: {link} (Ctrl+C stops)", "samsdk serve: for research use only, not a medical device"]
    if args.host not in _LOOPBACK and not args.certificate:
        lines.append(
            "samsdk serve: WARNING: images and the token travel unencrypted; give --certificate and --key, or put a "
            "proxy with HTTPS in front"
        )
    print(*lines, sep="\n", file=sys.stderr, flush=True)
