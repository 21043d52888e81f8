"""Turns a job's steps into its progress: how long it has taken, and how long the phase will still take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from exchange.contracts import JobProgress, utc_now
from worker.messages import Step

MOST_POINTS: Final = 60
"""Points that a job's history keeps of each loss. Where there are more, every second one is left out."""


class LossHistory:
    """The losses of a training so far, in bounded memory and evenly spread over its steps."""

    def __init__(self) -> None:
        self._points: dict[str, list[tuple[int, float]]] = {}
        self._every: dict[str, int] = {}

    def add(self, step: Step) -> None:
        """Take the losses of one step in."""
        for name, value in step.losses.items():
            points, every = self._points.setdefault(name, []), self._every.get(name, 1)
            if points and step.step < points[-1][0]:  # a phase that is gone through again
                points.clear()
                every = self._every[name] = 1
            if points and step.step < points[-1][0] + every:
                continue
            points.append((step.step, value))
            if len(points) > MOST_POINTS:
                del points[1::2]
                self._every[name] = 2 * every

    def all(self) -> dict[str, tuple[tuple[int, float], ...]]:
        """Return pairs of step and value by the loss's name, at most `MOST_POINTS` of each."""
        return {name: tuple(points) for name, points in self._points.items()}


class ProgressClock:
    """Turns steps into `JobProgress`. Its time starts when it is created."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._phase: str | None = None
        self._phase_begun = self._begun
        self._first_step = 0
        self._losses = LossHistory()

    def at(self, step: Step) -> JobProgress:
        """Return the progress after `step`.

        The pace is measured from the phase's first message on, so earlier phases do not count; nor does the first step,
        with its warm-up, of a phase that reports only finished steps.
        """
        now = self._clock()
        if step.phase != self._phase:
            self._phase, self._phase_begun, self._first_step = step.phase, now, step.step
        self._losses.add(step)
        done = step.step - self._first_step
        eta_s = None
        if done > 0 and step.steps > 0:
            eta_s = round((now - self._phase_begun) / done * (step.steps - step.step), 1)
        return JobProgress(
            phase=step.phase,
            step=step.step,
            steps=step.steps,
            losses=step.losses,
            loss_history=self._losses.all(),
            eta_s=eta_s,
            elapsed_s=round(now - self._begun, 1),
            updated_at=utc_now(),
        )
