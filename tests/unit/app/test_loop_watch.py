from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.loop_watch import watch_loop
from app.metrics import Metrics


def number(metrics: Metrics, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", metrics.render().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def watched(metrics: Metrics, meanwhile: Callable[[], None]) -> None:
    """Watch a loop while `meanwhile` keeps it."""

    async def scene() -> None:
        watching = asyncio.create_task(watch_loop(metrics, every_s=0.001))
        await asyncio.sleep(0.05)
        meanwhile()
        await asyncio.sleep(0.05)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(scene())


def test_what_keeps_the_event_loop_is_measured() -> None:
    metrics = Metrics()

    watched(metrics, lambda: time.sleep(0.3))  # what a route must not do
    name = "keepsight_event_loop_stall_seconds"
    assert number(metrics, "keepsight_event_loop_longest_stall_seconds") >= 0.25
    assert number(metrics, f"{name}_count") - number(metrics, f'{name}_bucket{{le="0.25"}}') >= 1
    assert number(metrics, f"{name}_count") > 5


def test_time_without_a_free_core_is_a_stall_and_no_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "schedstat"
    told.write_text("5000000 1000000 7\n")
    monkeypatch.setattr("app.loop_watch._SCHEDSTAT", told)
    metrics = Metrics()

    def wait_for_a_core() -> None:
        time.sleep(0.3)
        told.write_text("5000000 281000000 8\n")

    watched(metrics, wait_for_a_core)
    stall, hold = (number(metrics, f"keepsight_event_loop_longest_{what}_seconds") for what in ("stall", "hold"))
    assert stall >= 0.25
    assert stall - 0.28 - 1e-6 <= hold < 0.2, "a busy machine may hold the loop up at another time too"


def test_what_holds_the_loop_up_on_a_core_is_a_hold() -> None:
    metrics = Metrics()
    watched(metrics, lambda: time.sleep(0.3))
    assert number(metrics, "keepsight_event_loop_longest_hold_seconds") >= 0.2


def test_where_the_kernel_tells_nothing_every_stall_is_a_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.loop_watch._SCHEDSTAT", tmp_path / "nothing")
    metrics = Metrics()
    watched(metrics, lambda: time.sleep(0.1))
    stall, hold = (number(metrics, f"keepsight_event_loop_longest_{what}_seconds") for what in ("stall", "hold"))
    assert hold == stall >= 0.09
