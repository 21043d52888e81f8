"""How busy other processes keep the machine, read from the kernel's counters."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

FOREIGN_LIMIT_CORES: Final = 0.15
"""A measurement during which other processes kept more than this of a core busy was disturbed."""

_STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; guest time is part of user


def busy_ticks(stat: str) -> int:
    """Clock ticks during which some core was at work since boot, of all cores together, from the text of /proc/stat."""
    counters = [int(word) for word in stat.splitlines()[0].split()[1:]]
    return sum(counters[i] for i in _BUSY if i < len(counters))


def foreign_cores(busy_s: float, own_s: float, wall_s: float) -> float:
    """Cores that others kept busy during a window: the machine's busy seconds less one's own, per wall second."""
    return max(0.0, busy_s - own_s) / wall_s if wall_s > 0 else 0.0


class LoadMeter:
    """Wall time and foreign load since it was made or last read. `own_cpu_s`: CPU seconds that are not foreign."""

    def __init__(self, own_cpu_s: Callable[[], float] = time.process_time) -> None:
        self._own_cpu_s = own_cpu_s
        self._last = self._now()

    def read(self) -> tuple[float, float | None]:
        """(wall seconds, foreign cores; None where the kernel does not tell) since the last call; starts anew."""
        before, after = self._last, self._now()
        self._last = after
        wall = after[0] - before[0]
        if before[2] is None or after[2] is None:
            return wall, None
        return wall, foreign_cores(after[2] - before[2], after[1] - before[1], wall)

    def _now(self) -> tuple[float, float, float | None]:
        busy = busy_ticks(_STAT.read_text()) / os.sysconf("SC_CLK_TCK") if _STAT.exists() else None
        return time.monotonic(), self._own_cpu_s(), busy
