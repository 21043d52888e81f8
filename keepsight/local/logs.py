"""Rotates the parts' log files, and copies them to the console on request."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

MAX_LOG_BYTES = 20 * 1024 * 1024
POLL_S = 0.2


def rotate(log: Path) -> None:
    """Rename a log to `.1` before a new run, if it is large."""
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        os.replace(log, log.with_name(log.name + ".1"))


class LogStream:
    """Copies lines that are appended to log files, each with its part's name before it."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._followed: list[_Followed] = []
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
        self._followed.append(_Followed(name, log, start))

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self._copy()

    def _copy(self) -> None:
        for followed in list(self._followed):
            for line in followed.new_lines():
                self._write(f"{followed.name:<6} | {line}")


class _Followed:
    def __init__(self, name: str, log: Path, start: int) -> None:
        self.name = name
        self._log = log
        self._position = start
        self._partial = b""

    def new_lines(self) -> list[str]:
        with self._log.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        self._position += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]
