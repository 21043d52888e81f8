"""Runs work that would block the event loop, each kind in a pool of its own.

What waits for a broker or a disk that hangs fills its own pool, is refused at once when that is full, and keeps
nothing else waiting.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from fastapi.responses import Response
from pydantic import BaseModel

from segp_cl.runtime.process import short_turns

T = TypeVar("T")


P = ParamSpec("P")


QUICK_BYTES = 256 * 1024
"""Up to this size, parsing is faster than handing over to a thread."""


class Pool:
    """Threads for one kind of blocking work.

    Args:
        name: of the threads.
        threads: how much of it runs at once.
        waiting: how much more may wait.
        full: makes the error that refuses the rest.
    """

    def __init__(self, name: str, *, threads: int, waiting: int, full: Callable[[], Exception]) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._places = threads + waiting
        self._full = full
        self._taken = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of `work`, which runs in a thread of this pool to its end.

        Raises:
            Exception: what `full` makes, at once, if there is no place left.
        """
        if self._taken >= self._places:
            raise self._full()
        self._taken += 1
        try:
            future = self._threads.submit(functools.partial(work, *args, **kwargs))
        except BaseException:
            self._taken -= 1
            raise
        loop = asyncio.get_running_loop()
        # the place is free when the work is done, not when its caller hangs up
        future.add_done_callback(lambda _: _on(loop, self._free))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the threads when their work is done; what still waits is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _free(self) -> None:
        self._taken -= 1


def _on(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(work)


async def off_loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of `work` on `size` bytes, which runs in a thread unless it is quick."""
    if size <= QUICK_BYTES:
        return work(*args, **kwargs)
    return await in_thread(work, *args, **kwargs)


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of `work`, which computes for long. It runs in a thread, and all threads take short turns."""

    def shortly() -> T:
        with short_turns():
            return work(*args, **kwargs)

    return await asyncio.to_thread(shortly)


def as_json(answer: BaseModel) -> Response:
    """Return the response with an answer. For routes that run in a thread: FastAPI would write it on the event loop."""
    return Response(answer.model_dump_json(by_alias=True), media_type="application/json")
