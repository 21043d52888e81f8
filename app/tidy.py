"""Collects garbage and gives memory back in moments without work, because both hold up every thread."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

from segp_cl.runtime.process import give_memory_back, resident_bytes

EVERY_S = 5.0
GROWN_BYTES = 32 * 1024 * 1024
OVERDUE_S = 600.0


async def tidy_when_idle(
    is_idle: Callable[[], bool], *, every_s: float = EVERY_S, overdue_s: float = OVERDUE_S
) -> None:
    """Tidy whenever the process has grown and nothing is in hand, and after `overdue_s` seconds also if something is.

    Args:
        is_idle: whether no request would have to wait.
        every_s: seconds between two looks.
        overdue_s: seconds without a moment of rest.
    """
    loop = asyncio.get_running_loop()
    held, at = resident_bytes(), loop.time()
    while True:
        await asyncio.sleep(every_s)
        overdue = loop.time() - at >= overdue_s
        if overdue or (resident_bytes() - held > GROWN_BYTES and is_idle()):
            await asyncio.to_thread(_tidy)
            held, at = resident_bytes(), loop.time()


def _tidy() -> None:
    gc.collect()
    give_memory_back()
