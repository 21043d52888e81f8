"""Turns a job's steps into its progress: how long it has taken, and how long the phase will still take."""

from __future__ import annotations

import time
from collections.abc import Callable

from exchange.contracts import JobProgress, utc_now
from worker.messages import Step


class ProgressClock:
    """Turns steps into `JobProgress`. Its time starts when it is created."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._phase: str | None = None
        self._phase_begun = self._begun
        self._first_step = 0

    def at(self, step: Step) -> JobProgress:
        """Return the progress after `step`.

        The pace is measured from the phase's first message on, so earlier phases do not count; nor does the first step,
        with its warm-up, of a phase that reports only finished steps.
        """
        now = self._clock()
        if step.phase != self._phase:
            self._phase, self._phase_begun, self._first_step = step.phase, now, step.step
        done = step.step - self._first_step
        eta_s = None
        if done > 0 and step.steps > 0:
            eta_s = round((now - self._phase_begun) / done * (step.steps - step.step), 1)
        return JobProgress(
            phase=step.phase,
            step=step.step,
            steps=step.steps,
            losses=step.losses,
            eta_s=eta_s,
            elapsed_s=round(now - self._begun, 1),
            updated_at=utc_now(),
        )
