"""The way out of a connection: what answers are written to."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import struct
import termios
from collections.abc import Callable


class Outlet:
    """What an answer needs of a transport: counts what is written, and leaves the closing to the connection.

    Args:
        transport: the connection's.
        end: ends the connection after the last answer.
    """

    __slots__ = ("_end", "_transport", "ended", "written")

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self._transport = transport
        self._end = end
        self.ended = False
        self.written = 0

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self.written += len(data)
        self._transport.write(data)

    def close(self) -> None:
        """End the connection once everything is sent."""
        self._end()

    def is_closing(self) -> bool:
        """Return whether nothing can be sent any more."""
        return self.ended or self._transport.is_closing()

    def taken(self) -> int:
        """Return how many of the bytes the client has taken, as far as the system knows."""
        kept = 0
        with contextlib.suppress(OSError, ValueError, AttributeError):
            # of a socket, this is what was sent but not confirmed
            number = self._transport.get_extra_info("socket").fileno()
            kept = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, b"\0" * 4))[0]
        return self.written - self._transport.get_write_buffer_size() - kept
