"""Work for a request goes on only while somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from starlette.requests import ClientDisconnect, Request

from app.errors import DeadlineError
from app.services import Services

T = TypeVar("T")
P = ParamSpec("P")
QUICK_BYTES = 256 * 1024
"""Bytes that are parsed sooner than a thread takes over."""


async def off_loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work` on `size` bytes: in a thread, so that the event loop goes on, unless it is quick."""
    if size <= QUICK_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


async def while_wanted(
    request: Request, services: Services, work: Callable[[], Coroutine[Any, Any, T]], *, timeout_ms: int | None
) -> T:
    """The result of `work`, done in one of the engine's places: at most for `timeout_ms`, or what the server allows.

    Raises:
        BusyError: all places are taken.
        DeadlineError: it took too long.
        ClientDisconnect: the client hung up.
    """
    seconds = services.settings.classify_timeout_s
    if timeout_ms is not None:
        seconds = min(seconds, timeout_ms / 1000)
    try:
        with services.engine.admit():
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
