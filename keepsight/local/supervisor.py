"""Runs processes that start and stop together, and starts again what ends or hangs."""

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
from keepsight.local.logs import open_log
from keepsight.local.signs import SIGNS_FD, Listener

OUR_MODULE: Final = (sys.executable, "-P", "-m")
"""What to put before the name of a module of ours to run it.

-P keeps the working directory off its path: a folder called `app` or `worker` there is the user's, and is not run.
"""
OUR_ROOT: Final = Path(__file__).resolve().parents[2]
BOUND = Path(__file__).with_name("bound.py")
POLL_S = 0.1
TAIL_LINES = 12
SHORT_LIFE_S = 60.0
LONGEST_PAUSE_S = 30.0


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
        longest_silence_s: Seconds without a sign of life, after its first, from which on it counts as silent.
        longest_start_s: Seconds until the first, from which on it counts as silent.
        waited_for: Whether it is waited for when it is silent; else it is killed and started again.
        sockets: Numbers of open sockets that it inherits.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = 10.0
    stop_last: bool = False
    longest_silence_s: float = 10.0
    longest_start_s: float = 300.0
    waited_for: bool = False
    sockets: tuple[int, ...] = ()


class Running:
    """A part that was started. It leads its own process group: Ctrl-C on a terminal reaches its supervisor only."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.is_silent = False
        self.signs = Listener()
        try:
            with open_log(part.log) as log:
                self.log_start = log.tell()
                self.process = subprocess.Popen(
                    [*bound(), *part.command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={
                        **our_environment(),
                        "PYTHONUNBUFFERED": "1",
                        SIGNS_FD: str(self.signs.writer),
                        **part.environment,
                    },
                    pass_fds=(self.signs.writer, *part.sockets),
                    process_group=0,
                )
        except BaseException:
            self.signs.close()
            raise
        finally:
            self.signs.close_writer()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self.process.poll()

    def log_tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of this run's log; empty if it cannot be read."""
        try:
            with self.part.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(min(self.log_start, size), size - 16_384))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the program itself, and let it go on if it was stopped, so that it can end."""
        if self.exit_code is None:
            self.process.terminate()
            self._signal_group(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL to what is left of the process group."""
        self._signal_group(signal.SIGKILL)

    def close(self) -> None:
        """Kill what is left, and wait for its end."""
        self.kill()
        self.process.wait()
        self.signs.close()

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Supervisor:
    """Starts parts, notices when one ends or hangs, starts it again, and stops all of them.

    Args:
        tell: Gets notices for the user. One thing is told once, however often it happens in a row.
        clock: Seconds.
    """

    def __init__(
        self, *, tell: Callable[[str], None] = lambda notice: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.running: list[Running] = []
        self._tell = tell
        self._clock = clock
        self._started: dict[str, float] = {}
        self._short_lives: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._unstartable: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self, part: Part) -> Running:
        """Start a part. Call it from the main thread: the kernel binds a child to the thread that made it.

        Raises:
            OSError: the system has no process, memory or file left for it.
        """
        started = Running(part)
        self.running.append(started)
        self._started[part.name] = self._clock()
        return started

    def check(self) -> None:
        """Raise if a part has ended.

        Raises:
            StartError: names the part, how it ended, and the last lines it logged.
        """
        for running in self.running:
            code = running.exit_code
            if code is not None:
                raise StartError(death_notice(running, code))

    def tend(self) -> bool:
        """Start each part again that has ended, and kill each that hangs, so that it ends.

        A part is started at once if it lived long, else after a pause that doubles from one second each time, so that
        a part that cannot live does not keep the others from working. Call it from the main thread, as `start`.

        Returns:
            Whether a part was started.
        """
        for running in self.running:
            self._listen(running)
            self._praise(running)
        ended = [running for running in self.running if running.exit_code is not None]
        replaced = [self._replace(running) for running in ended]
        return any(replaced)

    def _listen(self, running: Running) -> None:
        part, signs = running.part, running.signs
        for notice in signs.look(self._clock(), waited_s=waited_for_processor_s(running.process.pid)):
            self._tell(f"keepsight: {notice}")
        if running.exit_code is not None:
            return
        allowed_s = part.longest_silence_s if signs.heard else part.longest_start_s
        was, running.is_silent = running.is_silent, signs.silent_s > allowed_s
        if running.is_silent and not was:
            then = "it is waited for" if part.waited_for else "it is killed"
            self._tell(
                f"keepsight: the {part.name} has given no sign of life for {allowed_s:.0f} s; {then}. The others go on."
            )
            if not part.waited_for:
                running.kill()
        elif was and not running.is_silent:
            self._tell(f"keepsight: the {part.name} answers again.")

    def _praise(self, running: Running) -> None:
        """Say once that a part that kept ending has stopped doing so."""
        name = running.part.name
        lived = running.exit_code is None and self._clock() - self._started[name] >= SHORT_LIFE_S
        if lived and self._short_lives.pop(name, 0) > 1:
            self._tell(f"keepsight: the {name} runs again.")

    def _replace(self, running: Running) -> bool:
        name, now = running.part.name, self._clock()
        if name not in self._due:
            pause = self._next_pause(name)
            code = running.exit_code
            assert code is not None, "it has ended"
            if self._short_lives.get(name, 0) <= 1:
                when = f"in {pause:.0f} s, and again until it lives" if pause else "now"
                self._tell(f"keepsight: {death_notice(running, code)}\nThe others go on; it is started again {when}.")
        if now < self._due[name]:
            return False
        running.kill()  # what it left behind in its process group
        try:
            self.start(running.part)
        except OSError as error:
            self._started[name] = now
            if name not in self._unstartable:
                self._tell(f"keepsight: the {name} cannot be started now: {error}. It is tried again.")
            self._unstartable.add(name)
            self._next_pause(name)
            return False
        self._unstartable.discard(name)
        del self._due[name]
        running.close()
        self.running.remove(running)
        return True

    def _next_pause(self, name: str) -> float:
        """Return the seconds until a part that has ended is to be started, and note when that is."""
        now = self._clock()
        short = now - self._started[name] < SHORT_LIFE_S
        self._short_lives[name] = lives = self._short_lives.get(name, 0) + 1 if short else 0
        pause = min(LONGEST_PAUSE_S, 2.0 ** (lives - 1)) if short else 0.0
        self._due[name] = now + pause
        return pause

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float, stopping: Callable[[], bool]) -> bool:
        """Wait until `ready`; False if `stopping` came first.

        Raises:
            StartError: a part ended, or the time is over.
        """
        deadline = self._clock() + timeout_s
        while not stopping():
            for running in self.running:
                self._listen(running)
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
            running.kill()

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
                running.close()
        self.running.clear()
        return killed


def bound() -> list[str]:
    """Return what to put before a command so that it gets SIGTERM when the thread that starts it ends."""
    return [sys.executable, "-I", "-S", str(BOUND), str(os.getpid()), str(int(signal.SIGTERM))]


def our_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return `environment`, or ours, with a PYTHONPATH that leads to our own packages first, if it has one.

    A folder on it may be the user's project, with an `app` or a `worker` of its own. The working directory is left out,
    for the same reason as `OUR_MODULE` has.
    """
    made = dict(os.environ if environment is None else environment)
    if made.get("PYTHONPATH"):
        here = Path.cwd()
        theirs = [entry for entry in made["PYTHONPATH"].split(os.pathsep) if Path(entry).resolve() != here]
        made["PYTHONPATH"] = os.pathsep.join((str(OUR_ROOT), *theirs))
    return made


def waited_for_processor_s(pid: int) -> float:
    """Return the seconds for which a process's threads were ready to run and did not, together; 0 if unknown."""
    waited_ns = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError, IndexError, ValueError):  # the thread has ended
            waited_ns += int(thread.read_text().split()[1])
    return waited_ns / 1e9


def death_notice(running: Running, code: int) -> str:
    """Return how a part ended, and the end of its log."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"the {running.part.name} {how}; its log, {running.part.log}, ends:\n{running.log_tail()}"
