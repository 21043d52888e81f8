"""Limits requests: how many run at once, for how long, and only while the client is connected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from app.errors import BusyError, DeadlineError
from app.metrics import Metrics

T = TypeVar("T")


class Admission:
    """A limited number of places. A request takes one before its images are decoded, and returns it when answered.

    Args:
        places: most requests at once.
        timeout_s: the longest that a request may hold a place.
        metrics: shows the requests that hold a place.
    """

    def __init__(self, *, places: int, timeout_s: float, metrics: Metrics) -> None:
        self._places = places
        self._timeout_s = timeout_s
        self._in_hand = 0
        metrics.in_hand.set_function(lambda: self._in_hand)

    @property
    def is_idle(self) -> bool:
        """Whether no place is taken."""
        return not self._in_hand

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place.

        Raises:
            BusyError: all places are taken.
        """
        if self._in_hand >= self._places:
            raise BusyError(f"{self._in_hand} requests are in progress; at most {self._places} are allowed")
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1

    async def while_wanted(
        self, request: Request, work: Callable[[], Coroutine[Any, Any, T]], *, timeout_ms: int | None
    ) -> T:
        """Return the result of `work`, run in a place for at most `timeout_ms` and the server's limit.

        Raises:
            BusyError: all places are taken.
            DeadlineError: it took too long.
            ClientDisconnect: the client hung up.
        """
        # compared before it is divided: a client may send a number that no float holds
        seconds = self._timeout_s if timeout_ms is None else min(1000 * self._timeout_s, timeout_ms) / 1000
        try:
            with self.place():
                async with asyncio.timeout(seconds):
                    return await unless_gone(request, work())
        except TimeoutError:
            raise DeadlineError(f"there was no answer within {seconds:g} s") from None


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`; cancel it if the client hangs up. The body must have been read.

    Raises:
        ClientDisconnect: the client hung up.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(client_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect("the client hung up before it was answered")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def client_gone(request: Request) -> None:
    """Return when the client hangs up. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
