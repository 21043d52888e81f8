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
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from segp_cl.errors import KeepsightError
from worker.messages import GO, MESSAGE, Message, Order, WarmUp

logger = logging.getLogger(__name__)

_GONE_WITHIN_S: Final = 30.0
"""Longest wait for a killed process: one that hangs in the kernel must not hold the queue."""
COMMAND: Final = (sys.executable, "-P", "-m", "worker.child")
"""A new interpreter, not a fork: CUDA does not survive forking, and memory settings are this process's own.

-P keeps the working directory off its path: a folder called `worker` there is somebody else's, and is not run.
"""


@dataclass(frozen=True)
class Lost:
    """The process gave no answer. `how` says why: "its process ..."."""

    how: str

    @classmethod
    def by(cls, returncode: int) -> Lost:
        """Return what a process's exit status says."""
        if returncode < 0:
            with contextlib.suppress(ValueError):
                return cls(f"was ended by {signal.Signals(-returncode).name}")
        return cls(f"ended with exit status {returncode}")


class NotStartedError(KeepsightError):
    """The process could not be started: no memory, no process or thread left, no program."""


class JobProcess:
    """A running job. Use as a context manager: whatever happens, the process is gone afterwards.

    Args:
        first: its first order, or what it is to do until there is one.
        command: starts it.

    Raises:
        NotStartedError: it could not be started.
    """

    def __init__(self, first: Order | WarmUp, *, command: Sequence[str] = COMMAND) -> None:
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                # a Ctrl-C in the terminal is for the worker to deal with; but a session of its own would have a share
                # of the processor of its own on kernels that group by sessions, whatever its priority
                process_group=0,
            )
        except (OSError, MemoryError, subprocess.SubprocessError) as error:
            raise NotStartedError(f"could not be started: {error}") from error
        self._reader = threading.Thread(target=self._read, name="job-reader", daemon=True)
        try:
            self._reader.start()
            self.give(first)
        except (RuntimeError, MemoryError) as error:
            self.close()
            raise NotStartedError(f"could not be started: {error}") from error

    @property
    def pid(self) -> int:
        """The operating system's id of the process."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def give(self, order: Order | WarmUp) -> None:
        """Give the process an order. It must have none, or have carried out the one before.

        Raises:
            RuntimeError: no thread can be started.
        """
        # on a thread: a process that does not read would block an order that is longer than the pipe
        threading.Thread(target=self._write, args=(order.model_dump_json(),), name="job-order", daemon=True).start()

    def next(self, timeout_s: float) -> Message | Lost | None:
        """Return the next message; None after `timeout_s` of silence; `Lost` once the process has ended."""
        try:
            message = self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None
        return Lost.by(self._ended()) if message is None else message

    def go(self) -> None:
        """Permit the process to publish."""
        self._write(GO)

    def kill(self) -> None:
        """End the process now, and wait until it is gone, though not for ever."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GONE_WITHIN_S)
            return
        logger.error("process %d cannot be ended; it is left to itself", self._process.pid)

    def _ended(self) -> int:
        """Return the exit status of a process that has closed its output."""
        try:
            return self._process.wait(_GONE_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode or -signal.SIGKILL

    def __enter__(self) -> JobProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and release what it holds of this one."""
        self.kill()
        if self._reader.ident is not None:
            self._reader.join(_GONE_WITHIN_S)
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        if not self._reader.is_alive():  # else a process of the process holds the pipe, and closing it would wait
            self._process.stdout.close()  # type: ignore[union-attr]

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it ended; `next` says so
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                try:
                    self._messages.put(MESSAGE.validate_json(line))
                except ValidationError:
                    logger.exception("a job's process sent a line that is not a message")
        except (OSError, MemoryError):
            logger.exception("what a job's process says cannot be read any more")
        finally:
            self._messages.put(None)
