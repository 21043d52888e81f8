"""Disks of the service's own, in memory, so that each can be filled and emptied without harm to the machine's."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_SIZE_MIB: Final = {"store": 256, "spool": 64, "log": 32, "broker": 64}
NAMES: Final = tuple(_SIZE_MIB)
_TRIES: Final = 20
_MOUNT, _UMOUNT = shutil.which("mount") or "mount", shutil.which("umount") or "umount"


class NotPermittedError(RuntimeError):
    """This machine does not let a disk be mounted or changed. The message is that of `mount`."""


class Disk:
    """A tmpfs that is mounted on a folder.

    Raises:
        NotPermittedError: mounting is not permitted.
    """

    def __init__(self, folder: Path, *, size_mib: int) -> None:
        self.folder = folder
        self._usual = f"size={size_mib}m,nr_inodes=100000"
        folder.mkdir(parents=True, exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"{self._usual},mode=0755", "keepsight-faults", str(folder))

    def fill(self) -> None:
        """Leave no byte: the disk becomes as small as what is on it."""
        self._as_it_is(lambda held: f"size={max(1, (held.f_blocks - held.f_bfree)) * held.f_frsize}")

    def use_up_inodes(self) -> None:
        """Leave room for bytes and none for files."""
        self._as_it_is(lambda held: f"nr_inodes={held.f_files - held.f_ffree}")

    def empty(self) -> None:
        """Give back the room. Nothing that was written is lost."""
        self._remount(self._usual)

    def _as_it_is(self, options: Callable[[os.statvfs_result], str]) -> None:
        """Make it as small as what is on it. It is refused if something was written in between, and tried again."""
        for left in reversed(range(_TRIES)):
            try:
                self._remount(options(os.statvfs(self.folder)))
                break
            except NotPermittedError:
                if not left:
                    raise

    def _remount(self, options: str) -> None:
        _mount("-o", f"remount,{options}", str(self.folder))

    def release(self) -> None:
        """Unmount it; what still uses it keeps it until it ends."""
        _unmount(self.folder)


def forbid_writing(folder: Path) -> None:
    """Refuse every file that is opened for writing in a folder, as a file system does that has found an error.

    The folder is mounted on itself, so that files which are open already do not stand in the way.
    """
    _mount("--bind", str(folder), str(folder))
    _mount("-o", "remount,bind,ro", str(folder))


def permit_writing(folder: Path) -> None:
    """Take writes again."""
    _unmount(folder)


def _unmount(folder: Path) -> None:
    subprocess.run([_UMOUNT, "--lazy", str(folder)], capture_output=True)


def _mount(*arguments: str) -> None:
    try:
        done = subprocess.run([_MOUNT, *arguments], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NotPermittedError("there is no program `mount`") from error
    if done.returncode:
        raise NotPermittedError(done.stderr.strip() or f"mount ended with exit status {done.returncode}")


@contextlib.contextmanager
def disks(base: Path) -> Iterator[dict[str, Disk]]:
    """The disks of a service whose store, log and broker folders lie in `base`; none where mounting is not permitted.

    `store` is the whole of `base`, so that the store's folder itself can be renamed; the others are mounted in it.
    """
    made: dict[str, Disk] = {}
    try:
        with contextlib.suppress(NotPermittedError):
            for name, size_mib in _SIZE_MIB.items():
                made[name] = Disk(base if name == "store" else base / name, size_mib=size_mib)
        yield made if len(made) == len(_SIZE_MIB) else {}
    finally:
        for disk in reversed(made.values()):
            disk.release()
