from __future__ import annotations

import asyncio
import re
import time

from app.loop_watch import watch_loop
from app.metrics import Metrics


def number(metrics: Metrics, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", metrics.render().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_what_keeps_the_event_loop_is_measured() -> None:
    metrics = Metrics()

    async def stall() -> None:
        watching = asyncio.create_task(watch_loop(metrics, every_s=0.001))
        await asyncio.sleep(0.05)
        time.sleep(0.3)  # what a route must not do
        await asyncio.sleep(0.05)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(stall())
    name = "keepsight_event_loop_stall_seconds"
    assert number(metrics, "keepsight_event_loop_longest_stall_seconds") >= 0.25
    assert number(metrics, f"{name}_count") - number(metrics, f'{name}_bucket{{le="0.25"}}') >= 1
    assert number(metrics, f"{name}_count") > 5
