"""Waiting for what another thread, task or process is about to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 30.0  # what is waited for takes well under a second; a busy machine may pause a process for many
_PAUSE_S = 0.01


def wait_until(
    condition: Callable[[], T | None],
    timeout_s: float = PATIENCE_S,
    *,
    explain: Callable[[], str] = lambda: "it did not happen",
) -> T:
    """The first true value that `condition` returns.

    Raises:
        AssertionError: there was none within `timeout_s`; `explain` says more.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{explain()} within {timeout_s:g} s"
        time.sleep(_PAUSE_S)
    return found


async def until(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Let other tasks run until `condition` holds.

    Raises:
        TimeoutError: it did not within `timeout_s`.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(_PAUSE_S)
