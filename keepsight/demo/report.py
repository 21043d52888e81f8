"""The results of the tour, step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from keepsight.client.api import Job
from keepsight.demo.measure import Measured


@dataclass(frozen=True)
class Check:
    """A check of the tour, whether it held, and its figures."""

    name: str
    held: bool
    detail: str


@dataclass
class Tour:
    """The results so far."""

    measured: list[Measured] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)

    def check(self, name: str, held: bool, detail: str) -> None:
        """Note whether a check held."""
        self.checks.append(Check(name, held, detail))

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Note how long the block took."""
        began = time.monotonic()
        yield
        self.seconds[what] = round(time.monotonic() - began, 2)
