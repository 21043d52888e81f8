"""The spool: folders that hold the images of accepted tasks until the worker has finished with them.

A job's folder is `<root>/<job_id>/`: `index.json`, `images/`, and the worker's caches. It is written under a temporary
name and renamed when complete, so a folder with its final name is complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from segp_cl.errors import KeepsightError

_JOB_ID: Final = re.compile(r"[0-9a-f]{32}")
_SUFFIX: Final = re.compile(r"\.[a-z0-9]{1,8}")
_PARTIAL: Final = ".part"
ABANDONED_AFTER_S: Final = 3600.0
"""Seconds after which a folder without a job record counts as abandoned: longer than any pause in an upload."""


class SpoolError(KeepsightError):
    """A job's spooled images are missing, incomplete or altered."""


@dataclass(frozen=True)
class SpoolIndex:
    """Index of a job's folder: `files[i]` is an image of class `classes[labels[i]]`, with SHA-256 `checksums[i]`.

    `digest` identifies the data set: the same images of the same classes in the same order give the same digest.
    """

    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    checksums: tuple[str, ...]
    digest: str


def _digest(classes: Sequence[str], labels: Sequence[int], checksums: Sequence[str]) -> str:
    described = {"classes": list(classes), "images": [list(pair) for pair in zip(labels, checksums, strict=True)]}
    return sha256(json.dumps(described, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class SpoolWriter:
    """Writes one job's images. Leaving the `with` block without `close` removes everything that was written."""

    def __init__(self, folder: Path) -> None:
        self._final = folder
        self._folder = folder.with_name(folder.name + _PARTIAL)
        self._files: list[str] = []
        self._labels: list[int] = []
        self._checksums: list[str] = []
        self._folder.mkdir(mode=0o700)
        (self._folder / "images").mkdir()

    def add(self, class_index: int, data: bytes, suffix: str = "") -> None:
        """Store one encoded image of the class at `class_index`. Of the file's name only a plain suffix is stored.

        Raises:
            OSError: the disk is full or the folder is gone.
        """
        safe = suffix.lower() if _SUFFIX.fullmatch(suffix.lower()) else ""
        name = f"images/{len(self._files):07d}{safe}"
        (self._folder / name).write_bytes(data)
        self._files.append(name)
        self._labels.append(class_index)
        self._checksums.append(sha256(data).hexdigest())

    def close(self, classes: Sequence[str]) -> SpoolIndex:
        """Name the classes, write the index, and make the folder visible to `Spool.read`.

        Images are sorted by class and checksum, not by arrival, so that the same images are the same data set in any
        archive and lead to the same version.

        Raises:
            SpoolError: nothing was added, or an image was added for a class that is not named.
        """
        if not self._files:
            raise SpoolError("no image was spooled, expected at least one")
        if not all(0 <= label < len(classes) for label in self._labels):
            raise SpoolError(f"an image's label is outside of the {len(classes)} classes")
        rows = sorted(zip(self._labels, self._checksums, self._files, strict=True))
        self._labels = [label for label, _, _ in rows]
        self._checksums = [checksum for _, checksum, _ in rows]
        self._files = [file for _, _, file in rows]
        digest = _digest(classes, self._labels, self._checksums)
        index = {
            "classes": list(classes),
            "files": self._files,
            "labels": self._labels,
            "checksums": self._checksums,
            "digest": digest,
        }
        (self._folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        os.rename(self._folder, self._final)
        files = tuple(self._final / name for name in self._files)
        return SpoolIndex(tuple(classes), files, tuple(self._labels), tuple(self._checksums), digest)

    def abort(self) -> None:
        """Remove everything that was written and not closed. Does nothing after `close`."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()


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
        except ValueError as error:
            raise SpoolError(f"index.json of job {job_id} is not readable") from error
        index = SpoolIndex(
            classes=tuple(raw["classes"]),
            files=tuple(folder / name for name in raw["files"]),
            labels=tuple(raw["labels"]),
            checksums=tuple(raw["checksums"]),
            digest=raw["digest"],
        )
        if index.digest != _digest(index.classes, index.labels, index.checksums):
            raise SpoolError(f"index.json of job {job_id} does not match its digest")
        for file, expected in zip(index.files, index.checksums, strict=True) if verify else ():
            try:
                actual = sha256(file.read_bytes()).hexdigest()
            except FileNotFoundError as error:
                raise SpoolError(f"{file.name} of job {job_id} is missing from the spool") from error
            if actual != expected:
                raise SpoolError(f"{file.name} of job {job_id} was altered in the spool")
        return index

    def purge(self, job_id: str) -> None:
        """Remove the job's images, index and caches, complete or not. Does nothing if there are none.

        Raises:
            OSError: something is left that could not be removed.
        """
        folder = self.folder(job_id)
        for path in (folder, folder.with_name(folder.name + _PARTIAL)):
            try:
                shutil.rmtree(path)
            except FileNotFoundError:
                # rmtree also stops here when someone else removes the same folder at the same time
                shutil.rmtree(path, ignore_errors=True)

    def orphans(self, live: Collection[str], finished: Collection[str] = ()) -> list[str]:
        """Return the job ids whose folders are no longer needed.

        These are folders of `finished` jobs, and folders of no job in `live` that were not written to for
        `ABANDONED_AFTER_S` (an upload that is still being received has no record yet).
        """
        found: list[str] = []
        for path in sorted(self.root.iterdir()):
            job_id = path.name.removesuffix(_PARTIAL)
            if not _JOB_ID.fullmatch(job_id) or job_id in live or job_id in found:
                continue
            if job_id in finished or _idle_s(path) > ABANDONED_AFTER_S:
                found.append(job_id)
        return found


def _idle_s(folder: Path) -> float:
    """Return the seconds since a file was last added to a job's folder; 0 if it vanished meanwhile."""
    try:
        return time.time() - max(path.stat().st_mtime for path in (folder, folder / "images") if path.exists())
    except (FileNotFoundError, ValueError):
        return 0.0
