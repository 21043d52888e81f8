"""Faults that meet the process that waits for the next job, or the instant version or edit that it makes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final

from benchmarks.common.proc import all_stats
from benchmarks.faults.fault import ANY_END, DISKS, Fault
from benchmarks.faults.kinds.full_disks import fill, make_room
from benchmarks.faults.kinds.processes import send, stop
from benchmarks.faults.service import ServiceError
from benchmarks.faults.stage import Stage

_BEGUN_S: Final = 0.05
"""Seconds of CPU that an idle process does not use, and one that makes an instant version does at once."""


def _cpu_s(stage: Stage) -> float:
    stats = all_stats()
    return sum(stats[pid].cpu_s for pid in stage.service.pids("child") if pid in stats)


def _teach(stage: Stage) -> None:
    answer, job_id = stage.teach()
    if job_id is None:
        raise ServiceError(f"an upload was answered {answer}")


def _rename(stage: Stage) -> None:
    answer, job_id = stage.rename()
    if job_id is None:
        raise ServiceError(f"an edit was answered {answer}")


def meanwhile(fault: Callable[[Stage], None], begin: Callable[[Stage], None] = _teach) -> Callable[[Stage], None]:
    """Bring a fault about while an instant version is being made, or what else is begun."""

    def inject(stage: Stage) -> None:
        stage.service.wait_for("child")
        before = _cpu_s(stage)
        begin(stage)
        stage.service.wait(lambda: _cpu_s(stage) >= before + _BEGUN_S, "work that has begun")
        fault(stage)

    return inject


def then(fault: Callable[[Stage], None], begin: Callable[[Stage], None] = _teach) -> Callable[[Stage], None]:
    """Bring a fault about while no job is there, and send one."""

    def inject(stage: Stage) -> None:
        stage.service.wait_for("child")
        fault(stage)
        begin(stage)

    return inject


KILL: Final = signal.SIGKILL
INSTANT: Final = (
    Fault("kill the process that waits for a job", then(send(KILL, "child")), job=False, quick=True),
    Fault("stop the process that waits for a job for 8 s", then(stop("child")), job=False, lasts_s=8),
    Fault("kill the process that makes an instant version", meanwhile(send(KILL, "child")), job=False),
    Fault("stop the process that makes an instant version for 8 s", meanwhile(stop("child")), job=False, lasts_s=8),
    Fault("kill the worker while it has an instant version made", meanwhile(send(KILL, "worker")), job=False),
    Fault("kill the broker while an instant version is made", meanwhile(send(KILL, "broker")), job=False),
    Fault(
        "disk of the store is full while an instant version is made", meanwhile(fill("store")), make_room,
        lasts_s=6, job=False, ends=ANY_END, uploads=True, needs=DISKS,
    ),
    Fault(
        "kill the process that waits for a job, then edit", then(send(KILL, "child"), _rename), job=False, quick=True
    ),
    Fault("kill the process that makes an edit", meanwhile(send(KILL, "child"), _rename), job=False),
    Fault("kill the worker while it has an edit made", meanwhile(send(KILL, "worker"), _rename), job=False),
    Fault("kill the broker while an edit is made", meanwhile(send(KILL, "broker"), _rename), job=False),
    Fault(
        "disk of the store is full while an edit is made", meanwhile(fill("store"), _rename), make_room,
        lasts_s=6, job=False, ends=ANY_END, uploads=True, needs=DISKS,
    ),
)  # fmt: skip
