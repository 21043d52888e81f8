"""Where uploads are checked: a few threads of low priority, given out in turns, and only while a client waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request

from app.errors import DeadlineError
from app.serving.admission import client_gone
from segp_cl.runtime.process import give_memory_back, short_turns, yield_to_others

T = TypeVar("T")
Check = Callable[[], None]


class Intake:
    """Runs the checks of uploads.

    Args:
        threads: uploads checked at the same time; more wait.
        timeout_s: the longest that one may wait and be checked, together.
        late: what a client is told that waited for longer.
    """

    def __init__(
        self, *, threads: int, timeout_s: float, late: str = "the upload was not checked; send it in parts"
    ) -> None:
        self._places = Places(threads)
        self._timeout_s, self._late = timeout_s, late
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="intake", initializer=yield_to_others)

    async def run(self, request: Request, caller: str, work: Callable[[Check], T]) -> T:
        """Return the result of `work`, which runs in a thread. The request's body must have been read.

        `work` gets a function that raises once the time is up or the client has hung up, and calls it often. What
        `work` returns nevertheless is returned. When this returns or raises, `work` has ended.

        Raises:
            DeadlineError: it took too long.
            ClientDisconnect: the client hung up.
        """
        wanted = _Wanted(self._timeout_s, self._late)
        task = asyncio.ensure_future(self._run(caller, work, wanted))
        gone = asyncio.ensure_future(client_gone(request))
        hung_up = True  # so it is when this task is cancelled, because the server stops
        try:
            await asyncio.wait({task, gone}, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            hung_up = gone.done()
        finally:
            gone.cancel()
            if hung_up:
                wanted.hung_up.set()
            if not wanted.begun:
                task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({task})
        if task.cancelled():
            wanted.check()
            raise wanted.too_late()
        return task.result()

    @property
    def is_idle(self) -> bool:
        """Whether no upload is being checked."""
        return self._places.is_idle

    def close(self) -> None:
        """End the threads when their work is done."""
        self._pool.shutdown()

    async def _run(self, caller: str, work: Callable[[Check], T], wanted: _Wanted) -> T:
        async with self._places.place(caller):
            wanted.begun = True
            return await asyncio.get_running_loop().run_in_executor(self._pool, _in_thread, work, wanted.check)


def _in_thread(work: Callable[[Check], T], check: Check) -> T:
    try:
        with short_turns():
            return work(check)
    finally:
        give_memory_back()


class _Wanted:
    """Whether an upload's result is still of use to anybody."""

    def __init__(self, timeout_s: float, late: str) -> None:
        self.hung_up = threading.Event()
        self.begun = False
        self._timeout_s, self._late = timeout_s, late
        self._deadline = time.monotonic() + timeout_s

    def check(self) -> None:
        """Raise if it is not."""
        if self.hung_up.is_set():
            raise ClientDisconnect("the client hung up before it was answered")
        if time.monotonic() >= self._deadline:
            raise self.too_late()

    def too_late(self) -> DeadlineError:
        return DeadlineError(f"within {self._timeout_s:g} s {self._late}")


class Places:
    """A number of places that callers take in turns, however many requests each of them has waiting."""

    def __init__(self, places: int) -> None:
        self._free = self._all = places
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the first caller's turn is next

    @property
    def is_idle(self) -> bool:
        """Whether no place is taken."""
        return self._free == self._all

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        if self._free:
            self._free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(caller, deque()).append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():  # it was given the place at the same moment
                    self._pass_on()
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            caller = next(iter(self._waiting))
            turns = self._waiting.pop(caller)
            turn = turns.popleft()
            if turns:
                self._waiting[caller] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
