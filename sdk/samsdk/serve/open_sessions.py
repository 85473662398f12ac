"""All open sessions: which of them give way when there is no more room, and which nobody uses any more."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from samsdk.serve.limits import Limits
from samsdk.serve.problems import Refused
from samsdk.serve.sessions import Session

# Of sessions that were closed, so that their users are told so instead of that they never were.
_REMEMBERED: Final = 4096


class Sessions:
    """All open sessions, in the order in which they were last used; used by the event loop's thread alone.

    Args:
        limits: of the service.
        on_close: called with the reason of each session that is closed: `deleted`, `idle` or `room`.
    """

    def __init__(self, limits: Limits, on_close: Callable[[str], None]) -> None:
        self._limits = limits
        self._on_close = on_close
        self._open: OrderedDict[str, Session] = OrderedDict()
        self._closed: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def nbytes(self) -> int:
        """Memory that all of them hold."""
        return sum(session.nbytes for session in self._open.values())

    def add(self, session: Session) -> None:
        """Open a session; those that were used least recently make room for it.

        Raises:
            Refused: it alone is larger than all may be.
        """
        session.weigh()
        if session.nbytes > self._limits.memory_bytes:
            raise Refused(
                413,
                "too_large",
                f"this image takes {session.nbytes} bytes, all sessions together may take {self._limits.memory_bytes}; "
                "make it smaller",
            )
        self._open[session.id] = session
        self.make_room()

    def find(self, name: str) -> Session:
        """An open session, which is used from now on.

        Raises:
            Refused: there is none of this name, or it was closed.
        """
        self.close_idle()
        if name in self._open:
            self._open.move_to_end(name)
            session = self._open[name]
            session.used = time.monotonic()
            return session
        if name in self._closed:
            raise Refused(410, "gone", f"this session was closed: {self._closed[name]}; open the image again")
        raise Refused(404, "not_found", "there is no such session; open an image with POST /sessions")

    def close(self, name: str, reason: str, text: str) -> None:
        """Close a session and let go of its image."""
        del self._open[name]
        self._closed[name] = text
        while len(self._closed) > _REMEMBERED:
            self._closed.popitem(last=False)
        self._on_close(reason)

    def close_idle(self) -> None:
        """Close those that nobody used for long."""
        oldest = time.monotonic() - self._limits.idle_seconds
        while self._open and (first := next(iter(self._open.values()))).used < oldest:
            self.close(first.id, "idle", f"it was not used for {self._limits.idle_seconds:g} s")

    def make_room(self) -> None:
        """Close those that were used least recently until the rest is within the limits; the last one stays."""
        while len(self._open) > 1 and (
            len(self._open) > self._limits.sessions or self.nbytes > self._limits.memory_bytes
        ):
            self.close(next(iter(self._open)), "room", "other images needed its room")
