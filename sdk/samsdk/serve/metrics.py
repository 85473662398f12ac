"""What a monitor (Prometheus) may know: counts, sizes and times, nothing of any image."""

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import Scope

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MEDIA_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """The metrics of one service.

    Args:
        sessions: number of open sessions.
        nbytes: memory that they hold.
        pending: jobs that run or wait.
    """

    def __init__(
        self, sessions: Callable[[], float], nbytes: Callable[[], float], pending: Callable[[], float]
    ) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "samsdk_requests", "Requests answered", ("method", "route", "status"), registry=self._registry
        )
        self._request_seconds = Histogram(
            "samsdk_request_seconds", "Time of a request", ("route",), buckets=_SECONDS, registry=self._registry
        )
        self._stage_seconds = Histogram(
            "samsdk_stage_seconds", "Time of a stage", ("stage",), buckets=_SECONDS, registry=self._registry
        )
        self._closed = Counter("samsdk_sessions_closed", "Sessions closed", ("reason",), registry=self._registry)
        for name, text, read in (
            ("samsdk_sessions", "Open sessions", sessions),
            ("samsdk_session_bytes", "Memory of open sessions", nbytes),
            ("samsdk_jobs", "Jobs that run or wait", pending),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)

    def observe_request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request; by its route's pattern, because paths hold the names of sessions."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in ("GET", "POST", "PATCH", "DELETE") else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def observe_stages(self, timings: Mapping[str, float]) -> None:
        """Count the milliseconds of each stage that was run."""
        for stage, milliseconds in timings.items():
            if milliseconds > 0:
                self._stage_seconds.labels(stage).observe(milliseconds / 1e3)

    def count_closed(self, reason: str) -> None:
        """Count a session that was closed."""
        self._closed.labels(reason).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
