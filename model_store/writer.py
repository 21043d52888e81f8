"""The store's steps under its locks: writing and removing versions, moving CURRENT, keeping the journal."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from model_store import policy
from model_store.disk import Disk, writing
from model_store.gate import reasons_of
from model_store.journal import Journal, read_journal
from model_store.locking import Locking, utc_now
from model_store.reader import StoreReader, parents_of
from model_store.types import (
    MANIFEST_FILE,
    TENSORS_FILE,
    Action,
    StoreError,
    VersionId,
)

logger = logging.getLogger(__name__)


class StoreWriter(Locking, StoreReader):
    """The steps that `Store` is built from. All except the locks expect `store.lock` to be held."""

    def __init__(self, root: Path, *, disk: Disk | None = None, clock: Callable[[], datetime] = utc_now) -> None:
        StoreReader.__init__(self, root)
        Locking.__init__(self, root, disk=disk, clock=clock)
        self._tmp = root / "tmp"
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
        journal, present = read_journal(self._journal), self.version_ids()
        manifests = self._manifests(policy.not_surely_explained(journal.entries, present))
        held = {version: "; ".join(reasons_of(manifest)) for version, manifest in manifests.items() if manifest}
        lines = policy.unexplained(
            journal.entries,
            dict.fromkeys(present) | parents_of(manifests),
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

    @contextlib.contextmanager
    def at_rest(self, what: str) -> Iterator[None]:
        """Hold the store's lock, so that nothing changes; for milliseconds, because everybody waits."""
        with self._locked(what):
            yield
