"""The writer is killed at every single thing it does to the disk: the store opens and serves all the same.

Children are forked, so that each death is a real one (`os._exit` inside the system call's place) and costs
milliseconds. With a power cut, whatever was written and not yet synced is lost as well.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from model_store import policy
from model_store.backup import back_up, restore
from model_store.disk import Disk
from model_store.journal import read_journal
from model_store.store import Store, bootstrap
from model_store.types import Provenance, VersionId
from tests.contract.states import learned

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

KILLED = 9
JOB = Provenance(job_id="job-1", libraries={})
NOBODY = Provenance(libraries={})

Work = Callable[[Store], object]


class MortalDisk(Disk):
    """Ends the process at its `last`-th change of the disk; a write gets half of its bytes out before."""

    def __init__(self, last: int, *, power_cut: bool) -> None:
        self.left = last
        self.power_cut = power_cut
        self.unsynced: dict[int, tuple[Path, int]] = {}
        self.paths: dict[int, Path] = {}

    def _live(self) -> None:
        self.left -= 1
        if self.left == 0:
            self._die()

    def _die(self) -> None:
        if self.power_cut:
            for path, size in self.unsynced.values():
                os.truncate(path, size)
        os._exit(KILLED)

    def make_folder(self, path: Path) -> None:
        self._live()
        super().make_folder(path)

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_CREAT:
            self._live()
        fd = super().open(path, flags)
        self.paths[fd] = path
        self.unsynced.pop(fd, None)
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        self.unsynced.setdefault(fd, (self.paths[fd], os.fstat(fd).st_size))
        if self.left == 1:
            super().write(fd, data[: len(data) // 2])
        self._live()
        return super().write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        self._live()
        super().truncate(fd, size)

    def sync(self, fd: int) -> None:
        self._live()
        super().sync(fd)
        self.unsynced.pop(fd, None)

    def rename(self, source: Path, target: Path) -> None:
        self._live()
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._live()
        super().remove(path)


def in_a_child(work: Work, root: Path, disk: Disk) -> int:
    """Open the store and `work` in a forked process; its exit status: 0, KILLED, or 1 if it raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(Store(root, disk=disk))
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def replayed(store: Store) -> VersionId | None:
    """What CURRENT must be if every journal line is true, each move beginning where the last one ended."""
    here: VersionId | None = None
    for entry in store.journal():
        if entry.action in ("promote", "rollback", "recover"):
            assert entry.from_ == here or entry.action == "recover"
            here = entry.to
    return here


def check_whole(store: Store, allowed: set[VersionId | None]) -> None:
    """All that holds after a crash, before anybody has repaired anything."""
    current = store.current()
    assert current in allowed
    if current is not None:
        store.verify(current)
    on_disk = {path.name for path in (store.root / "versions").iterdir()}
    assert {manifest.version_id for manifest in store.list()} == on_disk
    for version in on_disk:
        store.verify(version)
    assert read_journal(store.root / "journal.jsonl").damaged == ()


def check_goes_on(store: Store) -> None:
    """The next update succeeds, tidies up, and leaves nothing unexplained."""
    before = store.current()
    fresh = store.publish(learned(4), parent=before, provenance=NOBODY).version_id
    store.promote(fresh, expected=before, who="next")
    assert store.current() == fresh == replayed(store)
    assert [*(store.root / "tmp").iterdir()] == []
    parents = {manifest.version_id: manifest.parent for manifest in store.list()}
    assert policy.unexplained(store.journal(), parents, fresh) == ()


def copying(source: Path, disk: Disk, target: Store) -> None:
    back_up(source, target.root, disk=disk)


def restoring(backup: Path, target: Path, disk: Disk, _: Store) -> None:
    restore(backup, target, disk=disk)


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_copy_that_was_killed_is_a_store_and_the_next_one_completes_it(tmp_path: Path, power_cut: bool) -> None:
    source = Store(tmp_path / "source")
    first = bootstrap(source, learned(1), provenance=NOBODY)
    back_up(source.root, tmp_path / "early")
    second = source.publish(learned(2), parent=first, provenance=NOBODY).version_id
    source.promote(second, expected=first, who="worker")
    third = source.publish(learned(3), parent=second, provenance=NOBODY).version_id
    source.promote(third, expected=second, who="worker")
    assert [*source.prune(1).removed] == [first]
    for last in count(1):
        target = tmp_path / f"copy-{last}"
        shutil.copytree(tmp_path / "early", target)
        disk = MortalDisk(last, power_cut=power_cut)
        status = in_a_child(partial(copying, source.root, disk), target, Disk())
        copy = Store(target)
        assert copy.current() in (first, third)
        copy.verify(str(copy.current()))
        for manifest in copy.list():
            copy.verify(manifest.version_id)
        back_up(source.root, target)
        assert [manifest.version_id for manifest in copy.list()] == [second, third]
        assert (copy.current(), copy.journal()) == (third, source.journal())
        assert [*(target / "tmp").iterdir()] == []
        shutil.rmtree(target)
        if status == 0:
            break
        assert status == KILLED
    assert last > 20


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_restore_that_was_killed_serves_nothing_and_the_next_one_completes_it(
    tmp_path: Path, power_cut: bool
) -> None:
    source = Store(tmp_path / "source")
    first = bootstrap(source, learned(1), provenance=NOBODY)
    back_up(source.root, tmp_path / "backup")
    for last in count(1):
        target = tmp_path / f"store-{last}"
        disk = MortalDisk(last, power_cut=power_cut)
        status = in_a_child(partial(restoring, tmp_path / "backup", target, disk), source.root, Disk())
        if status == 0:
            break
        assert status == KILLED
        if not (target / "CURRENT").exists():
            restore(tmp_path / "backup", target)
        assert Store(target).current() == first
        Store(target).verify(first)
        assert Store(target).journal() == source.journal()
    assert last > 10


def publish_and_promote(store: Store) -> None:
    parent = store.current()
    version = store.publish(learned(2), parent=parent, provenance=JOB).version_id
    store.promote(version, expected=parent, who="worker", reason="job-1")


def prepared(root: Path) -> tuple[VersionId, VersionId, VersionId]:
    store = Store(root)
    bootstrap(store, learned(0))
    for classes in (1, 3):
        parent = store.current()
        fresh = store.publish(learned(classes), parent=parent, provenance=NOBODY).version_id
        store.promote(fresh, expected=parent, who="worker")
    one, two, three = (manifest.version_id for manifest in store.list())
    return one, two, three


@pytest.mark.parametrize("power_cut", [False, True], ids=["kill", "power cut"])
def test_an_update_killed_at_every_write_leaves_the_old_or_the_new_version(tmp_path: Path, power_cut: bool) -> None:
    *_, old = prepared(tmp_path / "template")
    seen = set()
    for last in count(1):
        root = tmp_path / str(last)
        shutil.copytree(tmp_path / "template", root)
        disk = MortalDisk(last, power_cut=power_cut)
        status = in_a_child(publish_and_promote, root, disk)
        assert status in (0, KILLED)
        store = Store(root)
        job = store.version_of_job("job-1")
        check_whole(store, {old, job})
        seen.add((job is not None, store.current() == job))
        in_between = store.current()
        publish_and_promote(store)  # the job is run again
        assert store.version_of_job("job-1") == store.current() == replayed(store)
        if in_between == old and job is not None:
            assert store.current() == job
        assert sum(manifest.job_id == "job-1" for manifest in store.list()) == 1
        check_goes_on(store)
        if status == 0:
            break
    assert last > 15, "the disk was not in the way of every write"
    assert seen == {(False, False), (True, False), (True, True)}


WORKS: dict[str, Work] = {
    "rollback": lambda store: store.rollback(None, who="ann", reason="worse"),
    "prune": lambda store: store.prune(1, who="ann"),
    "pin": lambda store: store.pin(str(store.current()), who="ann"),
}


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS.keys())
def test_an_operators_action_killed_at_every_write_leaves_a_whole_store(tmp_path: Path, work: Work) -> None:
    _, two, three = prepared(tmp_path / "template")
    for last in count(1):
        root = tmp_path / str(last)
        shutil.copytree(tmp_path / "template", root)
        disk = MortalDisk(last, power_cut=True)
        status = in_a_child(work, root, disk)
        assert status in (0, KILLED)
        store = Store(root)
        check_whole(store, {two, three})
        assert {manifest.version_id for manifest in store.list()} >= {two, three}
        check_goes_on(store)
        if status == 0:
            break
    assert last >= 4, "the disk was not in the way of every write"


def test_a_first_start_killed_at_every_write_is_taken_up_by_the_next(tmp_path: Path) -> None:
    for last in count(1):
        root = tmp_path / str(last)
        disk = MortalDisk(last, power_cut=True)
        status = in_a_child(lambda store: bootstrap(store, learned(0)), root, disk)
        assert status in (0, KILLED)
        store = Store(root)
        first = bootstrap(store, learned(0))
        check_whole(store, {first})
        assert [manifest.version_id for manifest in store.list()] == [first]
        check_goes_on(store)
        if status == 0:
            break
    assert last > 15, "the disk was not in the way of every write"


def test_tensors_are_on_the_disk_before_the_manifest_and_both_before_the_version_appears(tmp_path: Path) -> None:
    trace: list[str] = []

    class TracingDisk(Disk):
        names: dict[int, str] = {}  # noqa: RUF012 - one disk, one test

        def open(self, path: Path, flags: int) -> int:
            fd = super().open(path, flags)
            self.names[fd] = path.name.split("-")[0]
            return fd

        def write(self, fd: int, data: memoryview) -> int:
            trace.append(f"write {self.names[fd]}")
            return super().write(fd, data)

        def sync(self, fd: int) -> None:
            trace.append(f"sync {self.names[fd]}")
            super().sync(fd)

        def rename(self, source: Path, target: Path) -> None:
            trace.append(f"rename to {target.name.split('-')[0]}")
            super().rename(source, target)

    store = Store(tmp_path / "store")
    store = Store(store.root, disk=TracingDisk())
    version = store.publish(learned(2), parent=None, provenance=NOBODY).version_id
    store.promote(version, expected=None, who="worker")
    assert trace == [
        "write tensors.safetensors",
        "sync tensors.safetensors",
        "write manifest.json",
        "sync manifest.json",
        "sync 000001",
        "rename to 000001",
        "sync versions",
        "write journal.jsonl",
        "sync journal.jsonl",
        "write CURRENT",
        "sync CURRENT",
        "write journal.jsonl",
        "sync journal.jsonl",
        "rename to CURRENT",
        "sync store",
    ]


def test_a_writer_killed_from_outside_at_any_moment_leaves_a_whole_store(tmp_path: Path) -> None:
    versions = prepared(tmp_path / "store")
    for delay_s in (0.005, 0.015, 0.03, 0.06):
        pid = os.fork()
        if pid == 0:
            try:
                store = Store(tmp_path / "store")
                for classes in count(1):
                    parent = store.current()
                    fresh = store.publish(learned(1 + classes % 5), parent=parent, provenance=NOBODY).version_id
                    store.promote(fresh, expected=parent, who="worker")
            finally:
                os._exit(1)
        time.sleep(delay_s)
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        store = Store(tmp_path / "store")
        check_whole(store, {manifest.version_id for manifest in store.list()})
        check_goes_on(store)
    assert {manifest.version_id for manifest in store.list()} > set(versions)


def test_locks_are_given_back_when_their_holder_is_killed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    ready, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with store.lineage_lock():
                os.write(held, b"x")
                time.sleep(60)
        finally:
            os._exit(1)
    os.read(ready, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with store.lineage_lock(timeout_s=1.0):
        assert store.current() is None
    os.close(ready)
    os.close(held)
