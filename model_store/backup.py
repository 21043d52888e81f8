"""Copies of a whole store, made while it is used: into a folder that is brought up to date, or into a tar file.

A copy is a store itself. It has every version, CURRENT, the journal, the gate's policy and whatever else lies beside
them, as they were at one moment under the store's lock. Versions never change, so they are copied outside the lock; if
one is pruned meanwhile, a later moment is copied. What is being written (`tmp/`) and test sets are left out: the latter
are images of people, which somebody wants to be able to remove.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Protocol

from model_store import policy
from model_store.disk import Disk, writing
from model_store.reader import StoreReader, VersionFiles, decode_version
from model_store.store import Store
from model_store.types import (
    MANIFEST_FILE,
    TENSORS_FILE,
    CorruptVersionError,
    StoreError,
    VersionId,
    VersionNotFoundError,
)
from model_store.writer import StoreWriter

logger = logging.getLogger(__name__)

POINTER: Final = "CURRENT"
JOURNAL: Final = "journal.jsonl"
VERSIONS: Final = "versions"
LEFT_OUT: Final = frozenset({"sessions", "tmp", "test-sets", VERSIONS})
"""Folders of a store that are not among a snapshot's files."""
ATTEMPTS: Final = 5
"""How often a later moment is copied because a version was pruned meanwhile."""

OnVersion = Callable[[int, int], None]
"""Gets how many versions are done, and of how many."""


def _nobody(done: int, of: int) -> None:
    pass


class BackupError(StoreError):
    """A store cannot be copied there, or from there. The message says why."""


@dataclass(frozen=True)
class Snapshot:
    """A store at one moment: its versions, and the bytes of every other file by its path in the store."""

    versions: tuple[VersionId, ...]
    files: dict[str, bytes]


@dataclass
class Copied:
    """What a copy has now: `written` and `kept` versions, each verified, and `damaged` ones, which it lacks.

    `removed` versions were pruned from the store since the copy was last brought up to date. `bytes` were written.
    """

    current: VersionId | None = None
    written: list[VersionId] = field(default_factory=list)
    kept: list[VersionId] = field(default_factory=list)
    removed: list[VersionId] = field(default_factory=list)
    damaged: dict[VersionId, str] = field(default_factory=dict)
    bytes: int = 0


class Source(Protocol):
    """What a copy is made of."""

    def snapshot(self) -> Snapshot:
        """Return the store at one moment."""
        ...

    def files_of(self, version_id: VersionId) -> VersionFiles:
        """Return the bytes of a version.

        Raises:
            VersionNotFoundError: it was pruned.
            CorruptVersionError: a file is missing or cannot be read.
        """
        ...


class FolderSource:
    """A store in a folder. With `locked`, its lock is held for the moment of the snapshot."""

    def __init__(self, root: Path, *, locked: bool) -> None:
        if not (root / VERSIONS).is_dir():
            raise BackupError(f"{root} is not a store: it has no folder {VERSIONS}")
        self._reader = StoreReader(root)
        self._store = Store(root) if locked else None

    def snapshot(self) -> Snapshot:
        with contextlib.nullcontext() if self._store is None else self._store.at_rest("copying the store"):
            return Snapshot(self._reader.version_ids(), _files_in(self._reader.root))

    def files_of(self, version_id: VersionId) -> VersionFiles:
        return self._reader.files_of(version_id)


class TarSource:
    """A copy in a tar file, which is not unpacked: only files that a store has are looked at."""

    def __init__(self, path: Path) -> None:
        try:
            with contextlib.ExitStack() as stack:
                self._tar = stack.enter_context(tarfile.open(path, "r:"))
                members = {member.name: member for member in self._tar.getmembers() if member.isfile()}
                self.close = stack.pop_all().close
        except (OSError, tarfile.TarError) as error:
            raise BackupError(f"{path} cannot be read as a tar file: {error}") from error
        self._members = {name: member for name, member in members.items() if _is_inside(name)}

    def snapshot(self) -> Snapshot:
        inside = [name for name in self._members if name.startswith(f"{VERSIONS}/")]
        versions = {PurePosixPath(name).parts[1] for name in inside}
        files = {name: self._read(name) for name in self._members if PurePosixPath(name).parts[0] not in LEFT_OUT}
        return Snapshot(tuple(sorted(filter(policy.is_version_id, versions), key=policy.age)), files)

    def files_of(self, version_id: VersionId) -> VersionFiles:
        parts = []
        for file in (MANIFEST_FILE, TENSORS_FILE):
            name = f"{VERSIONS}/{version_id}/{file}"
            if name not in self._members:
                raise CorruptVersionError(version_id, file, "missing")
            parts.append(self._read(name))
        return VersionFiles(*parts)

    def _read(self, name: str) -> bytes:
        try:
            with self._tar.extractfile(self._members[name]) or io.BytesIO() as file:
                return file.read()
        except (OSError, tarfile.TarError) as error:
            raise BackupError(f"{name} cannot be read from the tar file: {error}") from error


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.as_posix() == name


def _files_in(root: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a store but those of versions, locks and what is left out."""
    found: dict[str, bytes] = {}
    waiting = [path for path in root.iterdir() if path.name not in LEFT_OUT and not path.name.endswith(".lock")]
    while waiting:
        path = waiting.pop()
        try:
            if path.is_symlink():
                continue
            if path.is_dir():
                waiting += path.iterdir()
            elif path.is_file():
                found[path.relative_to(root).as_posix()] = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BackupError(f"{path} cannot be read: {error.strerror}") from error
    return dict(sorted(found.items()))


class _Folder(StoreWriter):
    """A copy in a folder. It is a store, whose lock keeps two copies from being written at once."""

    def holds(self, version_id: VersionId) -> bool:
        """Whether the copy has a version, and every byte of it."""
        try:
            self.verify(version_id)
        except (VersionNotFoundError, CorruptVersionError):
            return False
        return True

    def take_in(self, version_id: VersionId, files: VersionFiles) -> None:
        """Write a version, in place of a damaged one if there is one, and read it again."""
        if (self._versions / version_id).exists():
            with writing(f"replacing version {version_id}"):
                self._take_away(version_id)
        self._write_version(version_id, files.tensors, files.manifest)
        self.verify(version_id)

    def finish(self, snapshot: Snapshot) -> list[VersionId]:
        """Write all other files, CURRENT last; then remove what the store has no more. Returns removed versions."""
        for name in sorted(snapshot.files, key=lambda name: (name == POINTER, name != JOURNAL, name)):
            self._put(name, snapshot.files[name])
        for name in _files_in(self.root).keys() - snapshot.files.keys():
            with writing(f"removing {name}"):
                self._disk.remove(self.root / name)
        removed = [version for version in self.version_ids() if version not in snapshot.versions]
        for version in removed:
            with writing(f"removing version {version}"):
                self._take_away(version)
        self._clear_tmp()
        with writing(f"copying to {self.root}"):
            self._disk.sync_folder(self.root)
        return removed

    def _put(self, name: str, data: bytes) -> None:
        path = self.root / name
        with contextlib.suppress(OSError):
            if path.read_bytes() == data:
                return
        new = self._tmp / f"{path.name}.new"
        with writing(f"writing {path}"):
            self._disk.make_folder(path.parent)
            self._disk.remove(new)
            self._disk.write_file(new, data)
            self._disk.rename(new, path)


def back_up(store: Path, target: Path, *, on_version: OnVersion = _nobody, disk: Disk | None = None) -> Copied:
    """Copy a store, which may be in use, into a folder; one that has an earlier copy is brought up to date.

    Every version of the copy is read again and verified. A version that is damaged in the store is left out and
    reported, unless the copy has it intact from an earlier time. Killed at any point, the folder is a store whose
    versions are complete, and the next call goes on.

    Raises:
        BackupError: the folder has another store's copy or something else, or the store cannot be read.
        StoreFullError: the disk is full.
        StoreError: another failed write.
    """
    if target.resolve() == store.resolve() or store.resolve() in target.resolve().parents:
        raise BackupError(f"{target} lies in the store itself; name a folder elsewhere")
    if target.is_dir() and any(target.iterdir()) and not (target / VERSIONS).is_dir():
        raise BackupError(f"{target} has something else in it; name an empty folder, or one with an earlier backup")
    source, copy = FolderSource(store, locked=True), _Folder(target, disk=disk)
    with copy.at_rest("copying a store"):
        return _copy(source, copy, on_version)


def restore(backup: Path, store: Path, *, on_version: OnVersion = _nobody, disk: Disk | None = None) -> Copied:
    """Copy a backup, a folder or a tar file, to where a store is to be. Every version is verified, CURRENT comes last.

    Killed at any point, there is no CURRENT yet, and the next call goes on.

    Raises:
        BackupError: there is a store already, or the backup is not complete.
        StoreError: a failed write.
    """
    if (store / POINTER).exists():
        raise BackupError(f"{store} has a store already; move it away first")
    with contextlib.ExitStack() as stack:
        source: Source
        if backup.is_dir():
            source = FolderSource(backup, locked=False)
        else:
            source = stack.enter_context(contextlib.closing(TarSource(backup)))
        if POINTER not in source.snapshot().files:
            raise BackupError(f"{backup} is not a complete backup: it has no {POINTER}")
        copy = _Folder(store, disk=disk)
        stack.enter_context(copy.at_rest("copying a store"))
        return _copy(source, copy, on_version)


def _copy(source: Source, copy: _Folder, on_version: OnVersion) -> Copied:
    _check_same(copy, source.snapshot())
    for _ in range(ATTEMPTS):
        snapshot, done = source.snapshot(), Copied()
        try:
            for number, version in enumerate(snapshot.versions, start=1):
                _copy_version(source, copy, version, done)
                on_version(number, len(snapshot.versions))
        except VersionNotFoundError as error:
            logger.info("%s any more; a later moment is copied", error)
            continue
        done.removed = copy.finish(snapshot)
        done.current = copy.readable_current()
        return done
    raise BackupError(f"versions were pruned in each of {ATTEMPTS} attempts to copy the store; try again")


def _copy_version(source: Source, copy: _Folder, version: VersionId, done: Copied) -> None:
    if copy.holds(version):
        done.kept.append(version)
        return
    try:
        files = source.files_of(version)
        decode_version(version, files)
    except CorruptVersionError as error:
        done.damaged[version] = f"{error.file}: {error.problem}"
        return
    copy.take_in(version, files)
    done.written.append(version)
    done.bytes += len(files.manifest) + len(files.tensors)


def _check_same(copy: _Folder, snapshot: Snapshot) -> None:
    """Check that a copy is an earlier one of the same store, or the beginning of one.

    Its journal is then the beginning of the store's; where there is none yet, the store has or had its versions.
    """
    journal = snapshot.files.get(JOURNAL, b"")
    try:
        same = journal.startswith((copy.root / JOURNAL).read_bytes())
    except FileNotFoundError:
        same = all(version in snapshot.versions or version.encode() in journal for version in copy.version_ids())
    if not same:
        raise BackupError(
            f"{copy.root} is not an earlier copy of the same store: it has a history of its own; name another folder"
        )


def back_up_to_tar(store: Path, target: Path, *, on_version: OnVersion = _nobody) -> Copied:
    """Copy a store, which may be in use, into one tar file, which appears once it is complete and was verified.

    Raises:
        BackupError: the store cannot be read, or what was written is not what was read.
        StoreFullError: the disk is full.
        StoreError: another failed write.
    """
    source = FolderSource(store, locked=True)
    part = target.with_name(f"{target.name}.part")
    with writing(f"writing {target}"), part.open("ab") as file:
        try:
            # a process that is killed lets it go, and the next one writes the same file
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupError(f"another process writes {target}") from error
        try:
            for _ in range(ATTEMPTS):
                try:
                    done = _write_tar(source, file, on_version)
                except VersionNotFoundError as error:
                    logger.info("%s any more; a later moment is copied", error)
                    continue
                _verify_tar(part, done)
                part.replace(target)
                return done
            raise BackupError(f"versions were pruned in each of {ATTEMPTS} attempts to copy the store; try again")
        finally:
            part.unlink(missing_ok=True)


def _write_tar(source: Source, file: BinaryIO, on_version: OnVersion) -> Copied:
    snapshot, done = source.snapshot(), Copied()
    file.truncate(0)
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, data: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            tar.addfile(entry, io.BytesIO(data))

        for number, version in enumerate(snapshot.versions, start=1):
            try:
                files = source.files_of(version)
                decode_version(version, files)
            except CorruptVersionError as error:
                done.damaged[version] = f"{error.file}: {error.problem}"
                continue
            add(f"{VERSIONS}/{version}/{TENSORS_FILE}", files.tensors)
            add(f"{VERSIONS}/{version}/{MANIFEST_FILE}", files.manifest)
            done.written.append(version)
            done.bytes += len(files.manifest) + len(files.tensors)
            on_version(number, len(snapshot.versions))
        for name, data in snapshot.files.items():
            add(name, data)
    file.flush()
    os.fsync(file.fileno())
    pointer = snapshot.files.get(POINTER, b"").decode(errors="replace").strip()
    done.current = pointer if policy.is_version_id(pointer) else None
    return done


def _verify_tar(path: Path, done: Copied) -> None:
    with contextlib.closing(TarSource(path)) as written:
        for version in done.written:
            decode_version(version, written.files_of(version))
