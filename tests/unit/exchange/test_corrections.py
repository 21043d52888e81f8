"""Corrections that wait: what is kept, what is removed, and that each is learned exactly once."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest

from exchange.contracts import JobRecord, utc_now
from exchange.corrections import (
    CorrectionLimits,
    CorrectionNotFoundError,
    Corrections,
    CorrectionsFullError,
    NoCorrectionsError,
    taken_by,
)
from exchange.jobs import Jobs
from exchange.notes import read_note
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool

LIMITS = CorrectionLimits(most=3, most_bytes=100, kept_s=60.0, learn_count=2, learn_after_s=30.0)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def corrections(spool: Spool) -> Corrections:
    return Corrections(spool, LIMITS)


@pytest.fixture
def jobs(redis_url: str) -> Jobs:
    return Jobs(redis_url)


def learn(corrections: Corrections, jobs: Jobs) -> JobRecord:
    return corrections.learn(jobs, submitted_by="ada", submitted_on="000001-aaaaaaaaaaaa")


def test_a_correction_is_kept_with_everything_but_its_image(corrections: Corrections) -> None:
    kept = corrections.add(
        b"image", "cat", corrected_by="ada", answered="dog", probability=0.5, answered_by="v", reason="x"
    )
    assert corrections.waiting() == [kept]
    assert (kept.number, kept.label, kept.answered, kept.size, kept.corrected_by) == (1, "cat", "dog", 5, "ada")


def test_numbers_are_never_used_again(corrections: Corrections, spool: Spool) -> None:
    corrections.add(b"one", "cat", corrected_by="ada")
    corrections.remove(1)
    assert Corrections(spool, LIMITS).add(b"two", "cat", corrected_by="ada").number == 2
    with pytest.raises(CorrectionNotFoundError, match="number 1 waits"):
        corrections.remove(1)


def test_a_second_correction_of_an_image_takes_the_place_of_the_first(corrections: Corrections) -> None:
    for label in ("cat", "dog"):
        corrections.add(b"one", label, corrected_by="ada")
    assert [(each.number, each.label) for each in corrections.waiting()] == [(2, "dog")]


def test_no_more_are_kept_than_allowed(corrections: Corrections) -> None:
    with pytest.raises(CorrectionsFullError, match="this one 101, and at most 100"):
        corrections.add(bytes(101), "cat", corrected_by="ada")
    for image in (b"1", b"2", b"3"):
        corrections.add(image, "cat", corrected_by="ada")
    with pytest.raises(CorrectionsFullError, match="3 corrections wait already"):
        corrections.add(b"4", "cat", corrected_by="ada")
    corrections.add(b"3", "dog", corrected_by="ada")  # in the place of one
    assert corrections.clear() == 3
    assert corrections.waiting() == []


def test_they_expire_and_are_due_by_number_and_by_age(corrections: Corrections, spool: Spool) -> None:
    now = utc_now()
    assert not corrections.sweep(now)
    assert list(spool.root.iterdir()) == []  # looking leaves nothing
    corrections.add(b"1", "cat", corrected_by="ada", at=now)
    assert not corrections.sweep(now + timedelta(seconds=29))
    assert corrections.sweep(now + timedelta(seconds=30))
    corrections.add(b"2", "cat", corrected_by="ada", at=now)
    assert corrections.sweep(now)
    assert not corrections.sweep(now + timedelta(seconds=61))
    assert corrections.waiting() == []
    never = Corrections(spool, CorrectionLimits(most=3, most_bytes=100, kept_s=60.0))
    never.add(b"3", "cat", corrected_by="ada", at=now)
    assert not never.sweep(now + timedelta(seconds=59))


def test_all_are_learned_by_one_job(corrections: Corrections, spool: Spool, jobs: Jobs) -> None:
    corrections.add(b"one", "dog", corrected_by="ada", taught_as="cat")
    corrections.add(b"two", "cat", corrected_by="bob")
    corrections.add(b"three", "owl", corrected_by="bob", prompt="A photo of an owl.")
    record = learn(corrections, jobs)
    assert corrections.waiting() == []
    job = record.job
    assert (job.corrections, job.task_name, job.extend, job.instant) == (3, "3 corrections", True, True)
    assert [(each.name, each.images) for each in job.classes] == [("cat", 1), ("dog", 1), ("owl", 1)]
    assert job.classes[2].prompt == "A photo of an owl."
    index = spool.read(record.job_id)
    assert index.digest == job.dataset_digest
    assert [file.read_bytes() for file in index.files] == [b"two", b"one", b"three"]
    assert [each.taught_as for each in taken_by(spool, record.job_id)] == ["cat", None, None]
    assert jobs.get(record.job_id) == record
    note = read_note(spool, record.job_id)
    assert note is not None
    assert note.record == record
    with pytest.raises(NoCorrectionsError):
        learn(corrections, jobs)
    left = {path.name for path in spool.folder(record.job_id).rglob("image")}
    assert left == set()  # one copy of each image is enough


def test_several_processes_learn_them_once(spool: Spool, redis_url: str) -> None:
    Corrections(spool, LIMITS).add(b"one", "cat", corrected_by="ada")
    learned: list[str] = []

    def race() -> None:
        try:
            learned.append(learn(Corrections(spool, LIMITS), Jobs(redis_url)).job_id)
        except NoCorrectionsError:
            learned.append("")

    threads = [Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([job_id for job_id in learned if job_id]) == 1


def test_those_that_are_not_due_are_left_to_wait(corrections: Corrections, jobs: Jobs) -> None:
    now = utc_now()
    corrections.add(b"one", "cat", corrected_by="ada", at=now)
    with pytest.raises(NoCorrectionsError):
        corrections.learn(jobs, submitted_by="x", submitted_on="v", if_due=now)
    assert len(corrections.waiting()) == 1


def test_without_a_broker_they_wait_as_before(corrections: Corrections, spool: Spool) -> None:
    corrections.add(b"one", "cat", corrected_by="ada")
    with pytest.raises(BrokerUnavailableError):
        learn(corrections, Jobs("redis://127.0.0.1:1/0", timeout_s=0.2))
    assert [each.label for each in corrections.waiting()] == ["cat"]
    assert spool.folders() == {}


@pytest.mark.parametrize("failing", ["mkdir", "rename", "unlink", "rmdir", "fsync", "replace"])
def test_a_process_that_ends_at_any_system_call_neither_loses_one_nor_has_it_learned_twice(
    failing: str, spool: Spool, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is gone from the nth call on: nothing it would have done afterwards happens."""
    original = getattr(os, failing)

    def dying(after: int) -> Callable[..., object]:
        left = after

        def call(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return original(*arguments, **options)

        return call

    for nth in range(60):
        jobs = Jobs(redis_url)
        corrections = Corrections(spool, LIMITS)
        corrections.clear()
        for image in (b"one", b"two"):
            corrections.add(image, "cat", corrected_by="ada")
        pid = os.fork()
        if pid == 0:
            monkeypatch.setattr(os, failing, dying(nth))
            try:
                learn(corrections, jobs)
            finally:
                os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        waiting = [each.sha256 for each in Corrections(spool, LIMITS).waiting()]
        accepted = [job_id for job_id in spool.folders() if read_note(spool, job_id) is not None]
        taken = [each.sha256 for job_id in accepted for each in taken_by(spool, job_id)]
        assert len(waiting) + len(taken) == 2, (failing, nth)
        assert len({*waiting, *taken}) == 2
        for job_id in spool.folders():
            spool.purge(job_id)
        if ended == 0:
            return
    raise AssertionError("it never came to its end")
