"""A process that is told what to do by JSON lines and answers in JSON lines: load generators and bare loops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from benchmarks.common.process import ROOT


class ChildError(RuntimeError):
    """A measuring process ended, or said that it could not do what it was told."""


class Child:
    """`python -m MODULE ARGUMENTS`, as a context manager: whatever happens, it is gone afterwards.

    Every command is answered by one line with `done`; lines with `event` may come before.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            cwd=ROOT,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def tell(self, **command: Any) -> None:
        """Send a command without waiting."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def wait(self, on_event: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
        """The answer to the command that was sent last; events are handed over as they come.

        Raises:
            ChildError: the process ended, or reported an error.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message: dict[str, Any] = json.loads(line)
            if "event" in message:
                on_event(message["event"])
            elif "error" in message:
                raise ChildError(f"{self.module}: {message['error']}")
            else:
                answer: dict[str, Any] = message["done"]
                return answer
        raise ChildError(f"{self.module} ended with exit status {self._process.wait()}")

    def do(self, *, on_event: Callable[[str], None] = lambda _: None, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.tell(**command)
        return self.wait(on_event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def say(**message: Any) -> None:
    """In the child: one line out."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
