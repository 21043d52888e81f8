"""Keeps this server on CURRENT: polls it, loads a new version beside the live one, and swaps them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from app.errors import SwapTimeoutError
from app.metrics import Metrics
from app.serving.live_model import LiveModel, Served
from model_store.types import DamagedPointerError, VersionId

logger = logging.getLogger(__name__)

CONFIRM_S = 2.0
"""Seconds that a request waits for a look at CURRENT before it is refused."""


async def nobody_else(version_id: VersionId) -> bool:
    """Return False: the only server has no others beside it."""
    return False


async def nobody_is_left_out(version_id: VersionId) -> bool | None:
    """Return False: the only server is never left out."""
    return False


@dataclass(frozen=True)
class LoadFailure:
    """Why this server does not serve CURRENT. `at` is monotonic seconds."""

    version_id: VersionId | None
    reason: str
    at: float


class Watcher:
    """Follows CURRENT.

    While it loads a version that other servers already serve, this server refuses requests: no client must get the
    older version's answer here and the newer one's elsewhere. A prepared version is swapped in without a pause.

    Args:
        current: reads CURRENT.
        load: loads a version and runs it once; may raise.
        live: the version that is served.
        poll_s: seconds between two reads.
        backoff_s: seconds before a version that could not be loaded is tried again.
        metrics: counts failures and seconds.
        left_out: whether the other servers already serve a version; None: unknown.
        swapped: called after every swap.
        fallback: the versions to try, the best first, while nothing is served and CURRENT cannot be.
        served_elsewhere: whether another server serves a version; then this one must not answer with an older one.
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
        fallback: Callable[[], Sequence[VersionId]] = tuple,
        served_elsewhere: Callable[[VersionId], Awaitable[bool]] = nobody_else,
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
        self._fallback = fallback
        self._served_elsewhere = served_elsewhere
        self._prepared: Served | None = None
        self._looks = 0
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="versions")  # one reads CURRENT while the other loads
        self.failure: LoadFailure | None = None

    @property
    def prepared(self) -> VersionId | None:
        """The version that is ready to be swapped in."""
        return None if self._prepared is None else self._prepared.version_id

    @property
    def loading(self) -> bool:
        """Whether a version is being loaded."""
        return self._loading.locked()

    async def run(self) -> None:
        """Follow CURRENT until cancelled. A version that cannot be loaded does not end this."""
        watching = asyncio.create_task(self._keep_confirming())
        try:
            while True:
                await self.look()
                self._looks += 1
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
        """End the threads when their work is done."""
        self._pool.shutdown()

    async def served(self) -> Served:
        """Return the version that answers a whole request.

        On a machine that is too busy, CURRENT may not have been read for long. Then it is read first.

        Raises:
            NotReadyError: no version is loaded.
            StaleError: the other servers may serve another version.
        """
        if not self._live.is_confirmed:
            looks = self._looks
            self.wake()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONFIRM_S):
                    while self._looks == looks:  # a read alone does not yet say what follows from it
                        await asyncio.sleep(CONFIRM_S / 100)
        return self._live.get()

    def wake(self) -> None:
        """Read CURRENT now."""
        self._woken.set()

    async def look(self) -> None:
        """Read CURRENT and serve it, unless it is served already or failed a moment ago."""
        version_id: VersionId | None = None
        try:
            while (version_id := await self._named()) != self._live.version_id:
                if self._failed_lately(version_id):
                    return
                served = await self._take(version_id)
                if await self._read() == version_id:  # else it moved on while this one was loading
                    await self._swap(served)
        except Exception as error:  # the loop's edge: whatever is wrong with a version, the previous one stays
            self._note_failure(version_id, error)
            if self._live.version_id is None:
                try:
                    await self._serve_last_good(version_id)
                except Exception:
                    logger.exception("no earlier version can be served instead")
            return
        self.failure = None
        self._live.refuse(None)

    async def prepare(self, version_id: VersionId) -> None:
        """Load a version that CURRENT is about to move to, so that the move cannot fail.

        Raises:
            KeepsightError: it cannot be loaded.
        """
        if version_id == self._live.version_id:
            return
        served = await self._timed_load(version_id)
        self._prepared = served
        self.failure = None

    def discard(self) -> None:
        """Drop the prepared version, because CURRENT did not move to it."""
        self._prepared = None

    async def until_serving(self, version_id: VersionId, timeout_s: float) -> None:
        """Return as soon as `version_id` is served.

        Raises:
            SwapTimeoutError: it is not served within `timeout_s`.
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
        # if nobody can say what the others serve, the previous version is better than no answer
        if self._live.version_id is not None and await self._left_out(version_id):
            self._live.refuse(f"the other servers have moved on to {version_id}, which this server is loading")
        return await self._timed_load(version_id)

    async def _serve_last_good(self, failed: VersionId | None) -> None:
        """Serve the version that CURRENT named before, because a server that has just started has nothing else."""
        if failed is not None and await self._served_elsewhere(failed):
            return
        failure = self.failure
        candidates = await asyncio.get_running_loop().run_in_executor(self._pool, self._fallback)
        for version_id in candidates:
            if version_id == failed:
                continue
            try:
                served = await self._timed_load(version_id)
            except Exception as error:  # the next one may be better
                logger.error("cannot serve %s instead: %s", version_id, error)
                continue
            await self._swap(served)
            logger.error("serving model_version=%s, which was CURRENT before, until CURRENT can be served", version_id)
            break
        self.failure = failure

    async def _swap(self, served: Served) -> None:
        async with self._swapped:
            self._live.swap(served)
            self._live.refuse(None)
            self.failure = None
            self._swapped.notify_all()
        self._tell()

    async def _named(self) -> VersionId:
        version_id = await self._read()
        if version_id is None:
            raise DamagedPointerError("there is no CURRENT; roll back to a named version")
        return version_id

    async def _read(self) -> VersionId | None:
        """Read CURRENT. A read that fails renews the lease too."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._current)
        finally:
            self._live.confirm()

    async def _keep_confirming(self) -> None:
        """Keep reading CURRENT while `look` loads a version or asks about others, which may outlast the lease."""
        while True:
            await asyncio.sleep(self._poll_s)
            with contextlib.suppress(Exception):  # `look` meets the same error and logs it
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
