"""Starts a job's process, reads its messages, and stops it."""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from worker.messages import GO, MESSAGE, Message, Order

logger = logging.getLogger(__name__)

COMMAND: Final = (sys.executable, "-P", "-m", "worker.child")
"""A new interpreter, not a fork: CUDA does not survive forking, and memory settings are this process's own.

-P keeps the working directory off its path: a folder called `worker` there is somebody else's, and is not run.
"""


class Lost:
    """The process ended without an answer. `how` says what ended it."""

    def __init__(self, returncode: int) -> None:
        if returncode < 0:
            with contextlib.suppress(ValueError):
                self.how = f"ended by {signal.Signals(-returncode).name}"
                return
        self.how = f"ended with exit status {returncode}"


class JobProcess:
    """A running job. Use as a context manager: whatever happens, the process is gone afterwards."""

    def __init__(self, order: Order, *, command: Sequence[str] = COMMAND) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # a Ctrl-C in the terminal is for the worker to deal with
        )
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="job-reader", daemon=True)
        self._reader.start()
        self._write(order.model_dump_json())

    @property
    def pid(self) -> int:
        """The operating system's id of the process."""
        return self._process.pid

    def next(self, timeout_s: float) -> Message | Lost | None:
        """Return the next message; None after `timeout_s` of silence; `Lost` once the process has ended."""
        try:
            message = self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None
        return Lost(self._process.wait()) if message is None else message

    def go(self) -> None:
        """Permit the process to publish."""
        self._write(GO)

    def kill(self) -> None:
        """End the process now, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> JobProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._reader.join()
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        self._process.stdout.close()  # type: ignore[union-attr]

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended; `next` says so
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._messages.put(MESSAGE.validate_json(line))
            except ValidationError:
                logger.exception("a job's process sent a line that is not a message")
        self._messages.put(None)
