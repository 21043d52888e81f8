"""Places for requests: so many at once, each for a while, and only while its client waits."""

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
    """The places. A request takes one before its images are decoded, and gives it back with its answer.

    Args:
        places: requests in hand at once.
        timeout_s: the longest that a request may hold a place.
        metrics: where requests in hand are shown.
    """

    def __init__(self, *, places: int, timeout_s: float, metrics: Metrics) -> None:
        self._places = places
        self._timeout_s = timeout_s
        self._in_hand = 0
        metrics.in_hand.set_function(lambda: self._in_hand)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place.

        Raises:
            BusyError: all places are taken.
        """
        if self._in_hand >= self._places:
            raise BusyError(f"{self._in_hand} requests are in hand already, as many as are allowed")
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1

    async def while_wanted(
        self, request: Request, work: Callable[[], Coroutine[Any, Any, T]], *, timeout_ms: int | None
    ) -> T:
        """The result of `work`, done in a place: at most for `timeout_ms`, or what the server allows.

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
    """The result of `work`, which is cancelled as soon as the client hangs up. The body must have been read.

    Raises:
        ClientDisconnect: it has.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect("the client hung up before it was answered")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
