from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from exchange.contracts import JobRecord, JobState, new_job_id
from exchange.jobs import Jobs
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool
from tests.waiting import wait_until
from worker.settings import WorkerSettings
from worker.sweeper import Sweeper

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
    listing = jobs.list

    def gone() -> list[JobRecord]:
        monkeypatch.setattr(jobs, "list", listing)
        stop.set()  # one round
        raise BrokerUnavailableError("gone")

    monkeypatch.setattr(jobs, "list", gone)
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
    listing = jobs.list

    def surprise() -> list[JobRecord]:
        monkeypatch.setattr(jobs, "list", listing)
        raise RuntimeError("a surprise")

    monkeypatch.setattr(jobs, "list", surprise)
    thread = Sweeper(settings, jobs, spool, stop=stop).start()
    wait_until(lambda: jobs.get(job_id).state == JobState.QUEUED)
    stop.set()
    thread.join(5)
    assert "a surprise" in caplog.text
