"""How long a client may take, by what it is waited for."""

from __future__ import annotations

from enum import Enum, auto

from app.wire.limits import Limits


class Awaited(Enum):
    """What a connection waits for its client to do."""

    REQUEST = auto()
    """Begin another request."""
    HEAD = auto()
    """Complete a request's head."""
    BODY = auto()
    """Send more of a body."""
    READING = auto()
    """Take more of an answer."""


class Patience:
    """The clock of one connection, read a few times per time-out."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seen: tuple[Awaited | None, int] | None = None
        self._since = 0.0
        self._before = 0
        self._last = 0
        self.quiet = False
        """Whether nothing moved between the last two looks, though something should have."""

    def ends(self, awaited: Awaited | None, turn: int, moved: int, now: float) -> bool:
        """Return whether the client has taken too long.

        Args:
            awaited: what it is waited for; None if it is not.
            turn: changes with every request, and with every answer.
            moved: bytes of the body, or the answer, that have moved in this turn, at least.
            now: seconds of any clock.
        """
        if (awaited, turn) != self._seen:
            self._seen, self._since, self._before = (awaited, turn), now, moved
            self._last, self.quiet = moved, False
            return False
        self.quiet = awaited in (Awaited.BODY, Awaited.READING) and moved == self._last
        self._last = moved
        limits, waited = self._limits, now - self._since
        match awaited:
            case None:
                return False
            case Awaited.REQUEST:
                return waited > limits.idle_timeout_s
            case Awaited.HEAD:
                return waited > limits.header_timeout_s
        if waited <= limits.stall_timeout_s:
            return False
        if moved - self._before < limits.window_bytes:
            return True
        self._since, self._before = now, moved
        return False
