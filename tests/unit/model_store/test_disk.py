"""Durable file operations out of single system calls."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from model_store.disk import Disk, writing
from model_store.types import StoreError, StoreFullError


class ShortDisk(Disk):
    """Takes at most three bytes a write, as a kernel may."""

    def write(self, fd: int, data: memoryview) -> int:
        return super().write(fd, data[:3])


class FullAfter(Disk):
    """Runs full after so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, fd: int, data: memoryview) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "full")
        written = super().write(fd, data[: self.room])
        self.room -= written
        return written


def test_short_writes_are_continued(tmp_path: Path) -> None:
    disk = ShortDisk()
    disk.write_file(tmp_path / "a", b"0123456789")
    disk.append(tmp_path / "a", b"abcdefg", at=10)
    assert (tmp_path / "a").read_bytes() == b"0123456789abcdefg"


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        Disk().write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_append_cuts_off_what_follows(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123torn")
    Disk().append(tmp_path / "a", b"45", at=4)
    assert (tmp_path / "a").read_bytes() == b"012345"


@pytest.mark.parametrize("room", range(5))
def test_an_append_that_fails_half_way_leaves_what_was_there(tmp_path: Path, room: int) -> None:
    (tmp_path / "a").write_bytes(b"0123")
    with pytest.raises(OSError, match="full"):
        FullAfter(room).append(tmp_path / "a", b"45678", at=4)
    assert (tmp_path / "a").read_bytes() == b"0123"


def test_removing_what_is_not_there_is_fine(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x")
    for name in ("folder", "missing", "folder"):
        Disk().remove(tmp_path / name)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreFullError),
        (errno.EDQUOT, StoreFullError),
        (errno.EIO, StoreError),
        (errno.EROFS, StoreError),
    ],
)
def test_errors_of_the_system_become_the_stores(number: int, expected: type[StoreError]) -> None:
    with pytest.raises(StoreError, match="moving CURRENT was not done") as caught, writing("moving CURRENT"):
        raise OSError(number, "no")
    assert type(caught.value) is expected
