"""Progress of a benchmark in the terminal: tasks done, what runs now, and when it will be over."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.accuracy.benchmark import Listener
from segp_cl.types import Progress as Step


class Bar(Listener):
    """A progress bar on stderr. Use as a context manager."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            speed_estimate_period=3600,
        )
        self._bar = self._progress.add_task("loading", total=None)
        self._what = ""

    def plan(self, units: int) -> None:
        self._progress.update(self._bar, total=units, description="tasks")

    def begin(self, what: str) -> None:
        self._what = what
        self._progress.update(self._bar, description=what)

    def task_done(self) -> None:
        self._progress.advance(self._bar)

    def on_progress(self, progress: Step) -> None:
        self._progress.update(self._bar, description=f"{self._what}: {progress.phase} {progress.step}/{progress.steps}")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
