"""One fault as it is declared: what is done, what is undone, and what may come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.faults.stage import SHORT, Stage

DISKS: Final = "mounts"
"""What a fault needs that mounts disks of its own."""


def nothing(stage: Stage) -> None:
    """Nothing is to be undone."""


def never(why: str) -> bool:
    """No failed request is excused."""
    return False


def busy(why: str) -> bool:
    """Nobody answers while no server is there, and the first that is back may have more asked of it than it takes."""
    return why.startswith("429 ")


def unwatched(stage: Stage) -> list[str]:
    """Nothing of its own must hold."""
    return []


@dataclass(frozen=True)
class Fault:
    """A fault of the service's surroundings.

    Attributes:
        name: For people, unique.
        inject: Brings it about. Raises `PermissionError` or `NotPermittedError` if this machine does not permit
            that; the fault is skipped then.
        undo: What an operator would do; most faults need nothing.
        lasts_s: Seconds between the two.
        job: Whether a job is begun that it meets.
        ends: Final states that are right for the jobs that it meets. None among them: their records may be gone, since
            the broker's data is.
        config: The job's hyper-parameters.
        phase: Where the job is when the fault comes; None: it has been claimed.
        uploads: Whether uploads are tried while it lasts. What is accepted then must be learned.
        excused: Says which failed classify requests are right meanwhile.
        holds: What must hold while it lasts; returns what does not.
        breaks: Whether connections may break meanwhile, as those of a server that is killed.
        quick: Whether it is among those of the quick half.
        needs: `DISKS` or nothing.
        recovers_s: Seconds it may take until all is as before.
    """

    name: str
    inject: Callable[[Stage], None]
    undo: Callable[[Stage], None] = nothing
    lasts_s: float = 2.0
    job: bool = True
    ends: frozenset[str | None] = frozenset({"succeeded"})
    config: str = SHORT
    phase: str | None = None
    uploads: bool = False
    excused: Callable[[str], bool] = never
    holds: Callable[[Stage], list[str]] = unwatched
    breaks: bool = False
    quick: bool = False
    needs: str | None = None
    recovers_s: float = 150.0


ANY_END: Final[frozenset[str | None]] = frozenset({"succeeded", "failed"})
FORGOTTEN: Final[frozenset[str | None]] = frozenset({"succeeded", None})
