"""Keeps this server on CURRENT: looks at the store every second and when woken, loads beside the live one, swaps."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from app.errors import SwapTimeoutError
from app.metrics import Metrics
from app.serving.live_model import LiveModel, Served
from model_store.types import VersionId

logger = logging.getLogger(__name__)


async def nobody_is_left_out(version_id: VersionId) -> bool | None:
    """Where a server is the only one."""
    return False


@dataclass(frozen=True)
class LoadFailure:
    """Why this server does not serve CURRENT. `at` is monotonic seconds."""

    version_id: VersionId | None
    reason: str
    at: float


class Watcher:
    """Follows the pointer.

    While a version loads that others serve already, this server refuses to answer: nobody must get the answer of an
    older one from here and of the newer one next door. What was prepared in time is swapped in without a pause.

    Args:
        current: reads CURRENT.
        load: brings a version into memory and lets it answer once; may raise.
        live: what is served.
        poll_s: seconds between two looks.
        backoff_s: seconds before a version that could not be loaded is tried again.
        metrics: where failures and seconds are counted.
        left_out: whether the other servers serve a version already; None: nobody can say.
        swapped: called after every swap.
    """

    def __init__(
        self,
        *,
        current: Callable[[], VersionId | None],
        load: Callable[[VersionId], Served],
        live: LiveModel,
        poll_s: float,
        backoff_s: float,
        metrics: Metrics,
        left_out: Callable[[VersionId], Awaitable[bool | None]] = nobody_is_left_out,
        swapped: Callable[[], None] = lambda: None,
    ) -> None:
        self._current = current
        self._load = load
        self._live = live
        self._poll_s = poll_s
        self._backoff_s = backoff_s
        self._metrics = metrics
        self._woken = asyncio.Event()
        self._swapped = asyncio.Condition()
        self._loading = asyncio.Lock()
        self._left_out = left_out
        self._tell = swapped
        self._prepared: Served | None = None
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="versions")  # one looks while the other loads
        self.failure: LoadFailure | None = None

    @property
    def prepared(self) -> VersionId | None:
        """What is ready to be swapped in."""
        return None if self._prepared is None else self._prepared.version_id

    @property
    def loading(self) -> bool:
        """Whether a version is being brought into memory."""
        return self._loading.locked()

    async def run(self) -> None:
        """Follow the pointer until cancelled. Nothing that goes wrong with a version ends this."""
        watching = asyncio.create_task(self._keep_confirming())
        try:
            while True:
                await self.look()
                try:
                    async with asyncio.timeout(self._poll_s):  # wait_for would swallow a cancellation that meets a wake
                        await self._woken.wait()
                except TimeoutError:
                    continue
                finally:
                    self._woken.clear()
        finally:
            watching.cancel()

    def close(self) -> None:
        """End the threads once they are done."""
        self._pool.shutdown()

    def wake(self) -> None:
        """Look now."""
        self._woken.set()

    async def look(self) -> None:
        """Read CURRENT and serve it, unless it is served already or failed a moment ago."""
        version_id: VersionId | None = None
        try:
            while (version_id := await self._read()) is not None and version_id != self._live.version_id:
                if self._failed_lately(version_id):
                    return
                served = await self._take(version_id)
                if await self._read() == version_id:  # else it moved on while this one was loading
                    await self._swap(served)
        except Exception as error:  # the loop's edge: whatever is wrong with a version, the one before stays
            self._note_failure(version_id, error)
            return
        self.failure = None
        self._live.refuse(None)

    async def prepare(self, version_id: VersionId) -> None:
        """Load a version that CURRENT is about to move to, so that the move cannot fail for it.

        Raises:
            KeepsightError: it cannot be loaded.
        """
        if version_id == self._live.version_id:
            return
        served = await self._timed_load(version_id)
        self._prepared = served
        self.failure = None

    def discard(self) -> None:
        """Let go of a prepared version, because CURRENT did not move to it after all."""
        self._prepared = None

    async def until_serving(self, version_id: VersionId, timeout_s: float) -> None:
        """Return as soon as `version_id` is served.

        Raises:
            SwapTimeoutError: it is not within `timeout_s`.
        """
        self.wake()
        try:
            async with asyncio.timeout(timeout_s), self._swapped:
                await self._swapped.wait_for(lambda: self._live.version_id == version_id)
        except TimeoutError:
            why = f": {self.failure.reason}" if self.failure else ""
            raise SwapTimeoutError(
                f"CURRENT moved to {version_id}, but after {timeout_s:g} s this server still serves "
                f"{self._live.version_id}{why}"
            ) from None

    async def _take(self, version_id: VersionId) -> Served:
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared.version_id == version_id:
            return prepared
        left_out = self._live.version_id is not None and await self._left_out(version_id)
        if left_out is not False:
            self._live.refuse(f"the other servers have moved on to {version_id}, which this one is loading")
        try:
            return await self._timed_load(version_id)
        except Exception:
            if left_out is None:  # perhaps nobody serves it: better the version before than nothing
                self._live.refuse(None)
            raise

    async def _swap(self, served: Served) -> None:
        async with self._swapped:
            self._live.swap(served)
            self._live.refuse(None)
            self.failure = None
            self._swapped.notify_all()
        self._tell()

    async def _read(self) -> VersionId | None:
        """CURRENT. That it was read, or that it cannot be, counts as having looked."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._current)
        finally:
            self._live.confirm()

    async def _keep_confirming(self) -> None:
        """Go on looking while a version loads, which may take longer than a server may go without a look."""
        while True:
            await asyncio.sleep(self._poll_s)
            if self._loading.locked():
                with contextlib.suppress(Exception):  # `look` will meet it too, and say so
                    await self._read()

    async def _timed_load(self, version_id: VersionId) -> Served:
        async with self._loading:  # two versions loading at once would need the memory of three
            begun = time.perf_counter()
            served = await asyncio.get_running_loop().run_in_executor(self._pool, self._load, version_id)
            self._metrics.load_seconds.observe(time.perf_counter() - begun)
            return served

    def _failed_lately(self, version_id: VersionId) -> bool:
        failure = self.failure
        return (
            failure is not None and failure.version_id == version_id and time.monotonic() - failure.at < self._backoff_s
        )

    def _note_failure(self, version_id: VersionId | None, error: Exception) -> None:
        self._metrics.load_failures.inc()
        first = self.failure is None or self.failure.version_id != version_id
        self.failure = LoadFailure(version_id, str(error) or type(error).__name__, time.monotonic())
        log = logger.error if first else logger.debug
        log(
            "cannot serve %s, staying on model_version=%s: %s",
            version_id or "CURRENT",
            self._live.version_id or "none",
            error,
        )
