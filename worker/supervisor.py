"""Handles a message: claims the job that it names, and makes one attempt at it."""

from __future__ import annotations

import logging
import os
import socket
import threading
from uuid import uuid4

from redis import ResponseError

from exchange.contracts import JobError, JobRecord, JobState
from exchange.jobs import JobNotFoundError, Jobs, JobUnreadableError
from exchange.notes import note_attempt
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool, SpoolError
from worker.attempt import Attempt, given_up
from worker.ledger import Ledger
from worker.log import job_logging
from worker.settings import WorkerSettings
from worker.sweeper import UNREADABLE
from worker.warm import Processes

logger = logging.getLogger(__name__)


class Supervisor:
    """Runs jobs, each on the calling thread. Two threads may run two jobs.

    Args:
        settings: the worker's settings.
        jobs: the jobs in Redis.
        spool: the jobs' images.
        stop: set when the worker is to stop; the running job then goes back to `queued`.
        processes: starts a job's process.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        jobs: Jobs,
        spool: Spool,
        *,
        stop: threading.Event,
        processes: Processes,
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._ledger = Ledger(jobs, spool, stop=stop)
        self._stop = stop
        self._processes = processes

    def run(self, job_id: str) -> None:
        """Handle a message. Never raises: errors are in the job's record or in the log.

        A message for a job that has ended, or that another worker runs, changes nothing.
        """
        with job_logging(job_id):
            try:
                self._run(job_id)
            except BrokerUnavailableError:
                logger.warning("stopped while Redis was gone; the job is run again once a worker notices its silence")
            except Exception:
                logger.exception("the job could not be handled")

    def _run(self, job_id: str) -> None:
        owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        try:
            obstacle = self._ledger.insist(lambda: self._jobs.claim(job_id, owner=owner))
        except JobNotFoundError:
            logger.warning("a message names a job that does not exist")  # the sweeper restores it if it has a note
            return
        except (ResponseError, ValueError):
            logger.exception("what is stored of the job is damaged")
            self._ledger.refuse(job_id, UNREADABLE)
            return
        if obstacle is not None:
            logger.info("nothing to do: the job is %s", obstacle)
            if obstacle.terminal:
                self._ledger.purge(job_id)
            return
        try:
            record = self._ledger.insist(lambda: self._jobs.get(job_id))
        except JobUnreadableError:
            logger.exception("what is stored of the job is damaged")
            self._ledger.refuse(job_id, UNREADABLE)
            return
        if self._ledger.conclude_as_noted(job_id):
            return
        self._note_attempt(record)
        if record.attempts > self._settings.max_attempts + 1:  # not even an attempt's end could be recorded
            self._ledger.conclude(record, JobState.FAILED, error=given_up(self._settings.max_attempts))
            return
        try:
            Attempt(record, self._settings, self._ledger, stop=self._stop, processes=self._processes).run()
        except BrokerUnavailableError:
            raise
        except Exception:
            logger.exception("the job could not be supervised")
            message = "the update failed unexpectedly; the worker's log has the details"
            self._ledger.conclude(record, JobState.FAILED, error=JobError(kind="InternalError", message=message))

    def _note_attempt(self, record: JobRecord) -> None:
        try:
            note_attempt(self._ledger.spool, record)
        except (OSError, SpoolError) as error:
            logger.warning("the attempt could not be noted in the spool: %s", error)
