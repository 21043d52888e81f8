"""Writes that must reach Redis however long it is gone: a job's final state, or its return to the queue."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from exchange.contracts import JobError, JobRecord, JobState, UpdateOutcome, utc_now
from exchange.jobs import JobNotFoundError, Jobs
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool, SpoolError

logger = logging.getLogger(__name__)

T = TypeVar("T")
_FIRST_DELAY_S: Final = 0.1
_LONGEST_DELAY_S: Final = 5.0
_GRACE_S: Final = 10.0
"""How long a stopping worker keeps trying."""


class Ledger:
    """Repeats writes until Redis answers, and removes a job's spooled images before its final state is written.

    Args:
        jobs: the jobs in Redis.
        spool: the jobs' images.
        stop: set when the worker is to stop.
    """

    def __init__(self, jobs: Jobs, spool: Spool, *, stop: threading.Event) -> None:
        self.jobs = jobs
        self._spool = spool
        self._stop = stop

    def conclude(
        self, record: JobRecord, state: JobState, *, outcome: UpdateOutcome | None = None, error: JobError | None = None
    ) -> None:
        """Remove the job's images, then write its final state: the state implies that the images are gone.

        Raises:
            BrokerUnavailableError: the worker was asked to stop while Redis was gone.
        """
        self.purge(record.job_id)
        ended = {"state": state, "outcome": outcome, "error": error, "finished_at": utc_now()}
        final = record.model_copy(update={**ended, "owner": None, "heartbeat": None})

        def finish() -> None:
            if not self.jobs.finish(record.job_id, state, outcome=outcome, error=error):
                self.restore_if_lost(final)

        self.insist(finish)
        logger.info("the job is over: %s%s", state, f": {error.message}" if error else "")

    def put_back(self, record: JobRecord, *, counts: bool = True) -> bool:
        """Queue the job again, if it is still as `record` says, and send its message. Returns whether it did.

        Raises:
            BrokerUnavailableError: the worker was asked to stop while Redis was gone.
        """
        job_id, owner, heartbeat = record.job_id, record.owner, record.heartbeat
        if not self.insist(lambda: self.jobs.requeue(job_id, owner=owner, heartbeat=heartbeat, counts=counts)):
            return False
        self.insist(lambda: self.jobs.send_update(job_id))
        return True

    def restore_if_lost(self, record: JobRecord) -> JobRecord:
        """Return the job's record; if Redis has lost it, write `record` and return that."""
        try:
            return self.jobs.get(record.job_id)
        except JobNotFoundError:
            logger.warning("Redis has lost the job's record; it is written again")
            self.jobs.create(record)
            return record

    def purge(self, job_id: str) -> None:
        """Remove the job's images. A failure is logged, and the sweeper tries again."""
        try:
            self._spool.purge(job_id)
        except (OSError, SpoolError):
            logger.exception("the job's spooled images could not be removed; the sweeper will try again")

    def insist(self, call: Callable[[], T]) -> T:
        """Repeat a call until Redis answers, and return its result.

        Raises:
            BrokerUnavailableError: the worker was asked to stop, and Redis did not come back in time.
        """
        delay_s, deadline = _FIRST_DELAY_S, None
        while True:
            try:
                return call()
            except BrokerUnavailableError as error:
                if self._stop.is_set():
                    deadline = deadline or time.monotonic() + _GRACE_S
                    if time.monotonic() > deadline:
                        raise
                logger.warning("%s; trying again in %.1f s", error, delay_s)
            time.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
