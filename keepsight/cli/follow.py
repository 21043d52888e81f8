"""Shows a job while it runs: a live bar on a terminal, a line per phase elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from keepsight.cli.console import seconds
from keepsight.client.api import Job


class JobView(Protocol):
    """Shows a job every time it changes."""

    def show(self, job: Job) -> None: ...


def watch(jobs: Iterable[Job], view: JobView) -> Job:
    """Show every state of a job and return its last one."""
    last: Job | None = None
    for last in jobs:
        view.show(last)
    if last is None:
        raise AssertionError("a followed job yields at least its present state")
    return last


def phase_text(job: Job) -> str:
    """Return what the job is doing, in a word or two."""
    progress = job["progress"]
    return progress["phase"] if job["state"] == "running" and progress else job["state"]


def serving_text(job: Job) -> str:
    """Return that the task's instant version is served; empty if it is not."""
    instant = job.get("instant")
    if job.get("serving") != "served_instantly" or not instant:
        return ""
    return "served instantly"


def losses_text(job: Job) -> str:
    """Return the latest losses, as `name 0.123`."""
    progress = job["progress"]
    if not progress or not progress["losses"]:
        return ""
    return "  ".join(f"{name} {value:.3f}" for name, value in progress["losses"].items())


def eta_text(job: Job) -> str:
    """Return the time that a running job still needs, empty if unknown."""
    progress = job["progress"]
    if job["state"] != "running" or not progress or progress.get("eta_s") is None:
        return ""
    return f"{seconds(progress['eta_s'])} left"


class LiveBar:
    """One line of a terminal: phase, bar, step, losses, ETA."""

    def __init__(self, console: Console, label: str) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[eta]}"),
            TextColumn("{task.fields[losses]}", style="dim", markup=False),
            console=console,
        )
        self._label = label
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._bars.stop()

    def show(self, job: Job) -> None:
        progress = job["progress"]
        if self._task is None:
            self._task = self._bars.add_task(self._label, total=None, eta="", losses="")
        step, steps = (progress["step"], progress["steps"] or None) if progress else (0, None)  # None: bar in motion
        if job["state"] == "succeeded":
            step = steps = steps or 1
        self._bars.update(
            self._task,
            description="  ".join(filter(None, (self._label, serving_text(job), phase_text(job)))),
            completed=step,
            total=steps,
            eta=eta_text(job),
            losses=losses_text(job),
        )


class PhaseLines:
    """Prints a line whenever state or phase changes, for logs and pipes."""

    def __init__(self, console: Console, label: str) -> None:
        self._console = console
        self._label = label
        self._last = ""
        self._served = False
        self._told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        return None

    def show(self, job: Job) -> None:
        instant = job.get("instant")
        if instant and not self._served and (served := serving_text(job)):
            self._served = True
            after = seconds(instant["seconds"])
            self._console.print(Text(f"{self._label}: {served} (version {instant['version_id']}, made in {after})"))
        labels = job.get("labels")
        if labels and not self._told:
            self._told = True
            wrong, same = labels["likely_wrong_count"], labels["nearly_same_count"]
            if wrong or same:
                told = f"{wrong} labels likely wrong, {same} pairs of nearly the same picture in two classes"
                self._console.print(Text(f"{self._label}: {told}"))
        phase = phase_text(job)
        if phase == self._last:
            return
        self._last = phase
        progress = job["progress"]
        steps = f" ({progress['steps']} steps)" if job["state"] == "running" and progress and progress["steps"] else ""
        self._console.print(Text(f"{self._label}: {phase}{steps}"))


def job_view(console: Console, label: str) -> LiveBar | PhaseLines:
    """Return the view that suits where `console` writes."""
    return LiveBar(console, label) if console.is_terminal else PhaseLines(console, label)


def transfer_bar(console: Console) -> Progress:
    """Return a progress bar for an upload or a download."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
