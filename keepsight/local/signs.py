"""Signs of life: a pipe from a part to its supervisor.

The part writes a line once a second or so. An empty line says that it works; any other is a notice for the user. The
other end is also in `exchange/heartbeat.py`, because a server or worker imports nothing from here.
"""

from __future__ import annotations

import os
from contextlib import suppress

SIGNS_FD = "KEEPSIGHT_SIGNS_FD"
LONGEST_GAP_S = 1.0
"""Most that one look adds to a part's silence: if we were stopped ourselves, it had no chance to be heard."""


class SignsOfLife:
    """The part's end. Without a supervisor it does nothing."""

    def __init__(self) -> None:
        given = os.environ.pop(SIGNS_FD, "")
        self._fd = int(given) if given.isdigit() else None
        if self._fd is not None:
            os.set_inheritable(self._fd, False)

    def give(self, notice: str = "") -> None:
        """Say that this process works, or tell the user something."""
        if self._fd is not None:
            with suppress(OSError):  # nobody listens any more
                os.write(self._fd, " ".join(notice.split()).encode() + b"\n")


class Listener:
    """The supervisor's end for one run of a part.

    Attributes:
        heard: Whether there was any sign of life yet.
        silent_s: Seconds since the last one, or since the first look, in which the part could have given one.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        for end in (self._reader, self.writer):
            os.set_blocking(end, False)
        self._partial = b""
        self._looked: float | None = None
        self._waited_s = 0.0
        self.heard = False
        self.silent_s = 0.0

    def close_writer(self) -> None:
        """Leave the part's end to the part."""
        os.close(self.writer)

    def close(self) -> None:
        """Stop listening."""
        os.close(self._reader)

    def look(self, now: float, *, waited_s: float = 0.0) -> list[str]:
        """Read what was said up to now, and return the notices.

        Args:
            now: Seconds of any clock.
            waited_s: Seconds for which the part has waited for a processor so far. It was not silent meanwhile: on an
                overloaded machine a slow part is not taken for one that hangs.
        """
        waited_s, before_s = max(waited_s, self._waited_s), self._waited_s
        self._waited_s = waited_s
        lines = self._lines()
        if lines:
            self.heard, self.silent_s = True, 0.0
        elif self._looked is not None:
            self.silent_s += max(0.0, min(now - self._looked, LONGEST_GAP_S) - (waited_s - before_s))
        self._looked = now
        return [line.decode(errors="replace") for line in lines if line]

    def _lines(self) -> list[bytes]:
        try:
            data = os.read(self._reader, 65_536)
        except BlockingIOError:
            return []
        *lines, self._partial = (self._partial + data).split(b"\n")
        return lines
