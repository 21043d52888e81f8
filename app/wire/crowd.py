"""All connections of a server: how many are open, which is closed for another, and which have waited too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from app.wire.limits import Limits

LINGER_S = 5.0
"""How long a client that was answered early is read from, so that a reset does not overtake the answer."""
LEFT_TO_LINGER = 4
"""How many of these are kept while files are scarce."""
FAREWELL_S = 0.5
"""How long a stopping server answers what comes on connections that are open."""


class Member(Protocol):
    """What the crowd asks of a connection. `now` is the event loop's time in seconds."""

    def look(self, now: float) -> None:
        """Cut the connection off if its client has taken too long."""

    def make_room(self) -> None:
        """Close the connection, because another needs its place."""

    def turn_away(self) -> None:
        """Answer that there is no place, and close."""

    def stalls(self) -> bool:
        """Return whether the client holds up a request that is in hand."""

    def drop(self) -> None:
        """Close at once, without an answer."""


class Crowd:
    """Admits connections up to a limit, and looks at each of them a few times per time-out.

    Timers of single connections would be set and cancelled with every request; one look at all costs a request nothing.

    Args:
        limits: how many connections, and how long they may take.
        count: called with the reason for each connection that the server ends by itself.
    """

    def __init__(self, limits: Limits, count: Callable[[str], None] = lambda reason: None) -> None:
        self.limits = limits
        self.count = count
        self.stopping = False
        """Whether each connection ends with its next answer."""
        self.closed = False
        """Whether nothing new is begun any more."""
        self._open: set[Member] = set()
        self._waiting: dict[Member, None] = {}  # for a request; a dict is ordered, so the first has waited longest
        self._lingering: dict[Member, float] = {}
        self._looking: asyncio.TimerHandle | None = None
        shortest = min(limits.header_timeout_s, limits.idle_timeout_s, limits.stall_timeout_s, 4.0)
        self._interval_s = shortest / 4

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, member: Member) -> None:
        """Take a new connection in; at the limit another is closed for it, or it is turned away."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(self._interval_s, self._look)
        if self.closed or (len(self._open) >= self.limits.connections and not self._make_room()):
            member.turn_away()
            return
        self._open.add(member)
        self._waiting[member] = None

    def make_room(self) -> None:
        """End a connection, because the process may open few more files; those that are answered go first."""
        self._make_room()
        for member in list(self._lingering)[:-LEFT_TO_LINGER]:
            member.drop()

    def waits(self, member: Member) -> None:
        """Note that a connection has no request in hand."""
        self._waiting[member] = None

    def works(self, member: Member) -> None:
        """Note that a connection has a request in hand."""
        self._waiting.pop(member, None)

    def lingers(self, member: Member) -> None:
        """Note that a connection was answered for the last time, and only waits for its client to close it."""
        self._leave(member)
        if len(self._lingering) >= self.limits.lingering:
            oldest = next(iter(self._lingering))
            del self._lingering[oldest]
            oldest.drop()
        self._lingering[member] = asyncio.get_running_loop().time() + (FAREWELL_S if self.stopping else LINGER_S)

    def gone(self, member: Member) -> None:
        """Forget a connection that is closed."""
        self._leave(member)
        self._lingering.pop(member, None)

    def stop(self) -> None:
        """Close what waits for a request, after a moment in which requests that come are still answered."""
        if self.stopping:
            return
        self.stopping = True
        asyncio.get_running_loop().call_later(FAREWELL_S, self._dismiss)

    def abandon(self) -> None:
        """Close every connection at once. Applications see that their clients are gone."""
        for member in [*self._open, *self._lingering]:
            member.drop()

    def _dismiss(self) -> None:
        self.closed = True
        for member in [*self._waiting, *self._lingering]:
            member.drop()

    def _leave(self, member: Member) -> None:
        self._open.discard(member)
        self._waiting.pop(member, None)

    def _make_room(self) -> bool:
        longest = next(iter(self._waiting), None)
        for_another = longest or next((member for member in self._open if member.stalls()), None)
        if for_another is None:
            return False
        self.count("made-room")
        for_another.make_room()
        return True

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for member in list(self._open):
            member.look(now)
        for member in [member for member, until in self._lingering.items() if until <= now]:
            member.drop()
        busy = self._open or self._lingering
        self._looking = loop.call_later(self._interval_s, self._look) if busy else None
