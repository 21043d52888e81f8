"""Windows that others disturbed: how much of the machine was not ours, what is thrown away and tried again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

from benchmarks.common.load import FOREIGN_LIMIT_CORES, LoadMeter
from benchmarks.common.proc import tree_cpu_s

NOISE_RULE: Final = (
    f"A window is thrown away if other processes kept more than {FOREIGN_LIMIT_CORES} of a core busy while it lasted "
    "(/proc/stat, less the CPU time of this program's processes), and repeated a bounded number of times. Where it was "
    "never quiet, the quietest try stands, marked noisy."
)


def foreign_meter() -> Callable[[], float]:
    """Cores that others kept busy since the last call: all of the machine's work less that of this process's tree."""
    meter = LoadMeter(lambda: tree_cpu_s(os.getpid()))

    def read() -> float:
        _, foreign = meter.read()
        assert foreign is not None, "a tree's CPU time is known where there is /proc"
        return foreign

    return read


@dataclass(frozen=True)
class Window:
    """One measured window of one side. `values` is what the side measured, `thrown` the load of tries before it."""

    side: str
    round: int
    values: Mapping[str, Any]
    foreign: float
    noisy: bool
    thrown: tuple[float, ...] = ()

    def as_record(self) -> dict[str, Any]:
        """For the record, as JSON."""
        return asdict(self)


@dataclass
class Gate:
    """Decides which tries count.

    Attributes:
        limit_cores: Foreign load above which a try is thrown away.
        retries: Most further tries of one window.
        budget: Most further tries in all, so that a busy machine cannot hold up the run for ever.
    """

    limit_cores: float = FOREIGN_LIMIT_CORES
    retries: int = 2
    budget: int = 30
    spent: int = field(default=0, init=False)
    meter: Callable[[], Callable[[], float]] = field(default=lambda: foreign_meter())

    def measure(self, side: str, number: int, run: Callable[[], Mapping[str, Any]]) -> Window:
        """Run one window until it is quiet, or out of tries."""
        tries: list[tuple[float, Mapping[str, Any]]] = []
        while True:
            read = self.meter()
            values = run()
            foreign = read()
            tries.append((foreign, values))
            if foreign <= self.limit_cores:
                break
            if len(tries) > self.retries or self.spent >= self.budget:
                break
            self.spent += 1
        best = min(range(len(tries)), key=lambda i: tries[i][0]) if tries[-1][0] > self.limit_cores else len(tries) - 1
        thrown = tuple(load for i, (load, _) in enumerate(tries) if i != best)
        load, values = tries[best]
        return Window(side, number, values, load, noisy=load > self.limit_cores, thrown=thrown)


def interleaved(
    sides: Mapping[str, Callable[[], Mapping[str, Any]]],
    *,
    rounds: int,
    gate: Gate,
    on_window: Callable[[str], None] = lambda _: None,
) -> list[Window]:
    """Every side once in each round, in turn; every other round backwards, so that none always follows another."""
    found: list[Window] = []
    for number in range(1, rounds + 1):
        order: Sequence[str] = list(sides) if number % 2 else list(reversed(list(sides)))
        for side in order:
            on_window(f"{side}, round {number} of {rounds}")
            found.append(gate.measure(side, number, sides[side]))
    return found


def load_of(windows: Sequence[Window]) -> dict[str, Any]:
    """What the record says of a part's windows."""
    thrown_away = sum(len(window.thrown) for window in windows)
    return load_summary([window.foreign for window in windows], thrown_away=thrown_away)


def load_summary(loads: Sequence[float], *, thrown_away: int = 0) -> dict[str, Any]:
    """Foreign load, how many tries were thrown away, and how many of those that count are noisy."""
    return {
        "windows": len(loads),
        "thrown_away": thrown_away,
        "noisy": sum(load > FOREIGN_LIMIT_CORES for load in loads),
        "foreign_cores_median": median(loads) if loads else None,
        "foreign_cores_most": max(loads, default=None),
    }
