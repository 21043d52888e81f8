"""The spool: folders that hold the images of accepted tasks until the worker has finished with them.

A job's folder is `<root>/<job_id>/`: `index.json`, `images/`, the job's note (see `exchange.notes`) and the worker's
caches. It is written under a temporary name, synced to disk and renamed when complete, so a folder with its final name
is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from segp_cl.errors import KeepsightError

_JOB_ID: Final = re.compile(r"[0-9a-f]{32}")
_SUFFIX: Final = re.compile(r"\.[a-z0-9]{1,8}")
_PARTIAL: Final = ".part"
_SYNCING_THREADS: Final = 4
_MOST_OPEN: Final = 16
"""Files that are written and not yet synced to disk, of one upload."""
MAX_PATH: Final = 500
"""Most characters that are kept of where an image lies in an upload."""
_LOCK_FILE: Final = "writer.lock"
"""Is locked by the process that writes a folder, for as long as it writes; the lock ends with the process."""
NOTE_FILE: Final = "job.json"
"""The job's note; see `exchange.notes`."""


class SpoolError(KeepsightError):
    """A job's spooled images are missing, incomplete or altered."""


@dataclass(frozen=True)
class SpoolIndex:
    """Index of a job's folder: `files[i]` is an image of class `classes[labels[i]]`, with SHA-256 `checksums[i]`.

    `held_out` has the positions of the images that the sender set apart for measuring. `digest` identifies the data
    set: the same images of the same classes, held out or not, in the same order give the same digest. `paths[i]` says
    where image i lies in the upload, for the sender; it is no path here, and is empty where it is not known.
    """

    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    checksums: tuple[str, ...]
    digest: str
    held_out: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()


def _digest(classes: Sequence[str], labels: Sequence[int], checksums: Sequence[str], held_out: Sequence[int]) -> str:
    images = [list(pair) for pair in zip(labels, checksums, strict=True)]
    described: dict[str, object] = {"classes": list(classes), "images": images}
    if held_out:  # left out where there are none, so that a folder written before they existed keeps its digest
        described["held_out"] = list(held_out)
    return sha256(json.dumps(described, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _Syncing:
    """Syncs files to disk on threads of its own, while the next images are checked: a disk does several at once."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_SYNCING_THREADS, thread_name_prefix="spool")
        self._begun: deque[Future[None]] = deque()

    def write(self, path: Path, data: bytes) -> None:
        """Write a file, and begin to sync it. Raises the OSError of this one, or of an earlier one."""
        while len(self._begun) >= _MOST_OPEN:
            self._begun.popleft().result()
        file = path.open("wb")
        try:
            file.write(data)
            file.flush()
        except BaseException:
            with contextlib.suppress(OSError):  # it tries to write the rest
                file.close()
            raise
        try:
            self._begun.append(self._threads.submit(_sync_and_close, file))
        except RuntimeError:  # no thread can be started; one that runs already may do it as well, and close it first
            with contextlib.suppress(ValueError):
                _sync_and_close(file)

    def wait(self) -> None:
        """Wait until all are on the disk. Raises the OSError of one that could not be synced."""
        while self._begun:
            self._begun.popleft().result()

    def end(self) -> None:
        """Wait for what was begun, whatever becomes of it, and end the threads."""
        self._threads.shutdown()


def _sync_and_close(file: BufferedWriter) -> None:
    with file:
        os.fsync(file.fileno())


class SpoolWriter:
    """Writes one job's images. Leaving the `with` block without `close` removes everything that was written.

    Until the block is left, `Spool.is_orphaned` tells others whether this process still lives.
    """

    def __init__(self, folder: Path) -> None:
        self._final = folder
        self._folder = folder.with_name(folder.name + _PARTIAL)
        self._files: list[str] = []
        self._labels: list[int] = []
        self._checksums: list[str] = []
        self._held_out: list[bool] = []
        self._paths: list[str] = []
        self._syncing = _Syncing()
        self._folder.mkdir(mode=0o700)
        self._lock = _locked(self._folder / _LOCK_FILE)
        (self._folder / "images").mkdir()

    def add(self, class_index: int, data: bytes, suffix: str = "", *, held_out: bool = False, path: str = "") -> None:
        """Store one encoded image of the class at `class_index`. Of the file's name only a plain suffix names the file.

        With `held_out`, the image is measured on and not learned from. `path` is kept in the index, to be told to the
        sender.

        Raises:
            OSError: the disk is full or the folder is gone; or it was for an image before.
        """
        safe = suffix.lower() if _SUFFIX.fullmatch(suffix.lower()) else ""
        name = f"images/{len(self._files):07d}{safe}"
        self._syncing.write(self._folder / name, data)
        self._files.append(name)
        self._labels.append(class_index)
        self._checksums.append(sha256(data).hexdigest())
        self._held_out.append(held_out)
        self._paths.append(path[:MAX_PATH])

    def close(self, classes: Sequence[str]) -> SpoolIndex:
        """Name the classes, write the index, and make the folder visible to `Spool.read`.

        Images are sorted by class and checksum, not by arrival, so that the same images are the same data set in any
        archive and lead to the same version.

        Raises:
            SpoolError: nothing was added, or an image was added for a class that is not named.
            OSError: something could not be brought to the disk.
        """
        if not self._files:
            raise SpoolError("no image was spooled, expected at least one")
        if not all(0 <= label < len(classes) for label in self._labels):
            raise SpoolError(f"an image's label is outside of the {len(classes)} classes")
        rows = sorted(zip(self._labels, self._checksums, self._held_out, self._files, self._paths, strict=True))
        self._labels = [label for label, _, _, _, _ in rows]
        self._checksums = [checksum for _, checksum, _, _, _ in rows]
        self._files = [file for _, _, _, file, _ in rows]
        self._paths = [path for _, _, _, _, path in rows]
        held_out = tuple(position for position, (_, _, held, _, _) in enumerate(rows) if held)
        digest = _digest(classes, self._labels, self._checksums, held_out)
        index = {
            "classes": list(classes),
            "files": self._files,
            "labels": self._labels,
            "checksums": self._checksums,
            "held_out": held_out,
            "digest": digest,
            "paths": self._paths,
        }
        self._syncing.wait()
        write_synced(self._folder / "index.json", json.dumps(index).encode())
        sync_folder(self._folder / "images")
        sync_folder(self._folder)
        os.rename(self._folder, self._final)
        sync_folder(self._final.parent)
        files = tuple(self._final / name for name in self._files)
        return SpoolIndex(
            tuple(classes), files, tuple(self._labels), tuple(self._checksums), digest, held_out, tuple(self._paths)
        )

    def abort(self) -> None:
        """Remove everything that was written and not closed. Does nothing after `close`."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _unlock(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):  # removed with its folder
                (self._final / _LOCK_FILE).unlink()
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._syncing.end()
        self.abort()
        self._unlock()


class Spool:
    """All jobs' folders under one root, which is created whenever it is missing."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def root(self) -> Path:
        """The folder, which is made anew if it was deleted while the process runs.

        Raises:
            OSError: it is missing and cannot be made.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._root

    def folder(self, job_id: str) -> Path:
        """Return the job's folder, whether it exists or not.

        Raises:
            SpoolError: `job_id` is not a job id (32 hexadecimal digits), so it must not become a path.
        """
        if not _JOB_ID.fullmatch(job_id):
            raise SpoolError(f"{job_id!r} is not a job id, expected 32 hexadecimal digits")
        return self.root / job_id

    def create(self, job_id: str) -> SpoolWriter:
        """Create a job's folder; use the writer as a context manager so that a failure leaves nothing behind.

        Raises:
            SpoolError: `job_id` is not a job id, or the job already has a folder.
        """
        folder = self.folder(job_id)
        try:
            if folder.exists():
                raise FileExistsError(folder)
            return SpoolWriter(folder)
        except FileExistsError as error:
            raise SpoolError(f"job {job_id} is already in the spool") from error

    def reserve(self, job_id: str) -> None:
        """Create the folder of a job that has no images, for its note.

        Raises:
            SpoolError: `job_id` is not a job id, or the job already has a folder.
        """
        try:
            self.folder(job_id).mkdir(mode=0o700)
        except FileExistsError as error:
            raise SpoolError(f"job {job_id} is already in the spool") from error

    def read(self, job_id: str, *, verify: bool = True) -> SpoolIndex:
        """Return the job's images. With `verify`, every file is read and compared with its checksum.

        Raises:
            SpoolError: nothing is spooled for this job, or a file is missing or differs; the message names it.
        """
        folder = self.folder(job_id)
        try:
            raw = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SpoolError(f"the images of job {job_id} are no longer in the spool") from error
        except (OSError, ValueError) as error:
            raise SpoolError(f"index.json of job {job_id} is not readable") from error
        try:
            index = SpoolIndex(
                classes=tuple(raw["classes"]),
                files=tuple(folder / name for name in raw["files"]),
                labels=tuple(raw["labels"]),
                checksums=tuple(raw["checksums"]),
                digest=raw["digest"],
                held_out=tuple(raw.get("held_out", ())),
                paths=tuple(raw.get("paths", ())),
            )
            as_written = index.digest == _digest(index.classes, index.labels, index.checksums, index.held_out)
        except (KeyError, TypeError, ValueError) as error:
            raise SpoolError(f"index.json of job {job_id} is not an index") from error
        if not as_written:
            raise SpoolError(f"index.json of job {job_id} does not match its digest")
        for file, expected in zip(index.files, index.checksums, strict=True) if verify else ():
            try:
                actual = sha256(file.read_bytes()).hexdigest()
            except FileNotFoundError as error:
                raise SpoolError(f"{file.name} of job {job_id} is missing from the spool") from error
            except OSError as error:
                raise SpoolError(f"{file.name} of job {job_id} cannot be read: {error.strerror}") from error
            if actual != expected:
                raise SpoolError(f"{file.name} of job {job_id} was altered in the spool")
        return index

    def purge(self, job_id: str) -> None:
        """Remove the job's images, index, note and caches, complete or not. Does nothing if there are none.

        The note goes first: a job whose removal is interrupted is not taken for one that waits.

        Raises:
            OSError: something is left that could not be removed.
        """
        folder = self.folder(job_id)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (folder / NOTE_FILE).unlink()
        for path in (folder, folder.with_name(folder.name + _PARTIAL)):
            remove_path(path)

    def purge_images(self, job_id: str) -> None:
        """Remove everything of the job except its note.

        Raises:
            OSError: something is left that could not be removed.
        """
        folder = self.folder(job_id)
        with contextlib.suppress(FileNotFoundError):
            for path in list(folder.iterdir()):
                if path.name != NOTE_FILE:
                    remove_path(path)

    def is_orphaned(self, job_id: str) -> bool:
        """Return whether the process that wrote this folder died over it. False also where that cannot be told."""
        folder = self.folder(job_id)
        for path in (folder.with_name(folder.name + _PARTIAL), folder):
            with contextlib.suppress(OSError):
                lock = os.open(path / _LOCK_FILE, os.O_RDWR)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                finally:
                    os.close(lock)
        return False

    def folders(self) -> dict[str, int]:
        """Return the jobs that have a folder, complete or not, each with a stamp that changes when a file is added."""
        found: dict[str, int] = {}
        for path in sorted(self.root.iterdir()):
            job_id = path.name.removesuffix(_PARTIAL)
            if _JOB_ID.fullmatch(job_id):
                found[job_id] = max(found.get(job_id, 0), _stamp(path))
        return found


def _locked(path: Path) -> int | None:
    """Make a file and lock it until its descriptor, which is returned, is closed; None where files cannot be locked."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # some network file systems; the writer then looks like one of an earlier release
        os.close(lock)
        path.unlink()
        return None
    return lock


def sync_folder(path: Path) -> None:
    """Sync a folder's entries to disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and sync it to disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def remove_path(path: Path) -> None:
    """Remove a file or a folder, which someone else may be removing at the same time."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except FileNotFoundError:  # rmtree stops here when someone else was faster
        shutil.rmtree(path, ignore_errors=True)


def _stamp(folder: Path) -> int:
    """Return when a file was last added to a job's folder, in nanoseconds of the file system's clock."""
    stamps = []
    for path in (folder, folder / "images"):
        with contextlib.suppress(OSError):
            stamps.append(path.stat().st_mtime_ns)
    return max(stamps, default=0)
