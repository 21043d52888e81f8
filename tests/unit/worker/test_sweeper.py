from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from exchange.contracts import JobRecord, JobState, job_key, new_job_id
from exchange.jobs import Jobs, Listing
from exchange.notes import Note, write_note
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool
from model_store.test_sets import SourceImage, StoredTestSets
from tests.waiting import wait_until
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor
from worker.sweeper import ABANDONED_AFTER_S, TEST_SETS_EVERY_S, Sweeper
from worker.warm import Processes

Submit = Callable[[], JobRecord]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sweeper(settings: WorkerSettings, jobs: Jobs, spool: Spool, stop: threading.Event, clock: Clock) -> Sweeper:
    patient = settings.model_copy(update={"stale_after_s": 15.0})
    return Sweeper(patient, jobs, spool, stop=stop, clock=clock)


def drain(jobs: Jobs) -> None:
    """Take all messages away, as a worker that died with them would."""
    jobs._redis.delete("updates")


def test_a_silent_job_is_queued_again(sweeper: Sweeper, jobs: Jobs, submit: Submit, clock: Clock) -> None:
    job_id = submit().job_id
    drain(jobs)
    jobs.claim(job_id, owner="a worker that dies")
    sweeper.sweep()
    clock.now += 14
    sweeper.sweep()
    assert jobs.get(job_id).state == JobState.RUNNING
    clock.now += 2
    sweeper.sweep()
    assert jobs.get(job_id).state == JobState.QUEUED
    assert jobs.get(job_id).attempts == 1
    assert jobs.waiting_messages() == 1


def test_a_job_that_beats_is_left_alone(sweeper: Sweeper, jobs: Jobs, submit: Submit, clock: Clock) -> None:
    job_id = submit().job_id
    jobs.claim(job_id, owner="me")
    for _ in range(4):
        sweeper.sweep()
        clock.now += 14
        jobs.heartbeat(job_id, owner="me")
    assert jobs.get(job_id).state == JobState.RUNNING


def test_silence_during_an_outage_does_not_count(
    sweeper: Sweeper,
    jobs: Jobs,
    submit: Submit,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    stop: threading.Event,
) -> None:
    job_id = submit().job_id
    jobs.claim(job_id, owner="me")
    sweeper.sweep()
    listing = jobs.listing

    def gone(**_: object) -> Listing:
        monkeypatch.setattr(jobs, "listing", listing)
        stop.set()  # one round
        raise BrokerUnavailableError("gone")

    monkeypatch.setattr(jobs, "listing", gone)
    thread = sweeper.start()
    thread.join(5)
    clock.now += 16
    sweeper.sweep()
    assert jobs.get(job_id).state == JobState.RUNNING


def test_a_queued_job_without_a_message_gets_one(sweeper: Sweeper, jobs: Jobs, submit: Submit, clock: Clock) -> None:
    submit()
    drain(jobs)
    sweeper.sweep()
    assert jobs.waiting_messages() == 0
    clock.now += 16
    sweeper.sweep()
    assert jobs.waiting_messages() == 1


def test_a_queued_job_whose_message_waits_is_not_sent_twice(
    sweeper: Sweeper, jobs: Jobs, submit: Submit, clock: Clock
) -> None:
    submit()
    sweeper.sweep()
    clock.now += 100
    sweeper.sweep()
    assert jobs.waiting_messages() == 1


def test_images_of_finished_jobs_are_removed_and_others_kept(
    sweeper: Sweeper, jobs: Jobs, spool: Spool, submit: Submit
) -> None:
    finished, queued = submit().job_id, submit().job_id
    jobs.finish(finished, JobState.CANCELLED)
    unknown = new_job_id()
    with spool.create(unknown) as writer:
        writer.add(0, b"x")
        writer.close(["cat"])
    sweeper.sweep()
    assert {path.name for path in spool.root.iterdir()} == {queued, unknown}


def test_the_thread_sweeps_again_and_again_and_survives_surprises(
    settings: WorkerSettings,
    jobs: Jobs,
    spool: Spool,
    submit: Submit,
    stop: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job_id = submit().job_id
    drain(jobs)
    jobs.claim(job_id, owner="a worker that dies")
    listing = jobs.listing

    def surprise(**_: object) -> Listing:
        monkeypatch.setattr(jobs, "listing", listing)
        raise RuntimeError("a surprise")

    monkeypatch.setattr(jobs, "listing", surprise)
    thread = Sweeper(settings, jobs, spool, stop=stop).start()
    wait_until(lambda: jobs.get(job_id).state == JobState.QUEUED)
    stop.set()
    thread.join(5)
    assert "a surprise" in caplog.text


def flush(own_redis: str) -> None:
    with redis.Redis.from_url(own_redis) as client:
        client.flushdb()


def test_a_job_that_the_broker_lost_is_queued_again_from_its_own_folder(
    sweeper: Sweeper, jobs: Jobs, spool: Spool, submit: Submit, own_redis: str
) -> None:
    record = submit()
    write_note(spool, Note(record=record, key="ann:1", fingerprint="f"))
    flush(own_redis)
    sweeper.sweep()
    assert jobs.get(record.job_id) == record
    assert jobs.waiting_messages() == 1
    entry = jobs.recall("ann:1")
    assert entry is not None
    assert (entry.job_id, entry.fingerprint) == (record.job_id, "f")
    sweeper.sweep()
    assert jobs.waiting_messages() == 1
    assert spool.read(record.job_id).classes == ("cat", "dog")


def test_a_broker_that_forgets_does_not_reset_the_attempts(
    sweeper: Sweeper, settings: WorkerSettings, jobs: Jobs, spool: Spool, submit: Submit, own_redis: str,
    stop: threading.Event, process_that: Callable[[str], Sequence[str]],
) -> None:  # fmt: skip
    job_id = submit().job_id
    Supervisor(
        settings, jobs, spool, stop=stop, processes=Processes(settings, command=process_that("sys.exit(1)"))
    ).run(job_id)
    assert jobs.get(job_id).attempts == 1
    flush(own_redis)
    sweeper.sweep()
    assert (jobs.get(job_id).state, jobs.get(job_id).attempts) == (JobState.QUEUED, 1)


def test_the_end_of_a_job_that_the_broker_lost_is_written_and_its_folder_removed(
    sweeper: Sweeper, jobs: Jobs, spool: Spool, submit: Submit, own_redis: str
) -> None:
    record = submit()
    write_note(spool, Note(record=record.model_copy(update={"state": JobState.CANCELLED})))
    flush(own_redis)
    sweeper.sweep()
    assert jobs.get(record.job_id).state == JobState.CANCELLED
    assert jobs.waiting_messages() == 0
    assert not spool.folder(record.job_id).exists()


def test_a_job_that_was_cancelled_and_removed_does_not_come_back(
    sweeper: Sweeper, jobs: Jobs, spool: Spool, submit: Submit, own_redis: str
) -> None:
    job_id = submit().job_id
    jobs.request_cancel(job_id)
    spool.purge(job_id)
    flush(own_redis)
    sweeper.sweep()
    assert jobs.list() == []


def test_folders_of_no_job_are_removed_once_nothing_was_added_for_long_whatever_the_clock_says(
    sweeper: Sweeper, spool: Spool, submit: Submit, clock: Clock
) -> None:
    queued = submit().job_id
    uploading, damaged = new_job_id(), new_job_id()
    writer = spool.create(uploading)
    with spool.create(damaged) as other:
        other.add(0, b"x")
        other.close(["cat"])
    (spool.folder(damaged) / "job.json").write_text("{")
    os.utime(spool.folder(damaged), (0, 0))
    sweeper.sweep()
    clock.now += ABANDONED_AFTER_S - 1
    sweeper.sweep()
    writer.add(0, b"x")
    clock.now += 2
    sweeper.sweep()
    assert set(spool.folders()) == {queued, uploading}
    clock.now += ABANDONED_AFTER_S + 1
    sweeper.sweep()
    assert set(spool.folders()) == {queued}


def test_what_a_server_that_was_killed_over_an_upload_left_is_removed_soon(
    sweeper: Sweeper, spool: Spool, clock: Clock
) -> None:
    killed, written, living = new_job_id(), new_job_id(), new_job_id()
    code = """
import os, pathlib, sys
from exchange.spool import Spool
spool = Spool(pathlib.Path(sys.argv[1]))
spool.create(sys.argv[2]).add(0, b"x")
writer = spool.create(sys.argv[3])
writer.add(0, b"x")
writer.close(["cat"])
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code, str(spool.root), killed, written], timeout=60)
    with spool.create(living) as writer:
        writer.add(0, b"x")
        for elapsed_s in (0, 14):
            clock.now += elapsed_s
            sweeper.sweep()
            assert set(spool.folders()) == {killed, written, living}
        clock.now += 2
        sweeper.sweep()
        assert set(spool.folders()) == {living}
        writer.close(["cat"])
        assert not spool.is_orphaned(living)
    assert not spool.is_orphaned(living)
    assert sorted(path.name for path in spool.folder(living).iterdir()) == ["images", "index.json"]


def test_one_record_that_cannot_be_read_does_not_stop_the_sweep_and_ends_when_it_is_silent(
    sweeper: Sweeper, jobs: Jobs, spool: Spool, submit: Submit, clock: Clock, own_redis: str
) -> None:
    newer, typed, silent = submit().job_id, submit().job_id, submit().job_id
    with redis.Redis.from_url(own_redis) as client:
        client.hset(job_key(newer), "job", '{"written": "by a newer release"}')
        client.delete(job_key(typed))
        client.set(job_key(typed), "no hash")
    drain(jobs)
    jobs.claim(silent, owner="a worker that dies")
    sweeper.sweep()
    assert set(spool.folders()) == {newer, typed, silent}
    clock.now += 16
    sweeper.sweep()
    assert jobs.get(silent).state == JobState.QUEUED
    assert jobs.listing().unreadable[newer]["state"] == "failed"
    sweeper.sweep()
    assert set(spool.folders()) == {silent}


def test_jobs_that_ended_are_not_read_again(sweeper: Sweeper, jobs: Jobs, submit: Submit) -> None:
    jobs.finish(submit().job_id, JobState.CANCELLED)
    sweeper.sweep()
    assert jobs.listing(skip=sweeper._finished).records == []


def test_test_sets_whose_time_is_over_are_removed_once_a_minute(
    sweeper: Sweeper, settings: WorkerSettings, clock: Clock, tmp_path: Path
) -> None:
    (settings.store / "versions").mkdir(parents=True)
    (tmp_path / "1.png").write_bytes(b"an image")
    image = SourceImage(tmp_path / "1.png", 0)
    sets = StoredTestSets(settings.store)

    def store(name: str, lifetime: timedelta) -> None:
        sets.put(name, ("cat",), [image], who="ann", lifetime=lifetime)

    store("over", timedelta(0))
    store("kept", timedelta(days=1))
    sweeper.sweep_test_sets()
    assert [path.stem for path in (settings.store / "test-sets").glob("*.json")] == ["kept"]
    store("over", timedelta(0))
    sweeper.sweep_test_sets()
    assert (settings.store / "test-sets" / "over.json").exists()
    clock.now += TEST_SETS_EVERY_S
    sweeper.sweep_test_sets()
    assert not (settings.store / "test-sets" / "over.json").exists()


def test_a_store_without_test_sets_is_not_touched(sweeper: Sweeper, settings: WorkerSettings) -> None:
    sweeper.sweep_test_sets()
    assert not settings.store.exists()


def test_a_job_that_waits_for_its_instant_version_is_not_sent_past_it(
    sweeper: Sweeper, jobs: Jobs, submit: Submit, clock: Clock
) -> None:
    job_id = submit().job_id
    drain(jobs)
    jobs.ask_instantly(job_id)
    for _ in range(4):
        sweeper.sweep()
        clock.now += 14
    assert jobs.waiting_messages() == 0

    assert jobs.next_instant(0.1) == job_id  # it is being made
    for _ in range(4):
        assert jobs.waiting_heartbeat(job_id)
        sweeper.sweep()
        clock.now += 14
    assert jobs.waiting_messages() == 0

    clock.now += 2  # whoever made it died
    sweeper.sweep()
    assert jobs.waiting_messages() == 1
