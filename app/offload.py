"""Work that must not stop the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

T = TypeVar("T")


P = ParamSpec("P")


QUICK_BYTES = 256 * 1024
"""Bytes that are parsed sooner than a thread takes over."""


async def off_loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work` on `size` bytes: in a thread, so that the event loop goes on, unless it is quick."""
    if size <= QUICK_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
