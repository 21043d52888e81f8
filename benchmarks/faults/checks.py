"""What must hold whatever happens: pure functions over what was seen."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.common.proc import PROC
from benchmarks.faults.client import Asked
from benchmarks.faults.service import Answer

WAITS: Final = (429, 503, 507)
"""Statuses that are no fault of the server's if they say when to come back. 504 need not: the time is over."""
FINAL: Final = frozenset({"succeeded", "failed", "cancelled"})
_NEAR_S: Final = 0.25
"""Clocks are read a moment later than what they are read for."""
_PIECE: Final = 1 << 20


@dataclass
class Death:
    """The end of a server, from the signal until the kernel has taken its connections down (CLOCK_MONOTONIC).

    For a process with a model in memory that is half a second on a busy machine. `gone` is None while it lasts.
    """

    since: float
    gone: float | None = None

    def met(self, request: Asked) -> bool:
        """Whether a request was under way: one may be, from the kernel taking it on until the connection breaks."""
        over = self.gone is not None and request.at > self.gone + _NEAR_S
        return not over and self.since - _NEAR_S <= request.at + request.seconds


def failed(asked: Iterable[Asked], *, deaths: Collection[Death], excused: Callable[[str], bool]) -> list[str]:
    """What was wrong with requests that had to be answered.

    Args:
        asked: all requests of a stretch of time.
        deaths: of servers. Requests that were under way then may break.
        excused: says whether a reason is the right answer to what was done.
    """
    return [
        request.why
        for request in asked
        if request.why is not None and not excused(request.why) and not any(death.met(request) for death in deaths)
    ]


def is_server_error(answer: Answer, *, may_break: bool = False) -> bool:
    """Whether an answer is one that no input and no fault may bring about.

    `may_break`: a connection that breaks is excused, as that of a server which was killed.
    """
    if answer.status == 0:
        return not may_break
    if answer.status in WAITS:
        return "retry-after" not in answer.headers
    return answer.status >= 500 and answer.status != 504


def lost(states: dict[str, str | None]) -> list[str]:
    """The accepted jobs, by id, that have no final state; None stands for a job that is not known any more."""
    return [job_id for job_id, state in states.items() if state not in FINAL]


def traces(roots: Iterable[Path], needles: Sequence[bytes]) -> list[str]:
    """The files below `roots` that hold one of `needles`, wherever in them."""
    return [str(path) for root in roots for path in _files(root) if holds(path, needles)]


def open_traces(pids: Iterable[int], needles: Sequence[bytes]) -> list[str]:
    """Files without a name that processes hold open and that hold one of `needles`."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in (PROC / str(pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(descriptor)
                    nameless = target.startswith("/") and target.endswith(" (deleted)")
                    if nameless and stat.S_ISREG(descriptor.stat().st_mode) and holds(descriptor, needles):
                        found.append(f"process {pid}: {target}")
    return found


def holds(path: Path, needles: Sequence[bytes]) -> bool:
    """Whether a file holds one of `needles`; one that vanishes meanwhile does not."""
    overlap = max(map(len, needles)) - 1
    try:
        with path.open("rb") as file:
            before = b""
            while piece := file.read(_PIECE):
                text = before + piece
                if any(needle in text for needle in needles):
                    return True
                before = text[-overlap:]
    except OSError:
        return False
    return False


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which `share` of all lie, by nearest rank; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def as_json(answer: Answer) -> Any:
    """The body of an answer; None if it is not JSON."""
    try:
        return answer.json
    except ValueError:
        return None
