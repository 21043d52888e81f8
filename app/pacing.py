"""Holds refusals back where they come too fast, so that a flood of them leaves the server to those who mean well."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.metrics import Metrics

LONGEST_S: Final = 0.5
"""The longest that an answer is held back."""
MOST_CALLERS: Final = 4096
"""How many callers are remembered. The one that was refused longest ago is forgotten first."""
REFUSED: Final = "refused"
"""Set in a request's state where an answer is a refusal though its status does not say so."""
HELD_S: Final = "held_s"
"""Has the seconds in a request's state for which its answer was held back."""
_BUSY: Final = 429  # which says of the server that it is full, and nothing of the request


class Pace:
    """Says how long each refusal is held back, by caller: a bucket that leaks (`per_s`), and holds one second's.

    A caller is an IPv4 address, or the 64 bits of an IPv6 address that name a network.

    Args:
        per_s: refusals a second that one caller gets at once; 0: all of them.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = 1 / per_s if per_s else 0.0
        self._clock = clock
        self._due: OrderedDict[str | int, float] = OrderedDict()  # when a caller's bucket will be empty

    def wait_s(self, address: str) -> float:
        """Count a refusal, and return the seconds that it is held back."""
        caller = _caller(address)
        if not self._every_s or caller is None:
            return 0.0
        now = self._clock()
        due = max(now, self._due.pop(caller, 0.0)) + self._every_s
        self._due[caller] = min(due, now + 1 + LONGEST_S)
        if len(self._due) > MOST_CALLERS:
            self._due.popitem(last=False)
        return min(LONGEST_S, max(0.0, due - now - 1))


class Paced:
    """Middleware that holds the refusals of an app back as `pace` says. Other answers are never held."""

    def __init__(self, app: ASGIApp, pace: Pace, metrics: Metrics) -> None:
        self._app = app
        self._pace = pace
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def paced(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_refusal(message["status"], scope):
                wait_s = self._pace.wait_s((scope.get("client") or ("",))[0])
                if wait_s:
                    scope.setdefault("state", {})[HELD_S] = wait_s
                    self._metrics.refusals_held.inc()
                    await asyncio.sleep(wait_s)
            await send(message)

        await self._app(scope, receive, paced)


def _is_refusal(status: int, scope: Scope) -> bool:
    return (400 <= status < 500 and status != _BUSY) or bool(scope.get("state", {}).get(REFUSED))


def _caller(address: str) -> str | int | None:
    """Return who an address stands for; None if it is none, such as that of a socket without a network."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped) if ip.ipv4_mapped else int(ip) >> 64
