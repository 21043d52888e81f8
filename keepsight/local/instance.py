"""One `keepsight up` per store: the lock that ensures this, and the note that says where it runs."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT
from pathlib import Path
from typing import Any

from keepsight.local.errors import LocalError, StartError

STOP_TIMEOUT_S = 60.0
POLL_S = 0.1


class Instance:
    """The lock and the note of the service on one store. They lie beside the store, not in it.

    The lock's file holds the id of the process that has it, in case that the note is gone.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        base = store.resolve()
        self.note_path = base.with_name(f"{base.name}.up.json")
        self.lock_path = base.with_name(f"{base.name}.up.lock")
        self._lock = -1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the store for this process; the kernel releases it however the process ends.

        Raises:
            StartError: another process holds it, or its lock cannot be made.
        """
        try:
            self.lock_path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.lock_path)
            self.note_path.unlink(missing_ok=True)
        except BlockingIOError as error:
            note = self.note()
            where = f" at {note['url']} (process {note['pid']})" if note else ""
            raise StartError(
                f"`keepsight up` already runs on the store {self.store}{where}; use that one, stop it with "
                "`keepsight down`, or name another --store"
            ) from error
        except OSError as error:
            raise StartError(f"cannot use the folder of the store {self.store}: {error}") from error
        try:
            yield
        finally:
            with suppress(OSError):
                self.note_path.unlink(missing_ok=True)
                os.truncate(self._lock, 0)
            os.close(self._lock)

    def keep(self, note: dict[str, Any]) -> None:
        """Put note and lock back if somebody removed them, and bring the note up to date.

        Raises:
            OSError: they cannot be written, or another process has taken the lock meanwhile.
        """
        if not self.lock_path.exists() or not os.path.samestat(os.fstat(self._lock), self.lock_path.stat()):
            try:
                again = _locked(self.lock_path)
            except BlockingIOError as error:
                raise OSError(f"another process has taken {self.lock_path}, which was removed") from error
            os.close(self._lock)
            self._lock = again
        if self.note() != note:
            self.write_note(note)

    def write_note(self, note: dict[str, Any]) -> None:
        """Write that the service is ready, and where.

        Raises:
            OSError: it cannot be written.
        """
        temporary = self.note_path.with_name(self.note_path.name + ".new")
        temporary.write_text(json.dumps(note), encoding="utf-8")
        os.replace(temporary, self.note_path)

    def note(self) -> dict[str, Any] | None:
        """Return the running service's note, or None if it is not ready."""
        try:
            note = json.loads(self.note_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return note if isinstance(note, dict) else None

    def is_running(self) -> bool:
        """Return whether a process holds the store."""
        try:
            probe = os.open(self.lock_path, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(probe)
        return False

    def pid(self) -> int | None:
        """Return the id of the process that holds the store, where it is known."""
        note = self.note()
        with suppress(OSError, ValueError, KeyError):
            return int(note["pid"] if note else self.lock_path.read_text(encoding="ascii"))
        return None

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Stop the service on this store, also one that is starting. Returns False if none runs.

        Raises:
            LocalError: its process is not known, is another user's, or did not end in time.
        """
        if not self.is_running():
            return False
        pid = self.pid()
        if pid is None:
            raise LocalError(
                f"a service runs on {self.store}, but neither {self.note_path.name} nor {self.lock_path.name} "
                "beside it names its process; stop the process `keepsight up` yourself"
            )
        try:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)  # it may have been stopped, by Ctrl-Z for instance
        except ProcessLookupError:
            pass  # it has ended by itself
        except PermissionError as error:
            raise LocalError(f"the service on {self.store} (process {pid}) belongs to another user") from error
        deadline = time.monotonic() + timeout_s
        while self.is_running():
            if time.monotonic() > deadline:
                raise LocalError(f"the service (process {pid}) did not stop within {timeout_s:.0f} s")
            time.sleep(POLL_S)
        return True


def _locked(path: Path) -> int:
    """Lock a file and write this process's id into it; the lock lasts until the descriptor is closed.

    Raises:
        BlockingIOError: another process has it.
        OSError: the file cannot be opened.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    with suppress(OSError):  # the disk may be full
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Bind every address that a host's name stands for; nothing listens yet. Port 0 takes a free one.

    Raises:
        StartError: an address is in use, or not this machine's.
    """
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            number = bound[0].getsockname()[1] if bound else port
            try:
                made = socket.socket(family, kind, protocol)
            except OSError as error:
                if error.errno == EAFNOSUPPORT:  # a name's second address, of a family that this machine lacks
                    continue
                raise
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                made.bind((address[0], number, *address[2:]))
            except OSError as error:
                made.close()
                if error.errno == EADDRNOTAVAIL and len(found) > 1:
                    continue
                raise
            bound.append(made)
        if not bound:
            raise OSError(EADDRNOTAVAIL, os.strerror(EADDRNOTAVAIL))
    except OSError as error:
        for made in bound:
            made.close()
        if error.errno == EADDRINUSE:
            raise StartError(
                f"port {port} of {host} is in use; stop what listens there, or choose another with --port"
            ) from error
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return bound


def check_port(host: str, port: int) -> None:
    """Check that an address can be listened on.

    Raises:
        StartError: it is in use, or not this machine's.
    """
    for bound in listening_sockets(host, port):
        bound.close()
