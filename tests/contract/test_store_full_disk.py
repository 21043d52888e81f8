"""The disk runs full at every write: nothing is half-written, and the old version serves."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from model_store.disk import Disk
from model_store.store import Store, bootstrap
from model_store.types import Provenance, StoreFullError
from tests.contract.states import learned

NOBODY = Provenance(libraries={})


class FullDisk(Disk):
    """Has room for so many operations that take any, and half of the next; then it stays full. Removing works."""

    def __init__(self, room: int, number: int) -> None:
        self.room = room
        self.number = number

    def _take(self) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(self.number, os.strerror(self.number))

    def make_folder(self, path: Path) -> None:
        self._take()
        super().make_folder(path)

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_CREAT and not path.exists():
            self._take()
        return super().open(path, flags)

    def write(self, fd: int, data: memoryview) -> int:
        if self.room == 0 and len(data) > 1:
            return super().write(fd, data[: len(data) // 2])
        self._take()
        return super().write(fd, data)

    def sync(self, fd: int) -> None:
        self._take()  # file systems that allocate late say it here
        super().sync(fd)


def contents(root: Path) -> dict[str, bytes]:
    """Every file of the store that means anything."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def fill(store: Store) -> None:
    one = bootstrap(store, learned(0))
    two = store.publish(learned(1), parent=one, provenance=NOBODY).version_id
    store.promote(two, expected=one, who="worker")
    store.publish(learned(2), parent=two, provenance=NOBODY)


WORKS: dict[str, Callable[[Store], object]] = {
    "publish": lambda store: store.publish(learned(3), parent=store.current(), provenance=NOBODY),
    "promote": lambda store: store.promote(store.list()[-1].version_id, expected=store.current(), who="worker"),
    "rollback": lambda store: store.rollback(None, who="ann", reason="worse"),
    "pin": lambda store: store.pin(str(store.current()), who="ann"),
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS.keys())
def test_a_disk_that_runs_full_at_any_write_leaves_the_store_as_it_was(
    tmp_path: Path, work: Callable[[Store], object], number: int
) -> None:
    template = Store(tmp_path / "template")
    fill(template)
    before = contents(template.root)
    refused = 0
    for room in count():
        root = tmp_path / str(room)
        shutil.copytree(template.root, root)
        try:
            work(Store(root, disk=FullDisk(room, number)))
        except StoreFullError:
            refused += 1
            assert contents(root) == before
            assert [*(root / "tmp").iterdir()] == []
            store = Store(root)
            store.verify(str(store.current()))
            work(store)  # space was made
        assert contents(root) != before
        store = Store(root)
        store.verify(str(store.current()))
        assert [line.action for line in store.journal()].count("recover") == 0
        if room > refused + 2:
            break
    assert refused >= 2


def test_a_store_that_cannot_be_made_says_that_the_disk_is_full(tmp_path: Path) -> None:
    with pytest.raises(StoreFullError, match="making a store"):
        Store(tmp_path / "store", disk=FullDisk(0, errno.ENOSPC))
    assert bootstrap(Store(tmp_path / "store"), learned(0)).startswith("000001-")
