"""Prints the demo's table, its checks and its last words."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keepsight.cli.console import percent, seconds

if TYPE_CHECKING:
    from keepsight.demo.data import DemoData, DemoTask
    from keepsight.demo.measure import Measured
    from keepsight.demo.report import Check


TASKS_ABREAST = 2


def print_table(screen: Console, data: DemoData, measured: Sequence[Measured]) -> None:
    """Print every version's accuracy on every task's held-out images, by path; two tasks fit in 80 columns."""
    for start in range(0, len(data.tasks), TASKS_ABREAST):
        screen.print()
        screen.print(accuracy_table(data.tasks[start : start + TASKS_ABREAST], measured, first_number=start + 1))
    for number, task in enumerate(data.tasks, start=1):
        names = escape(", ".join(task.classes[:12]) + (" ..." if len(task.classes) > 12 else ""))
        screen.print(
            f"task {number}: {names} ({len(task.train)} images taught, {len(task.held_out)} held out)", soft_wrap=True
        )
    screen.print(f"* not taught yet: the text path chooses among all {len(data.classes)} names", soft_wrap=True)


def accuracy_table(tasks: Sequence[DemoTask], measured: Sequence[Measured], *, first_number: int) -> Table:
    """Return the table of some tasks; `first_number` is the number of the first."""
    title = "Top-1 accuracy on held-out images, in percent" if first_number == 1 else None
    made = Table(title=title, title_justify="left", header_style="bold")
    made.add_column("version", no_wrap=True)
    for number in range(first_number, first_number + len(tasks)):
        for path in ("text", "visual", "fused"):
            made.add_column(f"task {number}\n{path}", justify="right")
    for taught, row in enumerate(measured):
        after = f"after task {taught}" if taught else "nothing taught"
        cells = [f"{row.version_id}\n[dim]{after}"]
        for task in tasks:
            accuracy = row.accuracy[task.name]
            cells += [
                number_of(accuracy.text) + ("" if accuracy.taught else " *"),
                number_of(accuracy.visual),
                f"[bold]{number_of(accuracy.fused)}",
            ]
        made.add_row(*cells)
    return made


def number_of(fraction: float | None) -> str:
    """Return a fraction as a percentage without its sign, so that the table fits 80 columns."""
    return percent(fraction).removesuffix(" %")


def print_checks(screen: Console, checks: Sequence[Check], took: Mapping[str, float]) -> None:
    """Print whether each check held, and how long the tour took."""
    screen.print()
    for check in checks:
        mark = "[green]held  [/]" if check.held else "[red]FAILED[/]"
        screen.print(f"{mark} {escape(check.name)} [dim]({escape(check.detail)})", soft_wrap=True)
    screen.print()
    parts = ", ".join(f"{name} {seconds(value)}" for name, value in took.items() if name != "whole tour")
    screen.print(f"The tour took {seconds(took['whole tour'])} ({parts}).", soft_wrap=True)


def print_farewell(screen: Console, url: str, image: Path, store: Path) -> None:
    """Print where the service is, what to try, and how to stop it."""
    command = Path(sys.argv[0])
    keepsight = shlex.quote(os.path.relpath(command)) if command.name == "keepsight" else "keepsight"
    curl = f"curl -F images=@{shlex.quote(os.path.relpath(image))} -F top_k=3 {url}/v1/classify"
    screen.print(f"\nOpen [bold]{url}[/] in a browser (API documentation: {url}/docs), or try it here:\n")
    screen.print(f"  {curl}", markup=False, soft_wrap=True)
    screen.print(f"  {keepsight} versions --url {url}", markup=False, soft_wrap=True)
    screen.print("\nStop it:\n")
    screen.print(f"  {keepsight} down --store {shlex.quote(os.path.relpath(store))}", markup=False, soft_wrap=True)
