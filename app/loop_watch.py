"""Measures how long the event loop is kept from its work: what stalls it stalls every request."""

from __future__ import annotations

import asyncio

from app.metrics import Metrics

EVERY_S = 0.01


async def watch_loop(metrics: Metrics, *, every_s: float = EVERY_S) -> None:
    """Sleep for `every_s` seconds again and again, and record how much later than that the loop comes back."""
    loop = asyncio.get_running_loop()
    longest = 0.0
    while True:
        due = loop.time() + every_s
        await asyncio.sleep(every_s)
        stall = max(0.0, loop.time() - due)
        metrics.loop_stall_seconds.observe(stall)
        if stall > longest:
            longest = stall
            metrics.longest_loop_stall.set(stall)
