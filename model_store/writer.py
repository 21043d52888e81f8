"""The store's steps under its locks: writing and removing versions, moving CURRENT, keeping the journal."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from model_store import policy
from model_store.disk import Disk, writing
from model_store.gate import reasons_of
from model_store.journal import Journal, append_journal, read_journal
from model_store.reader import StoreReader, parents_of
from model_store.types import (
    MANIFEST_FILE,
    TENSORS_FILE,
    Action,
    JournalEntry,
    StoreBusyError,
    StoreError,
    VersionId,
)

logger = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 60.0
STORE_LOCK = "store.lock"


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of the same name; None if it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _now() -> datetime:
    return datetime.now(UTC)


class StoreWriter(StoreReader):
    """The steps that `Store` is built from. All except the locks expect `store.lock` to be held."""

    def __init__(self, root: Path, *, disk: Disk | None = None, clock: Callable[[], datetime] = _now) -> None:
        super().__init__(root)
        self._disk = disk or Disk()
        self._clock = clock
        self._tmp = root / "tmp"
        self._held: tuple[int, int] | None = None
        if not (self._versions.is_dir() and self._tmp.is_dir()):
            with writing(f"making a store in {root}"):
                self._disk.make_folder(self._versions)
                self._disk.make_folder(self._tmp)
                self._disk.sync_folder(root)

    def _move(self, action: Action, actual: VersionId | None, version_id: VersionId, who: str, reason: str) -> None:
        """Verify a version, record in the journal that CURRENT moves to it, and replace CURRENT.

        The journal is written first, so that no move lacks its who and why; see `policy.unexplained` for what a crash
        between the two leaves.
        """
        self.verify(version_id)
        with writing(f"moving CURRENT to {version_id}"):
            self._disk.make_folder(self._tmp)
            self._clear_pointer()
        line = policy.Line(action, actual, version_id, reason)
        self._replace(self._pointer, f"{version_id}\n".encode(), line, who, f"moving CURRENT to {version_id}")
        logger.info("%s: CURRENT moved from %s to %s by %s", action, actual, version_id, who)

    def _clear_pointer(self) -> None:
        """Move whatever lies at CURRENT and cannot be replaced by a file out of the way."""
        if self._pointer.is_dir() and not self._pointer.is_symlink():
            self._disk.rename(self._pointer, self._tmp / f"damaged-{uuid.uuid4().hex}")

    def _write_version(self, version_id: VersionId, tensors: bytes, manifest: bytes) -> None:
        with writing(f"publishing version {version_id}"):
            self._disk.make_folder(self._tmp)
            self._disk.make_folder(self._versions)
        self._clear_tmp()
        folder = self._tmp / f"{version_id}-{uuid.uuid4().hex}"
        target = self._versions / version_id
        try:
            with writing(f"publishing version {version_id}"):
                self._disk.make_folder(folder)
                self._disk.write_file(folder / TENSORS_FILE, tensors)
                self._disk.write_file(folder / MANIFEST_FILE, manifest)
                self._disk.sync_folder(folder)
                self._disk.rename(folder, target)
                self._disk.sync_folder(self._versions)
        except StoreError:
            with contextlib.suppress(OSError):
                self._disk.remove(folder)
            with contextlib.suppress(OSError):
                self._take_away(version_id)
            raise

    def _clear_tmp(self) -> None:
        """Remove what processes left that died: only the holder of the lock writes there."""
        for left_over in self._tmp.iterdir():
            with contextlib.suppress(OSError):
                self._disk.remove(left_over)

    def _take_away(self, version_id: VersionId) -> None:
        """Remove a version atomically: it is complete until it is gone."""
        folder = self._tmp / f"{version_id}-{uuid.uuid4().hex}"
        self._disk.rename(self._versions / version_id, folder)
        try:
            self._disk.sync_folder(self._versions)
        finally:
            with contextlib.suppress(OSError):
                self._disk.remove(folder)

    def _record(
        self, journal: Journal, action: Action, from_: VersionId | None, to: VersionId | None, who: str, reason: str
    ) -> Journal:
        """Append one line to the journal as it was read under this lock."""
        return self._append(journal, [policy.Line(action, from_, to, reason)], who)

    def _reconcile(self) -> Journal:
        """Return the journal, after adding lines that explain what interrupted processes left."""
        journal = read_journal(self._journal)
        manifests = self._manifests()
        held = {version: "; ".join(reasons_of(manifest)) for version, manifest in manifests.items() if manifest}
        lines = policy.unexplained(
            journal.entries,
            parents_of(manifests),
            self.readable_current(),
            {version: reasons for version, reasons in held.items() if reasons},
        )
        return self._append(journal, lines, "store")

    def _replace_policy(self, path: Path, data: bytes, who: str, reason: str) -> None:
        """Record in the journal that the gate's policy changes, and replace its file: both, or neither."""
        self._replace(path, data, policy.Line("gate", None, None, reason), who, f"writing {path}")

    def _replace(self, path: Path, data: bytes, line: policy.Line, who: str, what: str) -> None:
        """Write a line to the journal, then replace a file: both, or neither."""
        journal = self._reconcile()
        new = self._tmp / f"{path.name}-{uuid.uuid4().hex}"
        try:
            with writing(what):
                self._disk.make_folder(self._tmp)
                self._disk.write_file(new, data)
            self._append(journal, [line], who)
            try:
                with writing(what):
                    self._disk.rename(new, path)
            except StoreError:
                with contextlib.suppress(OSError):
                    self._disk.append(self._journal, b"", at=journal.size)
                raise
        except StoreError:
            with contextlib.suppress(OSError):
                self._disk.remove(new)
            raise
        try:
            self._disk.sync_folder(self.root)
        except OSError as error:  # it is there for all readers; only a power failure could undo it
            logger.warning("%s was replaced, but %s could not be synced: %s", path, self.root, error)

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

    @contextlib.contextmanager
    def at_rest(self, what: str) -> Iterator[None]:
        """Hold the store's lock, so that nothing changes; for milliseconds, because everybody waits."""
        with self._locked(what):
            yield

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
