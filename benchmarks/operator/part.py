"""A part of the benchmark: what it measures on, what it finds, and how that is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common.record import Record


@dataclass(frozen=True)
class Inputs:
    """What all parts measure on.

    Attributes:
        data: the folder of the data sets.
        cache: where an archive is unpacked once; None: a folder that is removed at the end.
        work: where what takes long is kept, so that a run can be gone on with.
        validation: measure on the slice of training images that settings are chosen on.
        quick: small sizes, to see that it works.
    """

    data: Path
    cache: Path | None = None
    work: Path = Path("var/bench")
    validation: bool = False
    quick: bool = False


@dataclass(frozen=True)
class Found:
    """Figures by name (fractions and seconds), and the details that they rest on, as JSON."""

    figures: dict[str, float]
    details: Record = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        title: its heading.
        meanings: what each figure says, by its name.
        measure: finds them.
        section: shows the details as Markdown.
    """

    title: str
    meanings: Mapping[str, str]
    measure: Callable[[Inputs], Found]
    section: Callable[[Record], str]
