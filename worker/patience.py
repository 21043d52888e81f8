"""Decides when a job's process has taken too long, or is stuck."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from exchange.contracts import JobError
from worker.messages import Failed, Message, ReadyToPublish, Step
from worker.process import Lost


class _Stage(Enum):
    WAITING = "waited for the store, or for another update of it,"
    WORKING = "learned"
    PUBLISHING = "published"


class Patience:
    """Follows what a job's process says, and says when to give it up. Its time starts when it is created.

    Each stage of an attempt may take `max_job_s`: waiting for the store or for the lineage, which is no fault of the
    job; learning; and publishing, which may be safely interrupted and resumed. So only a job that learns too long
    fails for it.

    Args:
        max_job_s: longest duration of a stage, in seconds.
        max_silence_s: longest pause between two messages, in seconds.
        clock: returns seconds; it must not jump.
    """

    def __init__(self, max_job_s: float, max_silence_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_job_s = max_job_s
        self._max_silence_s = max_silence_s
        self._clock = clock
        self._heard = self._begun = clock()
        self._stage = _Stage.WORKING

    def after(self, message: Message | None) -> Lost | Failed | None:
        """Return what to make of the process after its next message (None: it said nothing), or None to go on."""
        now = self._clock()
        if message is not None:
            self._heard = now
        stage = self._stage_of(message)
        if stage is not self._stage:
            self._stage, self._begun = stage, now
        if now - self._heard > self._max_silence_s:
            return Lost(f"gave no sign of life for {self._max_silence_s:g} s")
        if now - self._begun <= self._max_job_s:
            return None
        if self._stage is not _Stage.WORKING:
            return Lost(f"{self._stage.value} for more than {self._max_job_s:g} s")
        why = (
            f"the update took longer than {self._max_job_s:g} s, which is the most that KEEPSIGHT_MAX_JOB_S allows; "
            f"fewer epochs, anchors or images take less"
        )
        return Failed(error=JobError(kind="TookTooLongError", message=why))

    def _stage_of(self, message: Message | None) -> _Stage:
        if isinstance(message, ReadyToPublish):
            return _Stage.PUBLISHING
        if isinstance(message, Step) and self._stage is not _Stage.PUBLISHING:
            return _Stage.WAITING if message.phase == "waiting" else _Stage.WORKING
        return self._stage
