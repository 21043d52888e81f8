"""Signs of life for the supervisor that started this process, on a pipe that it passed on (`keepsight up` does)."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Final

SIGNS_FD: Final = "KEEPSIGHT_SIGNS_FD"
INTERVAL_S: Final = 1.0


class Heartbeat:
    """Writes to the supervisor's pipe. Without one it does nothing."""

    def __init__(self) -> None:
        given = os.environ.pop(SIGNS_FD, "")  # this process's, and not that of those which it starts
        self._fd = int(given) if given.isdigit() else None
        if self._fd is not None:
            os.set_inheritable(self._fd, False)

    def beat(self) -> None:
        """Say that this process works. Never waits and never fails."""
        if self._fd is not None:
            with suppress(OSError):  # the supervisor is busy or gone
                os.write(self._fd, b"\n")

    async def beat_soon(self) -> None:
        """Do as `beat`, as a server's callback."""
        self.beat()

    def beat_from_a_thread(self) -> None:
        """Beat for as long as this process runs. It then shows that the process is not stopped, and no more."""

        def run() -> None:
            while True:
                self.beat()
                threading.Event().wait(INTERVAL_S)

        if self._fd is not None:
            threading.Thread(target=run, name="heartbeat", daemon=True).start()
