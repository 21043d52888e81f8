"""Writes that must reach Redis however long it is gone: a job's final state, or its return to the queue.

A job's end is on disk first, in its note; then its images are removed; then Redis is told. So whoever sees a final
state can rely on the images being gone, and no outage between two of these steps loses the outcome.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from redis import ResponseError

from exchange.contracts import JobError, JobRecord, JobState, UpdateOutcome, receipt_for, utc_now
from exchange.jobs import JobExistsError, JobNotFoundError, Jobs, JobUnreadableError
from exchange.notes import Note, read_note, write_note
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool, SpoolError

logger = logging.getLogger(__name__)

T = TypeVar("T")
_FIRST_DELAY_S: Final = 0.1
_LONGEST_DELAY_S: Final = 5.0
_GRACE_S: Final = 10.0
"""How long a stopping worker keeps trying."""


class Ledger:
    """Repeats writes until Redis answers.

    Args:
        jobs: the jobs in Redis.
        spool: the jobs' images and notes.
        stop: set when the worker is to stop.
    """

    def __init__(self, jobs: Jobs, spool: Spool, *, stop: threading.Event) -> None:
        self.jobs = jobs
        self.spool = spool
        self._stop = stop

    def conclude(
        self, record: JobRecord, state: JobState, *, outcome: UpdateOutcome | None = None, error: JobError | None = None
    ) -> None:
        """Note the job's end, remove its images, and write its final state: the state implies that they are gone.

        Where the end cannot be noted, because the disk is full or the folder is gone, the state is written first.

        Raises:
            BrokerUnavailableError: the worker was asked to stop while Redis was gone.
        """
        ended = {"state": state, "outcome": outcome, "error": error, "finished_at": utc_now()}
        receipt = receipt_for(record.job, state)
        final = record.model_copy(update={**ended, "receipt": receipt, "owner": None, "heartbeat": None})
        if self._note(final):
            self._remove(lambda: self.spool.purge_images(record.job_id))
        self._finish(final)

    def conclude_as_noted(self, job_id: str) -> bool:
        """End a job whose end an earlier worker has noted and could not write. Returns whether there was one."""
        try:
            note = read_note(self.spool, job_id)
        except SpoolError as error:
            logger.warning("%s", error)
            return False
        if note is None or not note.record.state.terminal:
            return False
        self._finish(note.record)
        return True

    def refuse(self, job_id: str, why: str) -> None:
        """End a job whose record cannot be read, so that it holds up nothing.

        Raises:
            BrokerUnavailableError: the worker was asked to stop while Redis was gone.
        """
        error = JobError(kind="UnreadableJobError", message=why)
        try:
            self.insist(lambda: self.jobs.finish(job_id, JobState.FAILED, error=error))
        except ResponseError:  # what lies there is not even a job's hash
            self.insist(lambda: self.jobs.discard(job_id))
        logger.error("the job is over: failed: %s", why)
        self.purge(job_id)

    def put_back(self, record: JobRecord, *, counts: bool = True, pause_s: float = 0.0) -> bool:
        """Queue the job again, if it is still as `record` says, and send its message. Returns whether it did.

        With a pause, the message is sent `pause_s` seconds later, and other jobs run meanwhile.

        Raises:
            BrokerUnavailableError: the worker was asked to stop while Redis was gone.
        """
        job_id, owner, heartbeat = record.job_id, record.owner, record.heartbeat
        if not self.insist(lambda: self.jobs.requeue(job_id, owner=owner, heartbeat=heartbeat, counts=counts)):
            return False
        if pause_s > 0:
            timer = threading.Timer(pause_s, self._send, [record])
            timer.daemon = True
            try:
                timer.start()
            except RuntimeError:  # no thread can be started; the sweeper sends it
                logger.warning("the message is sent later")
        else:
            self.insist(lambda: self.jobs.send_again(record))
        return True

    def restore_if_lost(self, record: JobRecord) -> JobRecord:
        """Return the job's record; if Redis has lost it, write `record` and return that."""
        try:
            return self.jobs.get(record.job_id)
        except JobUnreadableError:
            raise
        except JobNotFoundError:
            logger.warning("Redis has lost the job's record; it is written again")
            with contextlib.suppress(JobExistsError):
                self.jobs.create(record)
            return self.jobs.get(record.job_id)

    def purge(self, job_id: str) -> None:
        """Remove what is spooled of the job. A failure is logged, and the sweeper tries again."""
        self._remove(lambda: self.spool.purge(job_id))

    def _note(self, final: JobRecord) -> bool:
        try:
            write_note(self.spool, Note(record=final))
        except (OSError, SpoolError) as error:
            logger.warning("the job's end could not be noted in the spool: %s", error)
            return False
        return True

    def _finish(self, final: JobRecord) -> None:
        def finish() -> None:
            done = self.jobs.finish(
                final.job_id, final.state, outcome=final.outcome, error=final.error, receipt=final.receipt
            )
            if not done:
                self.restore_if_lost(final)

        self.insist(finish)
        logger.info("the job is over: %s%s", final.state, f": {final.error.message}" if final.error else "")
        self.purge(final.job_id)

    def _send(self, record: JobRecord) -> None:
        try:
            self.jobs.send_again(record)
        except BrokerUnavailableError as error:
            logger.warning("%s; the sweeper sends the job's message", error)

    def _remove(self, removal: Callable[[], None]) -> None:
        try:
            removal()
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
