"""What every change of a store's folder holds and leaves: the lock, and a line in the journal. Needs no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from model_store import policy
from model_store.disk import Disk, writing
from model_store.journal import Journal, append_journal
from model_store.types import JournalEntry, StoreBusyError

LOCK_TIMEOUT_S = 60.0
STORE_LOCK = "store.lock"


def utc_now() -> datetime:
    """Return the current time in UTC, with its time zone."""
    return datetime.now(UTC)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of the same name; None if it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class Locking:
    """The lock and the journal of the store in `root`, for the classes that change it."""

    def __init__(self, root: Path, *, disk: Disk | None = None, clock: Callable[[], datetime] = utc_now) -> None:
        self.root = root
        self._journal = root / "journal.jsonl"
        self._disk = disk or Disk()
        self._clock = clock
        self._held: tuple[int, int] | None = None

    def _append(self, journal: Journal, lines: Sequence[policy.Line], who: str) -> Journal:
        now = self._clock()
        entries = tuple(
            JournalEntry(at=now, who=who, action=line.action, from_=line.from_, to=line.to, reason=line.reason)
            for line in lines
        )
        with writing("writing the journal"):
            self._check_lock()
            size = append_journal(self._disk, self._journal, entries, at=journal.size)
        return Journal((*journal.entries, *entries), journal.damaged, size)

    def _locked(self, what: str) -> contextlib.AbstractContextManager[None]:
        return self._file_lock(STORE_LOCK, LOCK_TIMEOUT_S, f"{what} waited for another process on this store")

    @contextlib.contextmanager
    def _file_lock(self, name: str, timeout_s: float, problem: str) -> Iterator[None]:
        lock = FileLock(self.root / name)
        with writing(f"locking {self.root / name}"):
            try:
                lock.acquire(timeout=timeout_s, poll_interval=0.01)
            except Timeout as error:
                raise StoreBusyError(f"{problem} for more than {timeout_s:g} s") from error
        try:
            with writing(f"locking {self.root / name}"):
                held = _identity(self.root / name)
            if name == STORE_LOCK:
                self._held = held
            yield
        finally:
            lock.release()

    def _check_lock(self) -> None:
        """Check that the lock which this process holds is still the one that others would wait for.

        Raises:
            StoreBusyError: the file was removed, so that another process may be changing the store.
        """
        if _identity(self.root / STORE_LOCK) != self._held:
            raise StoreBusyError(f"{self.root / STORE_LOCK} was removed while it was held; nothing was done, try again")
