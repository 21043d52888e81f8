from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from model_store.broker import Broker
from model_store.contracts import JobRecord, JobState, new_job_id
from model_store.redis_client import BrokerUnavailableError
from model_store.spool import Spool
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
def sweeper(settings: WorkerSettings, broker: Broker, spool: Spool, stop: threading.Event, clock: Clock) -> Sweeper:
    patient = settings.model_copy(update={"stale_after_s": 15.0})
    return Sweeper(patient, broker, spool, stop=stop, clock=clock)


def drain(broker: Broker) -> None:
    """Take all messages away, as a worker that died with them would."""
    broker._redis.delete("updates")


def test_a_silent_job_is_queued_again(sweeper: Sweeper, broker: Broker, submit: Submit, clock: Clock) -> None:
    job_id = submit().job_id
    drain(broker)
    broker.claim(job_id, owner="a worker that dies")
    sweeper.sweep()
    clock.now += 14
    sweeper.sweep()
    assert broker.get(job_id).state == JobState.RUNNING
    clock.now += 2
    sweeper.sweep()
    assert broker.get(job_id).state == JobState.QUEUED
    assert broker.get(job_id).attempts == 1
    assert broker.waiting_messages() == 1


def test_a_job_that_beats_is_left_alone(sweeper: Sweeper, broker: Broker, submit: Submit, clock: Clock) -> None:
    job_id = submit().job_id
    broker.claim(job_id, owner="me")
    for _ in range(4):
        sweeper.sweep()
        clock.now += 14
        broker.heartbeat(job_id, owner="me")
    assert broker.get(job_id).state == JobState.RUNNING


def test_silence_during_an_outage_does_not_count(
    sweeper: Sweeper,
    broker: Broker,
    submit: Submit,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    stop: threading.Event,
) -> None:
    job_id = submit().job_id
    broker.claim(job_id, owner="me")
    sweeper.sweep()
    listing = broker.list

    def gone() -> list[JobRecord]:
        monkeypatch.setattr(broker, "list", listing)
        stop.set()  # one round
        raise BrokerUnavailableError("gone")

    monkeypatch.setattr(broker, "list", gone)
    thread = sweeper.start()
    thread.join(5)
    clock.now += 16
    sweeper.sweep()
    assert broker.get(job_id).state == JobState.RUNNING


def test_a_queued_job_without_a_message_gets_one(
    sweeper: Sweeper, broker: Broker, submit: Submit, clock: Clock
) -> None:
    submit()
    drain(broker)
    sweeper.sweep()
    assert broker.waiting_messages() == 0
    clock.now += 16
    sweeper.sweep()
    assert broker.waiting_messages() == 1


def test_a_queued_job_whose_message_waits_is_not_sent_twice(
    sweeper: Sweeper, broker: Broker, submit: Submit, clock: Clock
) -> None:
    submit()
    sweeper.sweep()
    clock.now += 100
    sweeper.sweep()
    assert broker.waiting_messages() == 1


def test_images_of_finished_jobs_are_removed_and_others_kept(
    sweeper: Sweeper, broker: Broker, spool: Spool, submit: Submit
) -> None:
    finished, queued = submit().job_id, submit().job_id
    broker.finish(finished, JobState.CANCELLED)
    unknown = new_job_id()
    with spool.create(unknown) as writer:
        writer.add(0, b"x")
        writer.close(["cat"])
    sweeper.sweep()
    assert {path.name for path in spool.root.iterdir()} == {queued, unknown}


def test_the_thread_sweeps_again_and_again_and_survives_surprises(
    settings: WorkerSettings,
    broker: Broker,
    spool: Spool,
    submit: Submit,
    stop: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job_id = submit().job_id
    drain(broker)
    broker.claim(job_id, owner="a worker that dies")
    listing = broker.list

    def surprise() -> list[JobRecord]:
        monkeypatch.setattr(broker, "list", listing)
        raise RuntimeError("a surprise")

    monkeypatch.setattr(broker, "list", surprise)
    thread = Sweeper(settings, broker, spool, stop=stop).start()
    deadline = time.monotonic() + 10
    while broker.get(job_id).state != JobState.QUEUED and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    thread.join(5)
    assert broker.get(job_id).state == JobState.QUEUED
    assert "a surprise" in caplog.text
