"""Threads that work for several callers at once, one item of each in turn."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from app.errors import StoppingError

T = TypeVar("T")
R = TypeVar("R")


class _Caller:
    """The items of one call of `run`. The caller is woken once all have their results."""

    def __init__(self, work: Callable[[Any], Any], items: Sequence[Any]) -> None:
        self.work = work
        self.items = items
        self.begun = 0
        self.open = len(items)
        self.results: list[Any] = [None] * len(items)
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()

    def wake(self, error: BaseException | None) -> None:
        """End the caller's waiting, from any thread."""

        def end() -> None:
            if self.done.done():
                return
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)

        with contextlib.suppress(RuntimeError):  # its loop is closed, so no caller waits
            self.loop.call_soon_threadsafe(end)


class Turns:
    """A pool of threads. Callers take turns, one item each, so that one with many items does not hold up the others.

    Args:
        threads: items in work at the same time.
        name: prefix of the threads' names.
        begin: called by every thread before its first item.
    """

    def __init__(self, threads: int, name: str, *, begin: Callable[[], None] | None = None) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=begin)
        self._lock = threading.Lock()
        self._callers: deque[_Caller] = deque()

    async def run(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return `work(item)` for every item, in order.

        If the caller is cancelled or runs out of time, items that no thread has begun are never begun.

        Raises:
            StoppingError: the pool is closed.
            Exception: what `work` raised, once; the items that are not begun by then are never begun.
        """
        if not items:
            return []
        caller = _Caller(work, items)
        with self._lock:
            self._callers.append(caller)
        try:
            for _ in items:
                self._pool.submit(self._turn)  # a turn of whoever's it is then, not of this item
            await caller.done
        except BaseException as error:
            self._forget(caller)
            if isinstance(error, RuntimeError) and not caller.done.done():
                raise StoppingError("the server is stopping") from error
            raise
        return cast("list[R]", caller.results)

    def close(self) -> None:
        """End the threads when their work is done."""
        self._pool.shutdown()

    def _forget(self, caller: _Caller) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._callers.remove(caller)

    def _turn(self) -> None:
        with self._lock:
            if not self._callers:
                return  # its caller gave up
            caller = self._callers.popleft()
            place = caller.begun
            caller.begun += 1
            if caller.begun < len(caller.items):
                self._callers.append(caller)
        error: BaseException | None = None
        try:
            caller.results[place] = caller.work(caller.items[place])
        except BaseException as raised:  # the thread's edge: the caller gets the error
            error = raised
            self._forget(caller)
        with self._lock:
            caller.open -= 1
            last = caller.open == 0
        if last or error is not None:
            caller.wake(error)
