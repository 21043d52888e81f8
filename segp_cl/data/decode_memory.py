"""Memory that images take while they are decoded: one limit for all threads of the process, and turns below it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

MIB: Final = 1 << 20
MAX_DECODE_BYTES: Final = 208 * MIB
_LARGE_BYTES: Final = 32 * MIB
USUAL_BYTES: Final = 8 * MIB
"""An image that takes no more is usual: it never waits for memory. 1920 x 1080 pixels take 8 bytes less than this."""


class DecodeMemory:
    """Memory for the images that are being decoded.

    Usual images pass at once; as many are decoded at a time as there are threads. Larger ones wait for each other,
    first come, first served: several share half of `limit` bytes, and one that needs more has it for itself.
    """

    def __init__(self, limit: int = MAX_DECODE_BYTES) -> None:
        self.limit = limit
        self.give_back: Callable[[], None] | None = None
        self._held = 0
        self._waiting: deque[int] = deque()
        self._tickets = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, at most `limit`, and hold them while the block lasts."""
        if size <= USUAL_BYTES:
            yield
            return
        with self._changed:
            self._tickets += 1
            ticket = self._tickets
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] == ticket and self._fits(size))
            self._waiting.popleft()
            self._held += size
            self._changed.notify_all()
        try:
            yield
        finally:
            # the C library may keep what was freed, for each thread, and then the limit would not be the process's
            if self.give_back is not None and size > _LARGE_BYTES:
                self.give_back()
            with self._changed:
                self._held -= size
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._held or self._held + size <= self.limit // 2


_of_process = DecodeMemory()


def decode_memory() -> DecodeMemory:
    """Return the memory for images of this process."""
    return _of_process


def limit_decode_memory(limit: int, *, give_back: Callable[[], None] | None = None) -> None:
    """Set how many bytes larger images may take in this process, all together. Call it once, when the process starts.

    The limit belongs to the process as its memory does, like the threads of a forward pass; it never changes pixels.

    Args:
        limit: bytes.
        give_back: returns freed memory to the operating system; called after an image that took more than 32 MiB.
    """
    _of_process.limit = limit
    _of_process.give_back = give_back
