"""Limits of the operating system that are too low, and outputs that nobody reads any more."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Final

from benchmarks.common.machine import proc_field
from benchmarks.common.proc import PROC
from benchmarks.faults.fault import ANY_END, Fault
from benchmarks.faults.kinds.clients import hold
from benchmarks.faults.stage import Stage

MIB: Final = 1 << 20
Value = Callable[[int], int]


def limit(role: str, what: int, value: Value) -> tuple[Callable[[Stage], None], Callable[[Stage], None]]:
    """Lower a soft limit of all processes of a role, and set it back to what it was, for their children too."""
    was: dict[int, tuple[int, int]] = {}
    lowered: dict[int, tuple[int, int]] = {}

    def inject(stage: Stage) -> None:
        was.clear()
        lowered.clear()
        for pid in stage.service.wait_for(role):
            soft, hard = resource.prlimit(pid, what)
            was[pid] = (soft, hard)
            low = value(pid)
            lowered[low] = was[pid]
            resource.prlimit(pid, what, (low, hard))

    def undo(stage: Stage) -> None:
        for pid in {*was, *stage.service.tree()}:
            with contextlib.suppress(ProcessLookupError):
                limits = was.get(pid) or lowered.get(resource.prlimit(pid, what)[0])
                if limits is not None:
                    resource.prlimit(pid, what, limits)

    return inject, undo


def address_space_and(extra: int) -> Value:
    """What a process has mapped, and `extra` bytes."""
    return lambda pid: int((proc_field(PROC / str(pid) / "status", "VmSize") or "0").split()[0]) * 1024 + extra


def files_and(extra: int) -> Value:
    """The files that a process has open, and `extra` more."""
    return lambda pid: len(os.listdir(PROC / str(pid) / "fd")) + extra


def both(*steps: Callable[[Stage], None]) -> Callable[[Stage], None]:
    """One step after the other."""

    def inject(stage: Stage) -> None:
        for step in steps:
            step(stage)

    return inject


def teach_when(limited: Callable[[Stage], None]) -> Callable[[Stage], None]:
    """Limit the worker, then give it a job: the job's process begins with the limit."""

    def inject(stage: Stage) -> None:
        limited(stage)
        stage.teach()

    return inject


def close_output(stage: Stage) -> None:
    """Close what reads the service's output, and kill the worker, so that there is something to say."""
    stage.service.close_output()
    time.sleep(0.2)
    stage.signal("worker", signal.SIGKILL)


_NO_MEMORY = limit("worker", resource.RLIMIT_AS, address_space_and(64 * MIB))
_FEW_FILES = limit("server", resource.RLIMIT_NOFILE, files_and(40))
_FEW_FILES_WORKER = limit("worker", resource.RLIMIT_NOFILE, files_and(3))
_SMALL_FILES = limit("server", resource.RLIMIT_FSIZE, lambda pid: 4096)
_SMALL_FILES_WORKER = limit("worker", resource.RLIMIT_FSIZE, lambda pid: 100_000)
_SMALL_FILES_BROKER = limit("broker", resource.RLIMIT_FSIZE, lambda pid: 1024)
_SERVER_MEMORY = limit("server", resource.RLIMIT_AS, address_space_and(64 * MIB))

LIMITS: Final = (
    Fault("an update's process gets no memory", teach_when(_NO_MEMORY[0]), _NO_MEMORY[1], lasts_s=25, job=False,
          ends=ANY_END),
    Fault("a worker may open few files", teach_when(_FEW_FILES_WORKER[0]), _FEW_FILES_WORKER[1], lasts_s=5, job=False,
          ends=ANY_END),
    Fault("an update may write small files only", teach_when(_SMALL_FILES_WORKER[0]), _SMALL_FILES_WORKER[1],
          lasts_s=12, job=False, ends=ANY_END),
    Fault("a server may open few files", *_FEW_FILES, lasts_s=3, job=False, uploads=True),
    Fault("a server may open few files, and many connect", both(_FEW_FILES[0], hold(200, b"")), _FEW_FILES[1],
          lasts_s=4, job=False, quick=True),
    Fault("a server may write small files only", *_SMALL_FILES, lasts_s=4, job=False, uploads=True),
    Fault("a server gets no more memory", *_SERVER_MEMORY, lasts_s=4, job=False, uploads=True),
    Fault("the broker may write small files only", *_SMALL_FILES_BROKER, lasts_s=5, uploads=True, ends=ANY_END),
    Fault("nobody reads what the service prints", close_output, job=False, quick=True),
)  # fmt: skip
