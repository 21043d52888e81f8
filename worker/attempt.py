"""One attempt at a job: follows its process, writes its progress, and stops it on request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Final, TypeVar

from redis import ResponseError

from exchange.contracts import JobError, JobProgress, JobRecord, JobState
from exchange.jobs import JobNotFoundError
from exchange.redis_client import BrokerUnavailableError
from worker.ledger import Ledger
from worker.messages import NOT_PUBLISHED, Done, Failed, Order, ReadyToPublish, Step, Told
from worker.patience import Patience
from worker.process import JobProcess, Lost, NotStartedError
from worker.progress import ProgressClock
from worker.settings import WorkerSettings
from worker.warm import Processes

logger = logging.getLogger(__name__)

T = TypeVar("T")
_POLL_S: Final = 0.2
"""Longest wait for a message before cancellation and heartbeat are checked."""
_WRITE_EVERY_S: Final = 0.2
"""Least time between two writes of progress within one phase."""
_OUTAGE_PAUSE_S: Final = 1.0
"""Pause between calls while Redis is gone, so that the job's process does not wait for it."""


class Interrupted(Enum):
    """Why this worker ended a job's process."""

    CANCELLED = auto()
    STOPPING = auto()
    FINISHED_ELSEWHERE = auto()
    GIVES_WAY = auto()


Verdict = Done | Failed | Lost | Interrupted


class Attempt:
    """One run of a job that this worker has claimed.

    Args:
        record: the job, as claimed.
        settings: the worker's settings.
        ledger: makes the writes that must reach Redis.
        stop: set when the worker is to stop.
        processes: starts the process.
    """

    def __init__(
        self,
        record: JobRecord,
        settings: WorkerSettings,
        ledger: Ledger,
        *,
        stop: threading.Event,
        processes: Processes,
    ) -> None:
        self._record = record
        self._settings = settings
        self._ledger = ledger
        self._jobs = ledger.jobs
        self._owner = record.owner or ""
        self._stop = stop
        self._processes = processes
        # an earlier attempt may have published in its last moment, so the store is checked before giving a job up
        self._resume_only = record.cancel_requested or record.attempts > settings.max_attempts
        self._clock = ProgressClock()
        self._unsaved: JobProgress | None = None
        self._saved_phase: str | None = None
        self._last_write = float("-inf")
        self._looked_at = float("-inf")
        self._redis_gone_until = float("-inf")
        self._redis_gone = False

    def run(self) -> None:
        """Run the process until it ends or is interrupted, and record the outcome."""
        order = Order(job=self._record.job, settings=self._settings, resume_only=self._resume_only)
        verdict: Verdict
        try:
            verdict = self._carried_out(order)
        except NotStartedError as error:
            verdict = Lost(str(error))
        self._settle(verdict)

    def _carried_out(self, order: Order) -> Verdict:
        process, verdict = self._processes.take(order), None
        try:
            if not order.returns:
                self._processes.prepare()
            logger.info("attempt %d runs as process %d", self._record.attempts, process.pid)
            verdict = self._follow(process)
        finally:
            if order.returns and isinstance(verdict, Done):
                self._processes.give_back(process)
            else:
                process.close()
                if order.returns and isinstance(verdict, Failed | Lost):
                    self._processes.prepare()
        return verdict

    def _follow(self, process: JobProcess) -> Verdict:
        publishing = False
        patience = Patience(self._settings.max_job_s, self._settings.max_silence_s)
        while True:
            message = process.next(_POLL_S)
            if isinstance(message, Done | Failed | Lost):
                return message
            if (given_up_on := patience.after(message)) is not None:
                return given_up_on
            if isinstance(message, Step):
                self._unsaved = self._clock.at(message)
            if isinstance(message, Told):
                self._save(message)
            if not publishing:
                if self._stop.is_set():
                    return Interrupted.STOPPING
                if not self._resume_only and self._cancelled(
                    asked_before_publishing=isinstance(message, ReadyToPublish)
                ):
                    return Interrupted.CANCELLED
                if self._record.job.can_wait and self._update_waits():
                    return Interrupted.GIVES_WAY
            if isinstance(message, ReadyToPublish):
                publishing = True
                process.go()
            if self._finished_elsewhere() and not publishing:
                return Interrupted.FINISHED_ELSEWHERE

    def _save(self, told: Told) -> None:
        job_id = self._record.job_id
        if told.contributions is not None:
            self._try(partial(self._jobs.save_contributions, job_id, told.contributions, owner=self._owner))
        if told.labels is not None:
            self._try(partial(self._jobs.save_labels, job_id, told.labels))

    def _settle(self, verdict: Verdict) -> None:
        record, conclude = self._record, self._ledger.conclude
        match verdict:
            case Done():
                conclude(record, JobState.SUCCEEDED, outcome=verdict.outcome)
            case Failed() if verdict.error.kind == NOT_PUBLISHED and record.cancel_requested:
                conclude(record, JobState.CANCELLED)
            case Failed() if verdict.error.kind == NOT_PUBLISHED:
                conclude(record, JobState.FAILED, error=given_up(self._settings.max_attempts))
            case Failed():
                conclude(record, JobState.FAILED, error=verdict.error)
            case Lost() if record.attempts > self._settings.max_attempts:
                logger.error("the job's process was lost: it %s", verdict.how)
                if record.cancel_requested:
                    conclude(record, JobState.CANCELLED)
                else:
                    conclude(record, JobState.FAILED, error=given_up(self._settings.max_attempts, verdict.how))
            case Lost():
                logger.error("the job's process was lost: it %s", verdict.how)
                self._put_back(counts=True, pause_s=self._settings.retry_pause_s)
            case Interrupted.CANCELLED:
                conclude(record, JobState.CANCELLED)
            case Interrupted.STOPPING:
                logger.info("the worker is stopping; the job goes back to the queue")
                self._put_back(counts=False)
            case Interrupted.GIVES_WAY:
                logger.info("an update waits; the job goes on after it, where it was")
                self._put_back(counts=False)
            case Interrupted.FINISHED_ELSEWHERE:
                logger.info("the job was finished by another worker")
                self._ledger.purge(record.job_id)

    def _put_back(self, *, counts: bool, pause_s: float = 0.0) -> None:
        mine = self._record.model_copy(update={"heartbeat": None})
        if not self._ledger.put_back(mine, counts=counts, pause_s=pause_s):
            logger.info("another worker has taken the job over")

    def _cancelled(self, *, asked_before_publishing: bool) -> bool:
        """Return whether the job is to be cancelled. Before publishing, Redis is asked even if it was just gone."""
        if asked_before_publishing:
            self._redis_gone_until = float("-inf")
        return self._try(lambda: self._jobs.cancel_requested(self._record.job_id)) or False

    def _update_waits(self) -> bool:
        """Return whether an update waits for its turn; looked at as often as a heartbeat is sent."""
        now = time.monotonic()
        if now - self._looked_at < self._settings.heartbeat_s:
            return False
        self._looked_at = now
        return self._try(self._jobs.update_waits) or False

    def _finished_elsewhere(self) -> bool:
        """Write progress or a heartbeat if due, and return whether another worker has ended the job."""
        now, progress = time.monotonic(), self._unsaved
        since = now - self._last_write
        phase_changed = progress is not None and progress.phase != self._saved_phase
        if not (phase_changed or since > (self._settings.heartbeat_s if progress is None else _WRITE_EVERY_S)):
            return False
        ours = self._try(lambda: self._write(progress))
        if ours is None:
            return False
        self._last_write, self._unsaved = now, None
        if progress is not None:
            self._saved_phase = progress.phase
        return not ours and self._try(self._standing) is True

    def _write(self, progress: JobProgress | None) -> bool:
        if progress is None:
            return self._jobs.heartbeat(self._record.job_id, owner=self._owner)
        return self._jobs.save_progress(self._record.job_id, progress, owner=self._owner)

    def _standing(self) -> bool:
        try:
            standing = self._ledger.restore_if_lost(self._record)
            if standing.state is JobState.QUEUED:  # restored from its note, or taken for silent: it is still ours
                self._jobs.claim(self._record.job_id, owner=self._owner)
        except (JobNotFoundError, ResponseError) as error:  # damaged there; its end is written all the same
            logger.warning("%s", error)
            return False
        return standing.state.terminal

    def _try(self, call: Callable[[], T]) -> T | None:
        """Return the call's result, or None while Redis is gone. The update goes on without it."""
        if time.monotonic() < self._redis_gone_until:
            return None
        try:
            answer = call()
        except BrokerUnavailableError as error:
            if not self._redis_gone:
                logger.warning("%s; the update goes on, and its progress is written when Redis is back", error)
            self._redis_gone, self._redis_gone_until = True, time.monotonic() + _OUTAGE_PAUSE_S
            return None
        if self._redis_gone:
            logger.info("Redis is back")
            self._redis_gone = False
        return answer


def given_up(
    attempts: int, how: str = "was ended each time, for example because the machine ran out of memory"
) -> JobError:
    """Return the error of a job whose process was lost too often; `how` continues "its process ..."."""
    return JobError(
        kind="AttemptsExhaustedError",
        message=f"the update was begun {attempts} times and its process {how}; it is not tried again",
    )
