"""One `keepsight up` per store: the lock that ensures this, and the note that says where it runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EADDRINUSE
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from keepsight.local.errors import LocalError, StartError

STOP_TIMEOUT_S = 60.0
POLL_S = 0.1


class Instance:
    """The lock and the note of the service on one store. They lie beside the store, not in it."""

    def __init__(self, store: Path) -> None:
        self.store = store
        base = store.resolve()
        self.note_path = base.with_name(f"{base.name}.up.json")
        self.lock_path = base.with_name(f"{base.name}.up.lock")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the store for this process; the kernel releases it however the process ends.

        Raises:
            StartError: another process holds it.
        """
        self.lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.lock_path)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            note = self.note()
            where = f" at {note['url']} (process {note['pid']})" if note else ""
            raise StartError(
                f"`keepsight up` already runs on the store {self.store}{where}; use that one, stop it with "
                "`keepsight down`, or name another --store"
            ) from error
        try:
            self.note_path.unlink(missing_ok=True)
            yield
        finally:
            self.note_path.unlink(missing_ok=True)
            lock.release()

    def write_note(self, note: dict[str, Any]) -> None:
        """Write that the service is ready, and where."""
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
        if not self.lock_path.exists():
            return False
        lock = FileLock(self.lock_path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Stop the service on this store. Returns False if none runs.

        Raises:
            LocalError: it is still starting, or did not end in time.
        """
        if not self.is_running():
            return False
        note = self.note()
        if note is None:
            raise LocalError(f"the service on {self.store} is still starting or already stopping; try again")
        os.kill(int(note["pid"]), signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while self.is_running():
            if time.monotonic() > deadline:
                raise LocalError(f"the service (process {note['pid']}) did not stop within {timeout_s:.0f} s")
            time.sleep(POLL_S)
        return True


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nothing listens on at this moment."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Check that an address can be listened on.

    Raises:
        StartError: it is in use, or not this machine's.
    """
    try:
        with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == EADDRINUSE:
            raise StartError(
                f"port {port} of {host} is in use; stop what listens there, or choose another with --port"
            ) from error
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
