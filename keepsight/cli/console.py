"""Output: results go to stdout (text or one JSON document), everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table


def out() -> Console:
    """Return a console for results, made anew to write to the present `sys.stdout`. Piped lines are not wrapped."""
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False)


def err() -> Console:
    """Return a console for progress, remarks and errors."""
    return Console(stderr=True, soft_wrap=not sys.stderr.isatty(), highlight=False)


def print_json(document: object) -> None:
    """Print one JSON document on stdout and nothing else."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    sys.stdout.flush()


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table in the house style. A column whose name starts with `>` is right-aligned."""
    made = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return made


def print_table(made: Table) -> None:
    """Print a table to stdout; piped output is not cut to a terminal's width."""
    console = out()
    if not sys.stdout.isatty():
        console.width = 240
    console.print(made)


def print_notes(lines: Iterable[str]) -> None:
    """Print lines on stderr as they are."""
    note = err()
    for line in lines:
        note.print(line, markup=False)


def percent(fraction: object) -> str:
    """Return a fraction in [0, 1] as a percentage, "–" if there is none."""
    return f"{fraction * 100:.1f} %" if isinstance(fraction, int | float) else "–"


def size(count: float) -> str:
    """Return a number of bytes for people: 512 B, 11.0 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def seconds(value: float | None) -> str:
    """Return a duration for people: 8.2 s, 3 min 05 s, 1 h 02 min; "–" if there is none."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def moment(timestamp: str | None) -> str:
    """Return an ISO 8601 time as local date and time, "–" if there is none."""
    if not timestamp:
        return "–"
    try:
        then = datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return then.astimezone().strftime("%Y-%m-%d %H:%M:%S")
