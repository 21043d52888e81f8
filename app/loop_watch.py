"""Measures how long the event loop is kept from its work: what stalls it stalls every request."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from app.metrics import Metrics

EVERY_S = 0.01
_SCHEDSTAT: Final = Path("/proc/thread-self/schedstat")


async def watch_loop(metrics: Metrics, *, every_s: float = EVERY_S) -> None:
    """Sleep for `every_s` seconds again and again, and record how much later than that the loop comes back.

    What is left of a stall without the time in which the loop's thread was ready and no core was free is recorded as a
    hold: something in this process held the loop up. The kernel counts that time from one look to the next, so a hold
    may come out shorter, by `every_s` at most.
    """
    loop = asyncio.get_running_loop()
    longest_stall = longest_hold = 0.0
    with _clock_of_waiting() as waited_s:
        while True:
            due, before_s = loop.time() + every_s, waited_s()
            await asyncio.sleep(every_s)
            stall = max(0.0, loop.time() - due)
            hold = max(0.0, stall - (waited_s() - before_s))
            metrics.loop_stall_seconds.observe(stall)
            metrics.loop_hold_seconds.observe(hold)
            if stall > longest_stall:
                longest_stall = stall
                metrics.longest_loop_stall.set(stall)
            if hold > longest_hold:
                longest_hold = hold
                metrics.longest_loop_hold.set(hold)


@contextlib.contextmanager
def _clock_of_waiting() -> Iterator[Callable[[], float]]:
    """Yield what returns the seconds that this thread has waited for a core; 0 if the kernel does not tell."""
    try:
        descriptor = os.open(_SCHEDSTAT, os.O_RDONLY)
    except OSError:
        yield lambda: 0.0
        return
    try:
        # nanoseconds on a core, nanoseconds of waiting for one, turns
        yield lambda: int(os.pread(descriptor, 100, 0).split()[1]) / 1e9
    finally:
        os.close(descriptor)
