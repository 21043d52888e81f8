"""The service under test: `keepsight up` with two servers in folders of its own, and its processes by what they do."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import redis

from benchmarks.common.proc import PROC, all_stats, members
from benchmarks.common.process import ROOT
from benchmarks.faults.disks import Disk, disks

T = TypeVar("T")
SERVERS: Final = 2
START_S: Final = 300.0
PATIENCE_S: Final = 60.0
_PAUSE_S: Final = 0.1
_ROLES: Final = {
    "exporter": ("app.export_child",),
    "broker wrapper": ("keepsight.local.broker",),
    "broker": ("valkey-server", "valkey_server"),
    "child": ("worker.child",),
    "worker": ("-m worker",),
    "server": ("-m app",),
}
"""What is in the command line of each kind of process; the first that fits counts."""


class ServiceError(RuntimeError):
    """The service cannot be started, or did not do in time what it must."""


@dataclass(frozen=True)
class Answer:
    """What came back: `status` 0 if nothing did, and `body` then says why."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.status} {self.body[:200].decode(errors='replace')}"


class Service:
    """A running service. `base` holds its store and what lies beside it, `disks` are what `base` is made of, if any."""

    def __init__(self, base: Path, mounted: Mapping[str, Disk], model: str) -> None:
        self.base = base
        self.disks = mounted
        self.store = base / "store"
        self.spool = base / "spool" / "jobs"
        self.temporary = base / "tmp"
        self.keys_file = base / "keys.json"
        self.output = base.parent / f"{base.name}-up.log"
        self.key: str | None = None
        self.port = free_ports(1 + SERVERS)
        self.metrics_port = self.port + 1
        self.url = f"http://127.0.0.1:{self.port}"
        self._model = model
        for folder in (self.temporary, self.spool):
            folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Start it on what is in its folders."""
        command = [sys.executable, "-P", "-m", "keepsight", "up", "--store", str(self.store), "--port", str(self.port)]
        command += ["--model", self._model, "--threads", "1", "--api-processes", str(SERVERS)]
        command += ["--metrics-port", str(self.metrics_port)]
        # what it prints goes through a process of its own, which can be ended like a terminal
        with self.output.open("ab") as out:
            self._reader = subprocess.Popen(
                [shutil.which("cat") or "cat"], stdin=subprocess.PIPE, stdout=out, start_new_session=True
            )
        assert self._reader.stdin is not None
        with self._reader.stdin as pipe:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                cwd=ROOT,
                env=self.environment,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def environment(self) -> dict[str, str]:
        """What it and commands beside it are started with."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("KEEPSIGHT_")},
            "KEEPSIGHT_SPOOL": str(self.spool),
            "KEEPSIGHT_KEYS_FILE": str(self.keys_file),
            "KEEPSIGHT_DEVICE": "cpu",
            "KEEPSIGHT_STALE_AFTER_S": "6",
            "KEEPSIGHT_RELOAD_BACKOFF_S": "2",
            "TMPDIR": str(self.temporary),
            "HF_HUB_OFFLINE": "1",
        }

    def until_ready(self) -> None:
        """Wait until every server is ready.

        Raises:
            ServiceError: it ended, or is not ready in time.
        """
        self.wait(lambda: self.ready() and len(self.metrics()) == SERVERS, "all servers", timeout_s=START_S)

    # --- its processes ------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> int | None:
        """The exit status, if it has ended."""
        return self._process.poll()

    def tree(self) -> set[int]:
        """The ids of all its processes."""
        return members(self.pid, all_stats()) if self.ended is None else set()

    def pids(self, role: str) -> list[int]:
        """The ids of the living processes that do this; the roles are those of `_ROLES`."""
        return sorted(pid for pid in self.tree() if role_of(command_line(pid)) == role and is_alive(pid))

    def wait_for(self, role: str, *, timeout_s: float = PATIENCE_S) -> list[int]:
        """The ids of at least one process of a role.

        Raises:
            ServiceError: there is none in time.
        """
        return self.wait(lambda: self.pids(role), f"a {role}", timeout_s=timeout_s)

    def wait(self, condition: Callable[[], T], what: str, *, timeout_s: float = PATIENCE_S) -> T:
        """The first true value of `condition`.

        Raises:
            ServiceError: the service ended, or there is none in time.
        """
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            if self.ended is not None:
                raise ServiceError(f"the service ended with exit status {self.ended} while {what} was waited for")
            if time.monotonic() > deadline:
                raise ServiceError(f"{what}: not within {timeout_s:g} s")
            time.sleep(_PAUSE_S)
        return found

    def signal(self, role: str, number: signal.Signals, *, first: bool = False) -> list[int]:
        """Send a signal to all processes of a role, or to the one with the lowest id; the ids that got it."""
        found = self.pids(role)[: 1 if first else None]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return found

    # --- its doors ----------------------------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 40.0,
    ) -> Answer:
        """One request over a connection of its own. A mapping is sent as JSON. Never raises."""
        sent = {**({"Authorization": f"Bearer {self.key}"} if self.key else {}), **(headers or {})}
        if isinstance(body, Mapping):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()})
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, f"{type(error).__name__}: {error}".encode())
        finally:
            connection.close()

    def ready(self) -> bool:
        """Whether a server says that it is."""
        return self.ask("GET", "/readyz", timeout_s=5).status == 200

    def metrics(self) -> list[str]:
        """The metrics of each server, in Prometheus' text; those that do not answer are left out."""
        found = []
        for number in range(SERVERS):
            connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port + number, timeout=10)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/metrics")
                found.append(connection.getresponse().read().decode())
            connection.close()
        return found

    def broker(self) -> redis.Redis:
        """A connection to its broker, with the rights that the servers have."""
        for pid in self.pids("server"):
            for entry in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                name, _, value = entry.partition(b"=")
                if name == b"KEEPSIGHT_REDIS_URL":
                    return redis.Redis.from_url(value.decode(), socket_timeout=30, decode_responses=True)
        raise ServiceError("no server runs, so nobody knows the broker's address")

    # --- its end ------------------------------------------------------------------------------------------------------

    def close_output(self) -> None:
        """End what reads its output: the next line that it prints meets a closed pipe."""
        self._reader.kill()
        self._reader.wait()

    def end(self, *, kindly: bool = True) -> None:
        """End it, by a signal that it may answer or at once. Nothing of it is left running."""
        everyone = self.tree()
        if kindly:
            for pid in everyone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(40)
        left = [pid for pid in everyone if str(self.base).encode() in _read(pid, "environ")]  # ids are given out again
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + PATIENCE_S
        while any(is_alive(pid) for pid in left) and time.monotonic() < deadline:  # until then they may hold the port
            time.sleep(0.05)
        self.close_output()

    def said(self) -> str:
        """The end of what it wrote to stderr."""
        return self.output.read_text(errors="replace")[-1500:].strip()


@contextlib.contextmanager
def running(folder: Path, *, name: str, model: str) -> Iterator[Service]:
    """A service that is ready, for as long as the block lasts.

    Raises:
        ServiceError: it does not become ready.
    """
    base = folder / name
    with disks(base) as mounted:
        service = Service(base, mounted, model)
        try:
            service.until_ready()
            yield service
        except ServiceError as error:
            raise ServiceError(f"{error}: {service.said()}") from error
        finally:
            service.end()


def role_of(command: str) -> str | None:
    """What a process does, by its command line; None if it is none of ours."""
    return next((role for role, marks in _ROLES.items() if any(mark in command for mark in marks)), None)


def command_line(pid: int) -> str:
    """Program and arguments; empty if the process is gone."""
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended (a zombie has)."""
    return _read(pid, "stat").rpartition(b")")[2].split()[:1] not in ([], [b"Z"], [b"X"])


def _read(pid: int, name: str) -> bytes:
    try:
        return (PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""


def free_ports(count: int) -> int:
    """The first of so many neighbouring ports of the loopback address that nobody listens on.

    They lie below those that the kernel gives to outgoing connections, or one of these might take a port before the
    service does.
    """
    while True:
        first = random.randrange(12_000, 32_000)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for number in range(count):
                held.enter_context(socket.socket()).bind(("127.0.0.1", first + number))
            return first
