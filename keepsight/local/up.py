"""`keepsight up`: broker, worker and servers on one machine, started and stopped together, and kept running."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec

from keepsight.local.instance import Instance, listening_sockets
from keepsight.local.logs import LogStream, limit
from keepsight.local.private import private_files, socket_address, socket_url
from keepsight.local.supervisor import OUR_MODULE, Part, Supervisor

P = ParamSpec("P")
WATCH_S = 0.25
SERVER_GRACE_S = 25.0  # of which unloading a model takes seconds on a busy machine
WORKER_GRACE_S = 25.0
BROKER_GRACE_S = 8.0
LONGEST_SERVER_SILENCE_S = 10.0
LONGEST_WORKER_SILENCE_S = 60.0
LISTEN_FDS = "KEEPSIGHT_LISTEN_FDS"
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


def parts(settings: UpSettings, *, port: int, broker_socket: Path, sockets: Sequence[int] = ()) -> list[Part]:
    """Return the parts of the service, in the order in which they are started.

    Args:
        settings: The options.
        port: The port that the servers answer on.
        broker_socket: Where the embedded broker listens.
        sockets: Numbers of the sockets that the servers accept connections from.
    """
    redis_url = settings.redis_url or socket_url(broker_socket)
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
    started = server_parts(settings, logs, {**environment, LISTEN_FDS: ",".join(map(str, sockets))}, tuple(sockets))
    if settings.worker:
        started.insert(0, worker_part(logs, environment))
    if settings.redis_url is None:
        started.insert(0, broker_part(settings.base / "broker", broker_socket, logs))
    return started


def broker_part(data: Path, address: Path, logs: Path) -> Part:
    """The embedded broker. A silent one is waited for: it holds the jobs, and may be waiting for a slow disk."""
    command = (*OUR_MODULE, "keepsight.local.broker", "--data-dir", str(data), "--socket", str(address))
    return Part("broker", command, logs / "broker.log", grace_s=BROKER_GRACE_S, stop_last=True, waited_for=True)


def server_parts(
    settings: UpSettings, logs: Path, environment: dict[str, str], sockets: tuple[int, ...] = ()
) -> list[Part]:
    """The server processes. All accept from the same sockets, so one that is stopped takes no new connection."""
    made = []
    for number in range(settings.api_processes):
        name = "server" if number == 0 else f"server-{number + 1}"
        own = dict(environment)
        if settings.devices:
            own["KEEPSIGHT_DEVICE"] = settings.devices[number % len(settings.devices)]
        if settings.metrics_port is not None:
            own["KEEPSIGHT_METRICS_PORT"] = str(settings.metrics_port + number)
        made.append(
            Part(
                name,
                (*OUR_MODULE, "app"),
                logs / f"{name}.log",
                own,
                SERVER_GRACE_S,
                longest_silence_s=LONGEST_SERVER_SILENCE_S,
                longest_start_s=max(settings.ready_timeout_s, Part.longest_start_s),
                sockets=sockets,
            )
        )
    return made


def worker_part(logs: Path, environment: dict[str, str]) -> Part:
    """The worker: whatever becomes of it, the version that is served stays served."""
    command = (*OUR_MODULE, "worker")
    log = logs / "worker.log"
    return Part("worker", command, log, environment, WORKER_GRACE_S, longest_silence_s=LONGEST_WORKER_SILENCE_S)


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
        on_loss: Gets the notice that a part has ended or hangs, and what is done about it.
        write: Gets the parts' log lines if `verbose`.

    What these four raise is ignored, as their output may lead nowhere.

    Returns:
        Names of parts that did not stop in time and were killed.

    Raises:
        StartError: the port or the store is taken, or a part ended before the service was ready; all others have been
            stopped then. Later, a part that ends is started again.
    """
    tell = unfailing(on_loss)
    instance = Instance(settings.store)
    with ExitStack() as stack:
        stack.enter_context(private_files())
        stack.enter_context(instance.held())
        sockets = [stack.enter_context(each) for each in listening_sockets(settings.host, settings.port)]
        port = sockets[0].getsockname()[1]
        address = stack.enter_context(socket_address(settings.base / "broker"))
        numbers = [each.fileno() for each in sockets]
        wanted = parts(settings, port=port, broker_socket=address, sockets=numbers)
        stopping = stack.enter_context(stop_signals())
        supervisor = stack.enter_context(Supervisor(tell=tell))
        stream = stack.enter_context(LogStream(unfailing(write)))
        stopping.on_second = supervisor.kill
        for part in wanted:
            limit(part.log)
            running = supervisor.start(part)
            if settings.verbose:
                stream.follow(part.name, part.log, running.log_start)
        url = service_url(settings.host, port)
        if supervisor.wait_until(probe(url), timeout_s=settings.ready_timeout_s, stopping=stopping.is_set):
            note = {
                "url": url,
                "pid": os.getpid(),
                "store": str(settings.store.resolve()),
                "broker": without_password(settings.redis_url or socket_url(address)),
                "parts": pids(supervisor),
                "logs": {part.name: str(part.log) for part in wanted},
            }
            keeper = Keeper(supervisor, instance, note, tell)
            keeper.keep_files()
            unfailing(on_ready)(note)
            while not stopping.wait(WATCH_S):
                keeper.look()
        unfailing(on_stopping)()
        return supervisor.stop()


class Keeper:
    """Looks after a service that is ready. Nothing that fails here ends it: it is told once, and tried again."""

    def __init__(
        self, supervisor: Supervisor, instance: Instance, note: dict[str, Any], tell: Callable[[str], None]
    ) -> None:
        self._supervisor = supervisor
        self._instance = instance
        self._note = note
        self._tell = tell
        self._told: dict[str, str] = {}

    def look(self) -> None:
        """Look once."""
        with self._failing("looking after the service"):
            self._supervisor.tend()
        self._note = {**self._note, "parts": pids(self._supervisor)}
        self.keep_files()

    def keep_files(self) -> None:
        """Keep the note right, and the logs from growing."""
        with self._failing(f"writing {self._instance.note_path}"):
            self._instance.keep(self._note)
        for log in self._note["logs"].values():
            limit(Path(log))

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._told.get(what) != str(error):
                self._tell(f"keepsight: {what} failed: {error}. The service goes on, and it is tried again.")
            self._told[what] = str(error)
        else:
            self._told.pop(what, None)


def unfailing(call: Callable[P, object]) -> Callable[P, None]:
    """Return a function that does the same and ignores what fails: a closed pipe, or a full disk."""

    def tried(*arguments: P.args, **named: P.kwargs) -> None:
        with suppress(Exception, SystemExit):  # rich exits when its pipe is closed
            call(*arguments, **named)

    return tried


def pids(supervisor: Supervisor) -> dict[str, int]:
    """Return the process ids of the parts, by name."""
    return {running.part.name: running.process.pid for running in supervisor.running}


def probe(url: str) -> Callable[[], bool]:
    """Return a function that says whether the service at `url` is ready."""
    from keepsight.client import Client

    return Client(url).ready


def without_password(url: str) -> str:
    """Return an address without its password, so that it may be printed."""
    hidden = re.sub(r"^([^:/]+://[^/?#@:]*:)[^/?#]*@", r"\1***@", url)
    return re.sub(r"([?&]password=)[^&#]*", r"\1***", hidden)


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
