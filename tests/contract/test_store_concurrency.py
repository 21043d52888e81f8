"""Many threads and processes on one store: one of them wins, and nobody ever sees anything half done."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest

from model_store.store import Store, bootstrap
from model_store.types import ConflictError, Provenance, VersionId
from tests.contract.states import learned

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

NOBODY = Provenance(libraries={})


def rivals(root: Path, many: int) -> tuple[VersionId, list[VersionId]]:
    store = Store(root)
    first = bootstrap(store, learned(0))
    return first, [
        store.publish(learned(n + 1), parent=first, provenance=NOBODY).version_id for n in range(many)
    ]  # fmt: skip


def promoted(store: Store, version: VersionId, expected: VersionId) -> bool:
    try:
        store.promote(version, expected=expected, who=version)
    except ConflictError:
        return False
    return True


def in_children(work: Callable[[int], int], many: int) -> list[int]:
    """Exit statuses of forked processes that begin together, each the result of `work`."""
    gate, start = os.pipe()
    children = []
    for n in range(many):
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                os.close(start)
                os.read(gate, 1)
                status = work(n)
            finally:
                os._exit(status)
        children.append(pid)
    os.close(start)  # all children read the end of the file at once
    os.close(gate)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def test_one_of_many_threads_wins_the_compare_and_swap(tmp_path: Path) -> None:
    first, versions = rivals(tmp_path, 8)
    shared = Store(tmp_path)
    barrier = Barrier(len(versions))

    def race(number: int) -> bool:
        store = shared if number % 2 else Store(tmp_path)  # one object or several, it makes no difference
        barrier.wait()
        return promoted(store, versions[number], first)

    with ThreadPoolExecutor(len(versions)) as pool:
        won = [*pool.map(race, range(len(versions)))]
    assert won.count(True) == 1
    assert shared.current() == versions[won.index(True)]
    assert [entry.to for entry in shared.journal() if entry.action == "promote"] == [first, shared.current()]


def test_one_of_many_processes_wins_the_compare_and_swap(tmp_path: Path) -> None:
    first, versions = rivals(tmp_path, 5)
    statuses = in_children(lambda n: 10 + promoted(Store(tmp_path), versions[n], first), len(versions))
    assert sorted(statuses) == [10] * 4 + [11]
    assert Store(tmp_path).current() == versions[statuses.index(11)]


def test_processes_that_start_together_make_one_first_version(tmp_path: Path) -> None:
    def start(number: int) -> int:
        return 10 + int(bootstrap(Store(tmp_path), learned(0))[:6])

    assert in_children(start, 5) == [11] * 5
    store = Store(tmp_path)
    assert [manifest.version_id for manifest in store.list()] == [store.current()]


def test_processes_that_publish_together_get_numbers_of_their_own(tmp_path: Path) -> None:
    first = bootstrap(Store(tmp_path), learned(0))

    def publish(number: int) -> int:
        manifests = [Store(tmp_path).publish(learned(number + 1), parent=first, provenance=NOBODY) for _ in range(3)]
        return len(manifests)

    assert in_children(publish, 4) == [3] * 4
    store = Store(tmp_path)
    assert [manifest.number for manifest in store.list()] == [*range(1, 14)]
    assert Counter(entry.action for entry in store.journal()) == {"publish": 13, "promote": 1}
    for manifest in store.list():
        store.verify(manifest.version_id)


def test_a_job_that_two_workers_run_publishes_once(tmp_path: Path) -> None:
    first = bootstrap(Store(tmp_path), learned(0))
    job = NOBODY.model_copy(update={"job_id": "job-1"})
    numbers = in_children(lambda n: Store(tmp_path).publish(learned(n + 1), parent=first, provenance=job).number, 4)
    assert numbers == [2] * 4
    assert len(Store(tmp_path).list()) == 2


def test_readers_never_see_anything_half_done(tmp_path: Path) -> None:
    first, (second,) = rivals(tmp_path, 1)
    store = Store(tmp_path)
    done = Event()

    def read() -> int:
        reader = Store(tmp_path)
        looks = 0
        while not done.is_set() or not looks:
            current = reader.current()
            assert current is not None
            assert current == first or reader.open(current).classes
            for manifest in reader.list():
                reader.manifest(manifest.version_id)
            assert {entry.who for entry in reader.journal()} <= {"keepsight", "ann"}
            looks += 1
        return looks

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for n in range(20):
                store.rollback(second if n % 2 == 0 else first, who="ann", reason="r")
                store.publish(learned(n % 4), parent=first, provenance=NOBODY)
        finally:
            done.set()
        assert all(reader.result() > 0 for reader in readers)
    assert len(store.list()) == 22
