"""Makes the instant versions of jobs, beside the update that is running, on a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from redis import ResponseError

from exchange.contracts import InstantOutcome, JobError, JobRecord, JobState, utc_now
from exchange.jobs import JobNotFoundError
from exchange.redis_client import BrokerUnavailableError
from worker.ledger import Ledger
from worker.log import job_logging
from worker.messages import DoneInstantly, Failed, Order, ReadyToPublish, Told
from worker.patience import Patience
from worker.process import JobProcess, Lost, NotStartedError
from worker.settings import WorkerSettings
from worker.warm import Processes

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.05
_WAIT_S: Final = 1.0
"""Longest wait for a job before it is checked whether the worker is to stop."""
_OUTAGE_PAUSE_S: Final = 1.0


class InstantLane:
    """Takes jobs from the list of those that wait for their instant version, one at a time, and edits and checks.

    An instant version is an extra: whatever becomes of it, the job then goes to the queue of updates. A job that is
    lost here waits in the queue without a message, which the sweeper notices.

    Args:
        settings: the worker's settings.
        ledger: makes the writes that must reach Redis.
        processes: starts what does the work.
        run: handles a whole job, as it would one from the queue of updates; that of edits and checks.
        stop: set when the worker is to stop.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        ledger: Ledger,
        processes: Processes,
        *,
        run: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._jobs = ledger.jobs
        self._processes = processes
        self._run = run
        self._stop = stop

    def start(self) -> threading.Thread:
        """Work on a thread of its own until `stop` is set."""
        thread = threading.Thread(target=self._loop, name="instant", daemon=True)
        thread.start()
        return thread

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self.next(_WAIT_S)
            except BrokerUnavailableError:
                self._stop.wait(_OUTAGE_PAUSE_S)
            except Exception:
                logger.exception("an instant version could not be dealt with; its job is trained all the same")
                self._stop.wait(_OUTAGE_PAUSE_S)

    def next(self, timeout_s: float) -> None:
        """Deal with the first job on the list, if there is one within `timeout_s`.

        Raises:
            BrokerUnavailableError: Redis is gone.
        """
        job_id = self._jobs.next_instant(timeout_s)
        if job_id is None:
            return
        with job_logging(job_id):
            try:
                record = self._ledger.insist(lambda: self._jobs.get(job_id))
            except (JobNotFoundError, ResponseError) as error:  # the sweeper deals with it
                logger.warning("no instant version: %s", error)
                return
            if record.state is not JobState.QUEUED:
                logger.info("no instant version: the job is %s", record.state)
                return
            if record.job.is_quick:
                self._run(job_id)
                return
            if record.instant is None and not record.cancel_requested:
                outcome = self._make(record)
                if outcome is None:  # the worker is stopping, or the job is cancelled
                    if self._stop.is_set():
                        self._jobs.ask_instantly(job_id, first=True)
                        return
                else:
                    self._ledger.insist(lambda: self._jobs.save_instant(job_id, outcome))
            self._ledger.insist(lambda: self._jobs.send_update(job_id))
            self._processes.prepare()

    def _make(self, record: JobRecord) -> InstantOutcome | None:
        """Make the instant version; None if that was stopped."""
        begun = time.monotonic()
        try:
            process = self._processes.take(Order(job=record.job, settings=self._settings, instant=True))
        except NotStartedError as error:
            return _without(JobError(kind="LostError", message=f"its process {error}"), begun)
        verdict: DoneInstantly | Failed | Lost | None = None
        try:
            verdict = self._follow(process, record.job_id)
        finally:
            if isinstance(verdict, DoneInstantly):
                self._processes.give_back(process)
            else:
                process.close()
        match verdict:
            case DoneInstantly():
                logger.info("%s is there after %.1f s", verdict.outcome.version_id, time.monotonic() - begun)
                return verdict.outcome
            case Failed():
                return _without(verdict.error, begun)
            case Lost():
                return _without(JobError(kind="LostError", message=f"its process {verdict.how}"), begun)
        return None

    def _follow(self, process: JobProcess, job_id: str) -> DoneInstantly | Failed | Lost | None:
        patience = Patience(self._settings.max_job_s, self._settings.max_silence_s)
        beaten_at = float("-inf")
        while True:
            if time.monotonic() - beaten_at >= self._settings.heartbeat_s:
                beaten_at = time.monotonic()
                with contextlib.suppress(BrokerUnavailableError):  # silence during an outage does not count
                    self._jobs.waiting_heartbeat(job_id)
            message = process.next(_POLL_S)
            if isinstance(message, DoneInstantly | Failed | Lost):
                return message
            if (given_up_on := patience.after(message)) is not None:
                return Lost(given_up_on.error.message) if isinstance(given_up_on, Failed) else given_up_on
            if self._stop.is_set():
                return None
            if isinstance(message, Told) and message.labels is not None:
                with contextlib.suppress(BrokerUnavailableError):  # it is an extra, and so is the instant version
                    self._jobs.save_labels(job_id, message.labels)
            if isinstance(message, ReadyToPublish):
                if self._jobs.cancel_requested(job_id):
                    return None
                process.go()


def _without(error: JobError, begun: float) -> InstantOutcome:
    logger.warning("no instant version: %s: %s", error.kind, error.message)
    return InstantOutcome(error=error, seconds=round(time.monotonic() - begun, 3), at=utc_now())
