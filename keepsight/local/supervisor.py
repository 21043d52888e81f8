"""Runs processes that start and stop together; those that the others can do without are started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from keepsight.local.errors import StartError

OUR_MODULE: Final = (sys.executable, "-P", "-m")
"""What to put before the name of a module of ours to run it.

-P keeps the working directory off its path: a folder called `app` or `worker` there is the user's, and is not run.
"""
BOUND = Path(__file__).with_name("bound.py")
POLL_S = 0.1
TAIL_LINES = 12
SHORT_LIFE_S = 60.0
LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True)
class Part:
    """A program to run.

    Attributes:
        name: For people.
        command: Program and arguments.
        log: Its stdout and stderr are appended here.
        environment: Added to ours.
        grace_s: Seconds it has to end after SIGTERM.
        stop_last: The others depend on it, so it is asked to stop when they have gone.
        replaceable: The others go on without it, and it is started again.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = 10.0
    stop_last: bool = False
    replaceable: bool = False


class Running:
    """A part that was started. It leads its own process group: Ctrl-C on a terminal reaches its supervisor only."""

    def __init__(self, part: Part) -> None:
        self.part = part
        part.log.parent.mkdir(parents=True, exist_ok=True)
        with part.log.open("ab") as log:
            self.log_start = log.tell()
            self.process = subprocess.Popen(
                [*bound(), *part.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **part.environment},
                process_group=0,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self.process.poll()

    def log_tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of this run's log."""
        with self.part.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self.log_start, size - 16_384))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the program itself."""
        if self.exit_code is None:
            self.process.terminate()

    def kill(self) -> None:
        """Send SIGKILL to what is left of the process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Supervisor:
    """Starts parts, notices when one ends, starts it again if it is replaceable, stops all of them."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.running: list[Running] = []
        self._clock = clock
        self._started: dict[str, float] = {}
        self._short_lives: dict[str, int] = {}
        self._due: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self, part: Part) -> Running:
        """Start a part. Call it from the main thread: the kernel binds a child to the thread that made it."""
        started = Running(part)
        self.running.append(started)
        self._started[part.name] = self._clock()
        return started

    def check(self) -> None:
        """Raise if a part has ended.

        Raises:
            StartError: names the part, how it ended, and the last lines it logged.
        """
        self._raise_for(self.running)

    def _raise_for(self, candidates: Sequence[Running]) -> None:
        for running in candidates:
            code = running.exit_code
            if code is not None:
                raise StartError(death_notice(running, code))

    def tend(self, tell: Callable[[str], None]) -> bool:
        """Do as `check`, but start a replaceable part that has ended again.

        At once if it lived long, else after a pause that doubles from one second each time, so that a part that cannot
        live does not keep the others from working. Call it from the main thread, as `start`.

        Args:
            tell: Gets the notice of a part's end, once.

        Returns:
            Whether a part was started.

        Raises:
            StartError: a part that is not replaceable has ended.
        """
        ended = [running for running in self.running if running.exit_code is not None]
        self._raise_for([running for running in ended if not running.part.replaceable])
        replaced = [self._replace(running, tell) for running in ended]
        return any(replaced)

    def _replace(self, running: Running, tell: Callable[[str], None]) -> bool:
        name, now = running.part.name, self._clock()
        if name not in self._due:
            short = now - self._started[name] < SHORT_LIFE_S
            self._short_lives[name] = self._short_lives.get(name, 0) + 1 if short else 0
            pause = min(LONGEST_PAUSE_S, 2.0 ** (self._short_lives[name] - 1)) if short else 0.0
            self._due[name] = now + pause
            code = running.exit_code
            assert code is not None, "it has ended"
            when = f"in {pause:.0f} s" if pause else "now"
            tell(f"keepsight: {death_notice(running, code)}\nThe others go on; it is started again {when}.")
        if now < self._due[name]:
            return False
        del self._due[name]
        running.kill()  # what it left behind in its process group
        self.running.remove(running)
        self.start(running.part)
        return True

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float, stopping: Callable[[], bool]) -> bool:
        """Wait until `ready`; False if `stopping` came first.

        Raises:
            StartError: a part ended, or the time is over.
        """
        deadline = self._clock() + timeout_s
        while not stopping():
            self.check()
            if ready():
                return True
            if self._clock() > deadline:
                logs = ", ".join(str(running.part.log) for running in self.running)
                raise StartError(f"the service was not ready after {timeout_s:.0f} s; see {logs}")
            time.sleep(POLL_S)
        return False

    def kill(self) -> None:
        """Stop all parts at once, without grace."""
        for running in self.running:
            running.process.kill()

    def stop(self) -> list[str]:
        """Stop all parts, those with `stop_last` after the others; one that outlasts its grace is killed.

        Whatever a part started in its process group is killed with it.

        Returns:
            Names of parts that had to be killed.
        """
        killed: list[str] = []
        for last in (False, True):
            group = [running for running in self.running if running.part.stop_last is last]
            for running in group:
                running.ask_to_stop()
            asked = self._clock()
            for running in group:
                try:
                    running.process.wait(max(0.0, asked + running.part.grace_s - self._clock()))
                except subprocess.TimeoutExpired:
                    killed.append(running.part.name)
                running.kill()
        self.running.clear()
        return killed


def bound() -> list[str]:
    """Return what to put before a command so that it gets SIGTERM when the thread that starts it ends."""
    return [sys.executable, "-I", "-S", str(BOUND), str(os.getpid()), str(int(signal.SIGTERM))]


def death_notice(running: Running, code: int) -> str:
    """Return how a part ended, and the end of its log."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"the {running.part.name} {how}; its log, {running.part.log}, ends:\n{running.log_tail()}"
