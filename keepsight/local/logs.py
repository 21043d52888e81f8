"""The parts' log files: opened whatever the disk says, kept from growing without end, and copied to the console."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

MAX_LOG_BYTES = 20 * 1024 * 1024
POLL_S = 0.2


def open_log(log: Path) -> BinaryIO:
    """Open a log to append to; what is written goes nowhere if that cannot be done, for want of space or rights."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("ab")
    except OSError:
        return Path(os.devnull).open("ab")


def limit(log: Path) -> None:
    """Copy a log to `.1` and empty it, if it is large. Whoever appends to it meanwhile goes on; lines may be lost."""
    with suppress(OSError):
        if log.stat().st_size <= MAX_LOG_BYTES:
            return
        aside = log.with_name(log.name + ".1")
        try:
            shutil.copyfile(log, aside)
        except OSError:
            aside.unlink(missing_ok=True)
        os.truncate(log, 0)


class LogStream:
    """Copies lines that are appended to log files, each with its part's name before it."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._followed: list[Followed] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._copy()

    def follow(self, name: str, log: Path, start: int) -> None:
        """Copy `log` from byte `start` on."""
        self._followed.append(Followed(name, log, start))

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self._copy()

    def _copy(self) -> None:
        for followed in list(self._followed):
            for line in followed.new_lines():
                self._write(f"{followed.name:<6} | {line}")


class Followed:
    """A log that is read as it grows."""

    def __init__(self, name: str, log: Path, start: int) -> None:
        self.name = name
        self._log = log
        self._position = start
        self._partial = b""

    def new_lines(self) -> list[str]:
        """Return the lines that are new; none while the file cannot be read."""
        try:
            with self._log.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._position:  # it was emptied, or is another file
                    self._position, self._partial = 0, b""
                file.seek(self._position)
                data = file.read()
        except OSError:
            return []
        self._position += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]
