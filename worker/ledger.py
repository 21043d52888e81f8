"""What must reach Redis however long it is gone: a job's final state, and its way back into the queue."""

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
"""How long a worker that was asked to stop still tries."""


class Ledger:
    """Writes that are repeated until Redis answers, and the removal of spooled images that goes before them.

    Args:
        broker: where jobs are kept.
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
        """Remove the job's images, then make its end known: who sees a final state can rely on their absence.

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
        """Queue the job again, if it is still as `record` says, and send its message.

        Raises:
            BrokerUnavailableError: the worker was asked to stop while Redis was gone.
        """
        job_id, owner, heartbeat = record.job_id, record.owner, record.heartbeat
        if not self.insist(lambda: self.jobs.requeue(job_id, owner=owner, heartbeat=heartbeat, counts=counts)):
            return False
        self.insist(lambda: self.jobs.send_update(job_id))
        return True

    def restore_if_lost(self, record: JobRecord) -> JobRecord:
        """The job's record, written anew as `record` if Redis came back without it."""
        try:
            return self.jobs.get(record.job_id)
        except JobNotFoundError:
            logger.warning("Redis has lost the job's record; it is written again")
            self.jobs.create(record)
            return record

    def purge(self, job_id: str) -> None:
        """Remove the job's images. What cannot be removed is logged; the sweeper tries again."""
        try:
            self._spool.purge(job_id)
        except (OSError, SpoolError):
            logger.exception("the job's spool could not be removed; it is tried again while the worker runs")

    def insist(self, call: Callable[[], T]) -> T:
        """Call until Redis answers.

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
