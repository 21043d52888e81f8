"""Follows jobs for event streams: one subscription and one poll for each job, however many streams follow it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from app.errors import BusyError
from app.offload import Pool
from app.schemas import JobView
from exchange.announcements import Announcements
from exchange.contracts import JobRecord, events_channel
from exchange.jobs import JobNotFoundError, Jobs
from exchange.notes import find
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool

logger = logging.getLogger(__name__)

MISSING_S: Final = 30.0
"""Seconds after which a job that the broker does not know is gone: a worker restores one that was only lost."""


@dataclass(frozen=True)
class Sight:
    """A job as it was read. `id` is the same for the same content, so that a client can say what it saw last."""

    id: str
    state: str
    terminal: bool
    data: str

    @classmethod
    def of(cls, record: JobRecord) -> Sight:
        """Return what clients see of a record."""
        data = JobView.of(record).model_dump_json()
        return cls(sha256(data.encode()).hexdigest()[:16], record.state.value, record.state.terminal, data)


@dataclass
class _Feed:
    last: Sight
    over: bool = False
    followers: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    reader: asyncio.Task[None] | None = None


class JobFeeds:
    """The jobs that are followed on this server.

    Args:
        jobs: the jobs in the broker.
        spool: the jobs' notes.
        announcements: wake the readers up.
        pool: where the broker is asked.
        poll_s: seconds between two reads of a job, beside its announcements.
        most: streams at once.
    """

    def __init__(
        self, jobs: Jobs, spool: Spool, announcements: Announcements, pool: Pool, *, poll_s: float, most: int
    ) -> None:
        self._jobs = jobs
        self._spool = spool
        self._announcements = announcements
        self._pool = pool
        self._poll_s = poll_s
        self._most = most
        self._feeds: dict[str, _Feed] = {}

    async def first(self, job_id: str) -> Sight:
        """Return the job now, for a stream that is about to follow it.

        Raises:
            BusyError: as many streams are open as are allowed.
            JobNotFoundError: there is no such job.
            BrokerUnavailableError: the broker does not answer.
        """
        if sum(feed.followers for feed in self._feeds.values()) >= self._most:
            raise BusyError(f"{self._most} event streams are open, as many as are allowed; poll the job instead")
        feed = self._feeds.get(job_id)
        if feed is not None:
            return feed.last
        return await self._pool.run(self._look, job_id)

    async def follow(self, job_id: str, first: Sight) -> AsyncGenerator[Sight]:
        """Yield `first`, and the job after every change until it has ended. A slow caller misses what came between."""
        yield first
        if first.terminal:
            return
        feed = self._feeds.get(job_id)
        if feed is None:
            feed = self._feeds[job_id] = _Feed(last=first)
            feed.reader = asyncio.create_task(self._read(job_id, feed))
        feed.followers += 1
        seen = first
        try:
            while not seen.terminal:
                async with feed.changed:
                    while feed.last == seen and not feed.over:
                        await feed.changed.wait()
                if feed.last == seen:
                    return
                seen = feed.last
                yield seen
        finally:
            feed.followers -= 1
            if not feed.followers:
                self._drop(job_id, feed)

    async def close(self) -> None:
        """Stop reading; the streams end."""
        readers = [feed.reader for feed in self._feeds.values() if feed.reader is not None]
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    def _drop(self, job_id: str, feed: _Feed) -> None:
        if self._feeds.get(job_id) is feed:
            del self._feeds[job_id]
        if feed.reader is not None:
            feed.reader.cancel()

    def _look(self, job_id: str) -> Sight:
        return Sight.of(find(self._jobs, self._spool, job_id))

    async def _read(self, job_id: str, feed: _Feed) -> None:
        """Keep the feed up to date until the job has ended, and tell its streams."""
        woken = asyncio.Event()
        try:
            async with self._announcements.on(events_channel(job_id), woken.set):
                missing_since: float | None = None
                while True:
                    woken.clear()
                    try:
                        sight = await self._pool.run(self._look, job_id)
                    except BrokerUnavailableError:
                        pass  # the streams' heartbeats go on, and so may the job
                    except JobNotFoundError:
                        missing_since = missing_since or time.monotonic()
                        if time.monotonic() - missing_since > MISSING_S:
                            return
                    else:
                        missing_since = None
                        async with feed.changed:
                            feed.last = sight
                            feed.changed.notify_all()
                        if sight.terminal:
                            return
                    with contextlib.suppress(TimeoutError):  # wait_for would swallow a cancellation that meets a wake
                        async with asyncio.timeout(self._poll_s):
                            await woken.wait()
        except Exception:
            logger.exception("job %s cannot be followed any more", job_id)
        finally:
            feed.over = True
            if self._feeds.get(job_id) is feed:  # streams that come later begin anew
                del self._feeds[job_id]
            async with feed.changed:
                feed.changed.notify_all()
