"""Pieces of the pages that benchmarks write: numbers, tables, and what was measured on, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

NOTHING: Final = "–"
"""What stands where a figure is not defined or was not measured."""


def number(value: float | None, digits: int | None = None) -> str:
    """A number with `digits` decimals; without, integers as they are and others with four significant digits."""
    if value is None:
        return NOTHING
    if digits is None:
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return f"{value:,.{digits}f}"


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int | None = None, padded: bool = False
) -> str:
    """A table. Of its columns the first `left` (None: all) are set to the left, the others to the right.

    `padded`: cells are filled with spaces, so that it reads in a terminal too.
    """
    rule = ["---" if left is None or place < left else "---:" for place in range(len(header))]
    widths = [max(map(len, column)) if padded else 0 for column in zip(header, rule, *rows, strict=True)]

    def line(cells: Sequence[str], fill: str = " ") -> str:
        places = zip(cells, rule, widths, strict=True)
        filled = (cell.rjust(width, fill) if ":" in mark else cell.ljust(width, fill) for cell, mark, width in places)
        return f"| {' | '.join(filled)} |"

    return "\n".join([line(header), line(rule, "-"), *map(line, rows)])


def with_section(page: str, title: str, body: str) -> str:
    """Return a page with this section in place of one of its title: before `## Versions`, or else at its end.

    Without a body the page has no such section.
    """
    parts = [part.strip("\n") for part in re.split(r"^(?=## )", page, flags=re.MULTILINE)]
    kept = [part for part in parts if part.partition("\n")[0] != f"## {title}"]
    place = next((at for at, part in enumerate(kept) if part.startswith("## Versions\n")), len(kept))
    section = [f"## {title}\n\n{body}"] if body else []
    return "\n\n".join([*kept[:place], *section, *kept[place:]]) + "\n"


def measured_on(machine: Mapping[str, Any], *, quick: bool) -> str:
    """One line in italics from what `benchmarks.common.machine.machine` found."""
    return (
        f"*{machine.get('processor')}, {machine.get('cores')} cores, {machine.get('memory_gib')} GiB, "
        f"{machine.get('threads')} threads, torch {machine.get('torch')}, {machine.get('date')}"
        f"{', quick plan: sizes cut down' if quick else ''}*"
    )
