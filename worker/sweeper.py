"""Cleans up after dead workers: queues silent jobs and lost messages again, and removes forgotten images."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from exchange.contracts import JobRecord, JobState
from exchange.jobs import Jobs
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool
from worker.ledger import Ledger
from worker.log import job_logging
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sighting:
    signs: tuple[object, ...]
    since: float


class Sweeper:
    """Takes jobs over from dead workers. Every worker runs one.

    A job counts as silent when its heartbeat has not changed for `stale_after_s` of this process's own clock, during
    which Redis was reachable: neither clocks that disagree nor an outage make a living worker look dead.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        jobs: Jobs,
        spool: Spool,
        *,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stale_after_s = settings.stale_after_s
        self._jobs = jobs
        self._spool = spool
        self._ledger = Ledger(jobs, spool, stop=stop)
        self._stop = stop
        self._clock = clock
        self._sightings: dict[str, _Sighting] = {}

    def start(self) -> threading.Thread:
        """Sweep now, and then several times per `stale_after_s` on its own thread, until `stop` is set."""
        thread = threading.Thread(target=self._loop, name="sweeper", daemon=True)
        thread.start()
        return thread

    def _loop(self) -> None:
        while True:
            try:
                self.sweep()
            except BrokerUnavailableError:
                self._sightings.clear()
            except Exception:
                logger.exception("sweeping failed; it is tried again")
            if self._stop.wait(self._stale_after_s / 5):
                return

    def sweep(self) -> None:
        """Sweep once.

        Raises:
            BrokerUnavailableError: Redis is gone.
        """
        records = self._jobs.list()
        open_jobs = [record for record in records if not record.state.terminal]
        self._purge_orphans(records)
        silent = [record for record in open_jobs if self._silent_s(record) >= self._stale_after_s]
        self._sightings = {r.job_id: self._sightings[r.job_id] for r in open_jobs}
        for record in silent:
            with job_logging(record.job_id):
                self._wake(record)

    def _silent_s(self, record: JobRecord) -> float:
        """Return the seconds for which this job has shown no new sign of life."""
        signs = (record.state, record.attempts, record.owner, record.heartbeat)
        seen = self._sightings.get(record.job_id)
        if seen is None or seen.signs != signs:
            seen = self._sightings[record.job_id] = _Sighting(signs, self._clock())
        return self._clock() - seen.since

    def _wake(self, record: JobRecord) -> None:
        del self._sightings[record.job_id]
        if record.state == JobState.RUNNING:
            if self._ledger.put_back(record):
                logger.warning(
                    "no sign of life from %s for %.0f s; the job is queued again", record.owner, self._stale_after_s
                )
        elif self._jobs.waiting_messages() == 0:
            logger.warning("the job is queued without a message; the message is sent again")
            self._jobs.send_update(record.job_id)

    def _purge_orphans(self, records: list[JobRecord]) -> None:
        finished = {record.job_id for record in records if record.state.terminal}
        live = {record.job_id for record in records} - finished
        for job_id in self._spool.orphans(live, finished):
            logger.warning("removing spooled images that no job needs: %s", job_id)
            self._ledger.purge(job_id)
