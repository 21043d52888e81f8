"""The store's changes to a disk, one system call per method, so that a test can interrupt at any of them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from model_store.types import StoreError, StoreFullError


class Disk:
    """Durable file operations, built from single system calls.

    A subclass that overrides the methods of the first group sees everything that reaches the disk.
    """

    # One system call each

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o644)

    def write(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder and its content. Does nothing if the path does not exist."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    # Built from them

    def write_file(self, path: Path, data: bytes) -> None:
        """Create a file with these bytes and sync it to disk.

        Raises:
            OSError: the file exists or could not be written completely.
        """
        fd = self.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            self._write_all(fd, data)
            self.sync(fd)
        finally:
            os.close(fd)

    def append(self, path: Path, data: bytes, *, at: int) -> None:
        """Write `data` at byte `at` of a file, cut off what followed, and sync the file to disk.

        Raises:
            OSError: not written; the file ends at byte `at` again, if the disk allowed that.
        """
        fd = self.open(path, os.O_WRONLY | os.O_CREAT)
        try:
            if os.fstat(fd).st_size != at:
                self.truncate(fd, at)
            os.lseek(fd, at, os.SEEK_SET)
            try:
                self._write_all(fd, data)
                self.sync(fd)
            except OSError:
                with contextlib.suppress(OSError):
                    self.truncate(fd, at)
                raise
        finally:
            os.close(fd)

    def sync_folder(self, path: Path) -> None:
        """Sync a folder's entries (names added, moved or removed) to disk."""
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sync(fd)
        finally:
            os.close(fd)

    def _write_all(self, fd: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.write(fd, rest) :]


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Convert the operating system's errors of a write to the store's errors.

    Raises:
        StoreFullError: no space or quota is left.
        StoreError: any other OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFullError(f"the disk is full: {what} was not done") from error
        raise StoreError(f"{what} was not done: {error}") from error
