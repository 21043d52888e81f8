"""Processes as the kernel counts them: CPU time and memory of whole trees, from /proc."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.common.machine import proc_field

PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stat:
    """One process: `cpu_s` are user and system seconds of its own, `reaped_s` those of children that it waited for."""

    pid: int
    parent: int
    session: int
    cpu_s: float
    reaped_s: float


def parse_stat(text: str) -> Stat:
    """The fields of /proc/PID/stat that count here. The program's name may hold spaces and brackets."""
    pid = int(text.partition(" ")[0])
    fields = text.rpartition(")")[2].split()
    user, system, reaped_user, reaped_system = (int(field) for field in fields[11:15])
    return Stat(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        cpu_s=(user + system) / _TICKS,
        reaped_s=(reaped_user + reaped_system) / _TICKS,
    )


def all_stats(proc: Path = PROC) -> dict[int, Stat]:
    """Every process of the machine by id; one that ends meanwhile is left out."""
    found: dict[int, Stat] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = parse_stat((entry / "stat").read_text())
                found[stat.pid] = stat
    return found


def members(root: int, stats: dict[int, Stat]) -> set[int]:
    """`root`, all that descend from it, and the sessions that any of these lead."""
    inside = {root} & set(stats)
    while True:
        grown = inside | {s.pid for s in stats.values() if s.parent in inside or s.session in inside}
        if grown == inside:
            return inside
        inside = grown


def tree_cpu_s(root: int, stats: dict[int, Stat] | None = None) -> float:
    """User and system seconds of a whole tree since it was started, those of ended and reaped processes included."""
    stats = all_stats() if stats is None else stats
    return sum(stats[pid].cpu_s + stats[pid].reaped_s for pid in members(root, stats))


def memory_mib(pids: Iterable[int]) -> tuple[float, str]:
    """What these processes hold together, in MiB, and how it was counted.

    `PSS` (shared pages are divided among those who share them) where the kernel tells it of all, else `RSS`.
    """
    pids = list(pids)
    try:
        return sum(_field_kib(PROC / str(pid) / "smaps_rollup", "Pss") for pid in pids) / 1024, "PSS"
    except (OSError, KeyError):
        return sum(resident_mib(pid) for pid in pids), "RSS"


def resident_mib(pid: int) -> float:
    """What a process holds, pages that others share included, in MiB."""
    return _field_kib(PROC / str(pid) / "status", "VmRSS") / 1024


def private_mib(pid: int) -> float:
    """What a process holds that no other shares, in MiB."""
    rollup = PROC / str(pid) / "smaps_rollup"
    return (_field_kib(rollup, "Private_Clean") + _field_kib(rollup, "Private_Dirty")) / 1024


def _field_kib(path: Path, name: str) -> float:
    value = proc_field(path, name)
    if value is None:
        raise KeyError(name)
    return float(value.split()[0])


def freeze(root: int, *, frozen: bool) -> None:
    """Stop a whole tree where it is, or let it go on."""
    for pid in members(root, all_stats()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)
