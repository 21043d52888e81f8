"""A broker that is silent, refuses, or has lost what it knew."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import redis

from benchmarks.faults.fault import FORGOTTEN, Fault
from benchmarks.faults.stage import Stage

Commands = tuple[tuple[Any, ...], ...]


def commands(*sent: tuple[Any, ...]) -> Callable[[Stage], None]:
    """Send commands to the broker."""

    def inject(stage: Stage) -> None:
        connection: Any = stage.broker()
        for command in sent:
            with suppress(redis.exceptions.ConnectionError):  # the command may end the connection, or the broker
                connection.execute_command(*command)

    return inject


def configured(
    name: str, value: str, *then: tuple[Any, ...]
) -> tuple[Callable[[Stage], None], Callable[[Stage], None]]:
    """Set an option of the broker, and the way back, over the same connection: nobody else may get in meanwhile."""
    return commands_back(
        (("CONFIG", "SET", name, value), *then), lambda was: (("CONFIG", "SET", name, was[name]),), name
    )


def commands_back(
    there: Commands, back: Callable[[dict[str, str]], Commands], *names: str
) -> tuple[Callable[[Stage], None], Callable[[Stage], None]]:
    """Send commands, and others when the fault is over; `back` gets the values that the options `names` had."""
    held: dict[int, tuple[Any, dict[str, str]]] = {}

    def inject(stage: Stage) -> None:
        # one connection, which was there before and lives on
        connection: Any = redis.Redis(connection_pool=_single(stage.broker().connection_pool))
        stage.closing.append(connection)
        was = {name: connection.config_get(name)[name] for name in names}
        held[id(stage)] = (connection, was)
        for command in there:
            connection.execute_command(*command)

    def undo(stage: Stage) -> None:
        connection, was = held.pop(id(stage))
        for command in back(was):
            connection.execute_command(*command)

    return inject, undo


def _single(pool: redis.ConnectionPool) -> redis.ConnectionPool:
    return redis.ConnectionPool(pool.connection_class, 1, **pool.connection_kwargs)


def endless_script(stage: Stage) -> None:
    """A script that never ends: the broker answers BUSY until it is killed."""
    connection = stage.broker()
    connection.config_set("busy-reply-threshold", 100)

    def run() -> None:
        with suppress(redis.exceptions.RedisError):
            stage.service.broker().eval("while true do end", 0)

    threading.Thread(target=run, daemon=True).start()
    time.sleep(0.5)


def slow(stage: Stage) -> None:
    """Six seconds in which the broker works for a twentieth of a second, and rests for a third."""
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        stage.signal("broker", signal.SIGSTOP)
        time.sleep(0.33)
        stage.signal("broker", signal.SIGCONT)
        time.sleep(0.05)


def data(stage: Stage) -> Path:
    """Where the broker's files are."""
    return stage.service.base / "broker"


def append_only_files(stage: Stage) -> list[Path]:
    """The files that the broker reads when it starts."""
    return [path for path in data(stage).rglob("*.aof") if path.stat().st_size]


def delete_data(stage: Stage) -> None:
    """Remove all that the broker has on disk."""
    for path in data(stage).iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def then_kill(change: Callable[[Stage], None]) -> Callable[[Stage], None]:
    """Change the broker's files, and kill it, so that it reads them."""

    def inject(stage: Stage) -> None:
        change(stage)
        stage.signal("broker", signal.SIGKILL)

    return inject


def cut(stage: Stage) -> None:
    """Cut the end off the append-only file, as a power cut does."""
    for path in append_only_files(stage):
        with path.open("r+b") as file:
            file.truncate(max(0, path.stat().st_size - 7))


def spoil_the_end(stage: Stage) -> None:
    """Append what is no command."""
    for path in append_only_files(stage):
        with path.open("ab") as file:
            file.write(b"*3\r\n$garbage" * 50)


def spoil_the_middle(stage: Stage) -> None:
    """Overwrite the middle of the append-only file."""
    for path in append_only_files(stage):
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"\xff" * 64)


def spoil_the_manifest(stage: Stage) -> None:
    """Overwrite the list of the append-only files."""
    for path in data(stage).rglob("*.manifest"):
        path.write_bytes(b"\0" * 100)


_NO_REPLICATION: Final = ("REPLICAOF", "NO", "ONE")
_OUT_OF_MEMORY = configured("maxmemory", "1")
_READ_ONLY = commands_back((("REPLICAOF", "127.0.0.1", "1"),), lambda was: (_NO_REPLICATION,))
_NO_MASTER = commands_back(
    (("CONFIG", "SET", "replica-serve-stale-data", "no"), ("REPLICAOF", "127.0.0.1", "1")),
    lambda was: (_NO_REPLICATION, ("CONFIG", "SET", "replica-serve-stale-data", "yes")),
)
_NO_REPLICAS = configured("min-replicas-to-write", "1")
_PASSWORD = configured("requirepass", "another", ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
_NO_WRITES = commands_back(
    (("ACL", "SETUSER", "default", "-@write"),), lambda was: (("ACL", "SETUSER", "default", "+@all"),)
)
_NO_SCRIPTS = commands_back(
    (("ACL", "SETUSER", "default", "-@scripting"),), lambda was: (("ACL", "SETUSER", "default", "+@all"),)
)
_FEW_CLIENTS = configured("maxclients", "1", ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
_CLOSED = commands_back(
    (("ACL", "SETUSER", "default", "off"), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")),
    lambda was: (("ACL", "SETUSER", "default", "on"),),
)

BROKERS: Final = (
    Fault("broker: silent for 9 s", commands(("CLIENT", "PAUSE", "9000", "ALL")), lasts_s=9, uploads=True, quick=True),
    Fault("broker: no writes for 6 s", commands(("CLIENT", "PAUSE", "6000", "WRITE")), lasts_s=6, uploads=True),
    Fault("broker: OOM", *_OUT_OF_MEMORY, lasts_s=6, uploads=True),
    Fault("broker: READONLY", *_READ_ONLY, lasts_s=6, uploads=True, quick=True),
    Fault("broker: MASTERDOWN", *_NO_MASTER, lasts_s=6, uploads=True),
    Fault("broker: NOREPLICAS", *_NO_REPLICAS, lasts_s=6, uploads=True),
    Fault("broker: NOAUTH", *_PASSWORD, lasts_s=5, uploads=True),
    Fault("broker: user is switched off", *_CLOSED, lasts_s=5, uploads=True),
    Fault("broker: NOPERM for writes", *_NO_WRITES, lasts_s=5, uploads=True),
    Fault("broker: NOPERM for scripts", *_NO_SCRIPTS, lasts_s=5, uploads=True),
    Fault("broker: takes one client", *_FEW_CLIENTS, lasts_s=5, uploads=True),
    Fault("broker: BUSY with a script", endless_script, commands(("SCRIPT", "KILL")), lasts_s=5, uploads=True),
    Fault("broker: slow", slow, uploads=True),
    Fault(
        "broker: all connections are closed",
        commands(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")),
        quick=True,
    ),
    Fault("broker: subscribers are closed", commands(("CLIENT", "KILL", "TYPE", "pubsub"))),
    Fault("broker: scripts are forgotten", commands(("SCRIPT", "FLUSH"))),
    Fault("broker: everything is forgotten", commands(("FLUSHALL",)), ends=FORGOTTEN, quick=True),
    Fault("broker: SHUTDOWN", commands(("SHUTDOWN", "NOSAVE")), uploads=True),
    Fault("broker: files are deleted", delete_data, uploads=True),
    Fault("broker: files are deleted, then killed", then_kill(delete_data), ends=FORGOTTEN),
    Fault("broker: file is cut off, then killed", then_kill(cut), ends=FORGOTTEN),
    Fault("broker: file ends in garbage, then killed", then_kill(spoil_the_end), ends=FORGOTTEN),
    Fault("broker: file is damaged, then killed", then_kill(spoil_the_middle), ends=FORGOTTEN, quick=True),
    Fault("broker: list of files is damaged, then killed", then_kill(spoil_the_manifest), ends=FORGOTTEN),
)
