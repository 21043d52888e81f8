"""From a job's steps to the progress that people read: how long it has taken, and how long the phase still will."""

from __future__ import annotations

import time
from collections.abc import Callable

from exchange.contracts import JobProgress, utc_now
from worker.messages import Step


class ProgressClock:
    """Turns steps into `JobProgress`. Begins to count when it is made."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._phase: str | None = None
        self._phase_begun = self._begun
        self._first_step = 0

    def at(self, step: Step) -> JobProgress:
        """The progress after `step`.

        The pace is taken from the phase's first message on, so that neither what came before nor, where a phase reports
        only finished steps, its first step (with its warming up) counts.
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
