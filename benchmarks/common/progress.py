"""A progress bar that leaves the machine alone."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def quiet_bar(console: Console | None = None) -> Progress:
    """A bar on stderr that is drawn once a second: a lively one would be load on the machine that is measured."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console or Console(stderr=True),
        refresh_per_second=1,
        transient=True,
    )
