"""Processes that are killed, asked to end, or stopped where they are."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from benchmarks.faults.fault import Fault
from benchmarks.faults.stage import LONG, Stage

KILL, TERM, STOP, CONT = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT
PHASES: Final = ("loading", "anchors", "train", "align", "publishing")


def send(number: signal.Signals, *roles: str, first: bool = False) -> Callable[[Stage], None]:
    """A signal to the processes of these roles."""

    def inject(stage: Stage) -> None:
        for role in roles:
            stage.signal(role, number, first=first)

    return inject


def stop(*roles: str, first: bool = False) -> Callable[[Stage], None]:
    """Stop processes where they are; they are let go on when the fault is over, if they still exist."""

    def inject(stage: Stage) -> None:
        for role in roles:
            for pid in stage.signal(role, STOP, first=first):
                stage.closing.append(_Stopped(pid))
                if role == "server":
                    stage.watch(pid)  # who takes a stopped server out of service may kill it

    return inject


class _Stopped:
    def __init__(self, pid: int) -> None:
        self._pid = pid

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, CONT)


def again_and_again(role: str, *, times: int, pause_s: float) -> Callable[[Stage], None]:
    """Kill the processes of a role whenever there are some."""

    def inject(stage: Stage) -> None:
        for _ in range(times):
            stage.signal(role, KILL)
            time.sleep(pause_s)

    return inject


def one_after_the_other(stage: Stage) -> None:
    """Kill each server as soon as the others are whole again."""
    servers = stage.service.pids("server")
    for pid in servers:
        stage.kill_server(pid)

        def whole(gone: int = pid) -> bool:
            alive = stage.service.pids("server")
            return len(alive) >= len(servers) and gone not in alive and len(stage.service.metrics()) >= len(servers)

        stage.service.wait(whole, "the killed server's successor")


PROCESSES: Final = (
    Fault("kill the broker", send(KILL, "broker"), uploads=True, quick=True),
    Fault("kill the broker's keeper", send(KILL, "broker wrapper"), uploads=True),
    Fault("kill both of the broker's processes", send(KILL, "broker wrapper", "broker")),
    Fault("ask the broker to end", send(TERM, "broker"), uploads=True),
    Fault("ask the broker's keeper to end", send(TERM, "broker wrapper")),
    Fault("kill the broker thrice", again_and_again("broker", times=3, pause_s=2.0), uploads=True),
    Fault("stop the broker for 4 s", stop("broker"), lasts_s=4, uploads=True),
    Fault("stop the broker for 12 s", stop("broker"), lasts_s=12, uploads=True),
    Fault("stop the broker's keeper for 5 s", stop("broker wrapper"), lasts_s=5),
    Fault("kill the worker", send(KILL, "worker")),
    Fault("ask the worker to end", send(TERM, "worker")),
    Fault("stop the worker for 4 s", stop("worker"), lasts_s=4),
    Fault("stop the worker for 12 s", stop("worker"), lasts_s=12),
    *(
        Fault(f"kill the update in the phase {phase}", send(KILL, "child"), config=LONG, phase=phase, lasts_s=0.5)
        for phase in PHASES
    ),
    Fault("ask the update to end", send(TERM, "child")),
    Fault("stop the update for 8 s", stop("child"), lasts_s=8),
    Fault("kill worker and broker", send(KILL, "worker", "broker"), quick=True),
    Fault("stop worker and broker for 8 s", stop("worker", "broker"), lasts_s=8),
    Fault("kill a server", send(KILL, "server", first=True), job=False, breaks=True, quick=True),
    Fault("ask a server to end", send(TERM, "server", first=True), breaks=True),
    Fault("stop a server for 3 s", stop("server", first=True), job=False, lasts_s=3),
    Fault("stop a server for 10 s", stop("server", first=True), job=False, lasts_s=10, quick=True, breaks=True),
    Fault("kill one server after the other", one_after_the_other, breaks=True),
)
