"""Runs work that would block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

T = TypeVar("T")


P = ParamSpec("P")


QUICK_BYTES = 256 * 1024
"""Up to this size, parsing is faster than handing over to a thread."""


async def off_loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of `work` on `size` bytes, which runs in a thread unless it is quick."""
    if size <= QUICK_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
