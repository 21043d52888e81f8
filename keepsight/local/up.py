"""`keepsight up`: broker, worker and server on one machine, started together and stopped together."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from keepsight.local.instance import Instance, check_port, free_port
from keepsight.local.logs import LogStream, rotate
from keepsight.local.supervisor import OUR_MODULE, Part, Supervisor

WATCH_S = 0.25
SERVER_GRACE_S = 15.0
WORKER_GRACE_S = 20.0
BROKER_GRACE_S = 8.0
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to reach a server that listens everywhere
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class UpSettings:
    """The options of `keepsight up`.

    Attributes:
        host: Address that the server binds.
        port: Its port; 0 takes a free one.
        store: Root of the versions; spool, logs and broker data lie beside it.
        redis_url: A broker that runs already; None starts the embedded one.
        worker: Whether to start a worker.
        api_processes: How many servers share the port.
        devices: Where their models run, in turn; empty: as KEEPSIGHT_DEVICE says.
        metrics_port: Where the first serves its metrics by itself, the second one port further, and so on.
        ready_timeout_s: How long the service may take until /readyz says yes.
        verbose: Copy the parts' logs to the console.
        environment: `KEEPSIGHT_*` settings for the parts, from options.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    store: Path = Path("var/store")
    redis_url: str | None = None
    worker: bool = True
    api_processes: int = 1
    devices: tuple[str, ...] = ()
    metrics_port: int | None = None
    ready_timeout_s: float = 300.0
    verbose: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        """The folder that holds the store and what lies beside it."""
        return self.store.resolve().parent

    @property
    def log_folder(self) -> Path:
        """Where the parts' logs are."""
        return self.base / "log"


def service_url(host: str, port: int) -> str:
    """Return the address to open for a server that binds `host`."""
    name = WILDCARDS.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def parts(settings: UpSettings, *, port: int, broker_port: int) -> list[Part]:
    """Return the parts of the service, in the order in which they are started."""
    redis_url = settings.redis_url or f"redis://127.0.0.1:{broker_port}/0"
    threads = os.environ.get("KEEPSIGHT_THREADS", str(min(2, os.cpu_count() or 1)))
    environment = {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", settings.environment.get("KEEPSIGHT_THREADS", threads)),
        "KEEPSIGHT_SPOOL": os.environ.get("KEEPSIGHT_SPOOL", str(settings.base / "spool")),
        **settings.environment,
        "KEEPSIGHT_STORE": str(settings.store.resolve()),
        "KEEPSIGHT_REDIS_URL": redis_url,
        "KEEPSIGHT_HOST": settings.host,
        "KEEPSIGHT_PORT": str(port),
    }
    logs = settings.log_folder
    started = server_parts(settings, logs, environment)
    if settings.worker:
        started.insert(0, worker_part(logs, environment))
    if settings.redis_url is None:
        command = (
            *OUR_MODULE,
            "keepsight.local.broker",
            "--data-dir",
            str(settings.base / "broker"),
            "--port",
            str(broker_port),
        )
        started.insert(0, Part("broker", command, logs / "broker.log", {}, BROKER_GRACE_S, stop_last=True))
    return started


def server_parts(settings: UpSettings, logs: Path, environment: dict[str, str]) -> list[Part]:
    """The server processes. Where there are several, the others go on if one ends, and it is started again."""
    several = settings.api_processes > 1
    made = []
    for number in range(settings.api_processes):
        name = "server" if number == 0 else f"server-{number + 1}"
        own = dict(environment)
        if several:
            own["KEEPSIGHT_SHARE_PORT"] = "true"
        if settings.devices:
            own["KEEPSIGHT_DEVICE"] = settings.devices[number % len(settings.devices)]
        if settings.metrics_port is not None:
            own["KEEPSIGHT_METRICS_PORT"] = str(settings.metrics_port + number)
        made.append(Part(name, (*OUR_MODULE, "app"), logs / f"{name}.log", own, SERVER_GRACE_S, replaceable=several))
    return made


def worker_part(logs: Path, environment: dict[str, str]) -> Part:
    """The worker: whatever becomes of it, the version that is served stays served."""
    command = (*OUR_MODULE, "worker")
    return Part("worker", command, logs / "worker.log", environment, WORKER_GRACE_S, replaceable=True)


def run(
    settings: UpSettings,
    *,
    on_ready: Callable[[dict[str, Any]], None],
    on_stopping: Callable[[], None] = lambda: None,
    on_loss: Callable[[str], None] = lambda notice: None,
    write: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Start everything, call `on_ready` with the service's note, and stay until a signal asks to stop.

    Args:
        settings: The options.
        on_ready: Gets `url`, `pid`, `parts` (names to pids), `logs`, `store` and the broker's address.
        on_stopping: Called when the parts are asked to stop.
        on_loss: Gets the notice that the worker has ended and is started again.
        write: Gets the parts' log lines if `verbose`.

    Returns:
        Names of parts that did not stop in time and were killed.

    Raises:
        StartError: the port or the store is taken, or a part other than the worker ended by itself, or the worker
            before the service was ready; all others have been stopped then.
    """
    instance = Instance(settings.store)
    with instance.held():
        port = settings.port or free_port(settings.host)
        check_port(settings.host, port)
        wanted = parts(settings, port=port, broker_port=free_port())
        with stop_signals() as stopping, Supervisor() as supervisor, LogStream(write) as stream:
            stopping.on_second = supervisor.kill
            for part in wanted:
                rotate(part.log)
                running = supervisor.start(part)
                if settings.verbose:
                    stream.follow(part.name, part.log, running.log_start)
            url = service_url(settings.host, port)
            if supervisor.wait_until(probe(url), timeout_s=settings.ready_timeout_s, stopping=stopping.is_set):
                note = {
                    "url": url,
                    "pid": os.getpid(),
                    "store": str(settings.store.resolve()),
                    "broker": without_password(wanted[-1].environment["KEEPSIGHT_REDIS_URL"]),
                    "parts": pids(supervisor),
                    "logs": {running.part.name: str(running.part.log) for running in supervisor.running},
                }
                instance.write_note(note)
                on_ready(note)
                while not stopping.wait(WATCH_S):
                    if supervisor.tend(on_loss):
                        instance.write_note({**note, "parts": pids(supervisor)})
            on_stopping()
            return supervisor.stop()


def pids(supervisor: Supervisor) -> dict[str, int]:
    """Return the process ids of the parts, by name."""
    return {running.part.name: running.process.pid for running in supervisor.running}


def probe(url: str) -> Callable[[], bool]:
    """Return a function that says whether the service at `url` is ready."""
    from keepsight.client import Client

    return Client(url).ready


def without_password(url: str) -> str:
    """Return an address without its password, so that it may be printed."""
    split = urlsplit(url)
    if split.password is None:
        return url
    return split._replace(netloc=f"{split.username or ''}:***@{split.netloc.rpartition('@')[2]}").geturl()


class StopSignals:
    """Whether SIGTERM, SIGINT or SIGHUP has arrived; a second one is passed on to `on_second`."""

    def __init__(self) -> None:
        self.on_second: Callable[[], None] = lambda: None
        self._count = 0

    def is_set(self) -> bool:
        """Whether a signal has arrived."""
        return self._count > 0

    def wait(self, timeout_s: float) -> bool:
        """Wait for a signal; True if there was one, however long ago."""
        if not self.is_set():
            time.sleep(timeout_s)
        return self.is_set()

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self._count += 1
        if self._count > 1:
            self.on_second()


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Collect the signals that ask to stop, instead of dying from them."""
    received = StopSignals()
    before = {number: signal.signal(number, received.receive) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
