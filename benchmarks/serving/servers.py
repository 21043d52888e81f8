"""Servers under measurement: started in sessions of their own, waited for, frozen while others are measured, ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.common.proc import all_stats, freeze, members, tree_cpu_s
from benchmarks.common.process import ROOT

READY_S: Final = 240.0
_POLL_S: Final = 0.05
_TAIL: Final = 1500


class ServerError(RuntimeError):
    """A server could not be started, ended by itself or gave an answer that cannot be used."""


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass(frozen=True)
class Launch:
    """How a server is started.

    Attributes:
        name: For people.
        command: Program and arguments, `{port}` to be filled in.
        ready: Path that answers 200 once the server is ready.
        environment: Laid over ours.
        folder: To start in.
    """

    name: str
    command: Sequence[str]
    ready: str
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = ROOT


class Server:
    """A running server. Its whole tree is known by the kernel's ids."""

    def __init__(self, launch: Launch, log: Path) -> None:
        self.name = launch.name
        self.port = free_port()
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [word.replace("{port}", str(self.port)) for word in launch.command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **launch.environment},
                cwd=launch.folder,
                start_new_session=True,
            )
        self._ready = launch.ready

    @property
    def root(self) -> int:
        """Process id of the tree's root."""
        return self._process.pid

    def until_ready(self, timeout_s: float = READY_S) -> None:
        """Return once it says that it is ready.

        Raises:
            ServerError: it ended, or is not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(f"{self.name} ended with exit status {self._process.returncode}: {self.tail()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get(self._ready)[0] == 200:
                    return
            time.sleep(_POLL_S)
        raise ServerError(f"{self.name} is not ready after {timeout_s:g} s: {self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        return self._log.read_bytes()[-_TAIL:].decode(errors="replace").strip()

    def get(self, path: str) -> tuple[int, bytes]:
        """(status, body) of a GET."""
        return self.ask("GET", path, None, {})

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """(status, parsed body) of a POST of JSON."""
        status, answer = self.ask("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return status, json.loads(answer)

    def ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        """(status, body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def cpu_s(self) -> float:
        """CPU seconds of its whole tree so far."""
        return tree_cpu_s(self.root)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run while the block lasts; before and after it is frozen."""
        freeze(self.root, frozen=False)
        try:
            self.until_ready()  # one that was stopped for long must look first which version is served
            yield
        finally:
            freeze(self.root, frozen=True)

    def stop(self) -> None:
        """End the whole tree, kindly at first. Nothing of it is left."""
        everyone = members(self.root, all_stats())
        freeze(self.root, frozen=False)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.root, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        for pid in everyone:  # what outlived its root: known by its id from before
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def running(launch: Launch, log: Path) -> Iterator[Server]:
    """A server that is ready, for as long as the block lasts.

    Raises:
        ServerError: it does not become ready.
    """
    server = Server(launch, log)
    try:
        server.until_ready()
        yield server
    finally:
        server.stop()


def keepsight(
    store: Path, *, model: str, pretrained: str | None, threads: int, api_processes: int, worker: bool = False
) -> Launch:
    """`keepsight up`, as it ships: broker, server and their supervisor count as its tree, and a worker if asked for."""
    command = [sys.executable, "-m", "keepsight", "up", "--store", str(store), "--port", "{port}"]
    command += [] if worker else ["--no-worker"]
    command += ["--model", model, "--threads", str(threads)]
    command += ["--pretrained", pretrained] if pretrained else []
    command += ["--api-processes", str(api_processes)] if api_processes > 1 else []
    environment = {
        "KEEPSIGHT_SPOOL": str(store.with_name(f"{store.name}-spool")),
        "KEEPSIGHT_KEYS_FILE": str(store.with_name(f"{store.name}-keys.json")),
        "HF_HUB_OFFLINE": "1",
    }
    return Launch("keepsight", command, "/readyz", environment)
