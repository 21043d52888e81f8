"""Batches items: those that queue up during a batch form the next one. No timer runs while it is idle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from app.errors import StoppingError

logger = logging.getLogger(__name__)

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")


class _Request(Generic[K, T, R]):
    """The items of one call of `run`, waiting, running or done. The caller is woken once all are done."""

    def __init__(self, key: K, items: Sequence[T]) -> None:
        self.key = key
        self.items = items
        self.begun = 0
        self.open = len(items)
        self.since = time.monotonic()
        self.results: list[R | Exception | None] = [None] * len(items)
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()

    def finish(self, place: int, result: R | Exception) -> bool:
        """Keep an item's result and return whether it was the last."""
        self.results[place] = result
        self.open -= 1
        return self.open == 0

    def tell(self) -> None:
        """Wake the caller, from any thread."""
        with contextlib.suppress(RuntimeError):  # its loop is closed, so no caller waits
            self.loop.call_soon_threadsafe(self._set_done)

    def _set_done(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Batcher(Generic[K, T, R]):
    """Runs `work(key, items)` on its own thread, with as many of the waiting items as fit in a batch.

    A single request runs at once. While a batch runs, the next one gathers; if `ahead` allows, it starts as soon as it
    is full, so that `work` need not pause between the two.

    All items of a batch have the same key, that of the request that has waited longest. Requests take turns, one item
    each, so that a large one does not hold up small ones. If `work` fails, the batch is halved until each failing item
    is alone, and only that item gets the error.

    Args:
        work: returns a result for every item, in order; an exception among them is that item's result.
        name: the thread's name.
        max_batch_size: most items of one batch.
        max_wait_s: how long a batch that is not full waits for more after its first item arrived; 0: not at all.
        ahead: full batches that may run beside another, each on one more thread.
        observe: called with the size and seconds of every batch.
    """

    def __init__(
        self,
        work: Callable[[K, Sequence[T]], Sequence[R | Exception]],
        *,
        name: str,
        max_batch_size: int,
        max_wait_s: float = 0.0,
        ahead: int = 0,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._work = work
        self._max_batch_size = max_batch_size
        self._max_wait_s = max_wait_s
        self._observe = observe
        self._waiting: deque[_Request[K, T, R]] = deque()
        self._changed = threading.Condition()
        self._running = 0
        self._stopping = False
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for _ in range(1 + ahead)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        with self._changed:
            return sum(len(request.items) - request.begun for request in self._waiting)

    async def run(self, key: K, items: Sequence[T]) -> list[R | Exception]:
        """Return the results of all items, in order.

        If the caller is cancelled or runs out of time, items that no batch has taken are never run.

        Raises:
            StoppingError: the batcher is closing.
        """
        if not items:
            return []
        request: _Request[K, T, R] = _Request(key, items)
        with self._changed:
            if self._stopping:
                raise StoppingError("the server is stopping")
            self._waiting.append(request)
            self._changed.notify_all()
        try:
            await request.done
        except BaseException:
            with self._changed:
                if request in self._waiting:
                    self._waiting.remove(request)
            raise
        return [result for result in request.results if result is not None]

    def close(self) -> None:
        """Run the waiting items, then end the threads. Later calls of `run` are refused."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while taken := self._take():
            key = taken[0][0].key
            begun = time.perf_counter()
            results = self._results(key, [request.items[place] for request, place in taken])
            if self._observe is not None:
                self._observe(len(taken), time.perf_counter() - begun)
            with self._changed:
                self._running -= 1
                self._changed.notify_all()
                done = [
                    request
                    for (request, place), result in zip(taken, results, strict=True)
                    if request.finish(place, result)
                ]
            for request in done:
                request.tell()

    def _take(self) -> list[tuple[_Request[K, T, R], int]]:
        """Wait for the next batch and return its (request, index of the item) pairs; empty when closed."""
        with self._changed:
            while True:
                if not self._waiting and self._stopping:
                    return []
                left: float | None = None
                if self._waiting:
                    full = self._fillable() >= self._max_batch_size
                    if self._running == 0:
                        left = self._waiting[0].since + self._max_wait_s - time.monotonic()
                    if full or (left is not None and (left <= 0 or self._stopping)):
                        self._running += 1
                        return self._fill()
                self._changed.wait(left)

    def _fillable(self) -> int:
        key = self._waiting[0].key
        return sum(len(request.items) - request.begun for request in self._waiting if request.key == key)

    def _fill(self) -> list[tuple[_Request[K, T, R], int]]:
        turns = deque(request for request in self._waiting if request.key == self._waiting[0].key)
        taken: list[tuple[_Request[K, T, R], int]] = []
        while turns and len(taken) < self._max_batch_size:
            request = turns.popleft()
            taken.append((request, request.begun))
            request.begun += 1
            if request.begun < len(request.items):
                turns.append(request)
        self._waiting = deque(request for request in self._waiting if request.begun < len(request.items))
        return taken

    def _results(self, key: K, items: Sequence[T]) -> Sequence[R | Exception]:
        try:
            results = self._work(key, items)
            if len(results) != len(items):
                raise RuntimeError(f"work returned {len(results)} results for {len(items)} items")
            return results
        except Exception as error:  # the thread's edge: only the failing item gets the error
            if len(items) == 1:
                logger.warning("an item cannot be run: %s", error, exc_info=error)
                return [error]
        half = len(items) // 2
        return [*self._results(key, items[:half]), *self._results(key, items[half:])]
