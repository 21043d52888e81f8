from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
from kombu.connection import Connection

from exchange.addresses import celery_url
from exchange.contracts import (
    JOBS_KEY,
    UPDATE_TASK,
    UPDATES_QUEUE,
    JobClass,
    JobError,
    JobProgress,
    JobRecord,
    JobState,
    UpdateJob,
    UpdateOutcome,
    events_channel,
    job_key,
    new_job_id,
    utc_now,
)
from exchange.jobs import JobExistsError, JobNotFoundError, Jobs, JobUnreadableError
from exchange.redis_client import BrokerUnavailableError

OUTCOME = UpdateOutcome(version_id="000002-0123456789ab", promoted=True)


@pytest.fixture
def url(redis_url: str) -> str:
    return redis_url.removesuffix("/0") + "/6"


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def jobs(url: str, client: redis.Redis) -> Iterator[Jobs]:
    jobs = Jobs(url)
    yield jobs
    jobs.close()


def a_record() -> JobRecord:
    job = UpdateJob(
        job_id=new_job_id(),
        task_name="pets",
        classes=(JobClass(name="cat", prompt="a photo of a cat.", images=3),),
        dataset_digest="d" * 64,
        submitted_at=utc_now(),
    )
    return JobRecord(job=job, created_at=utc_now())


def created(jobs: Jobs) -> str:
    record = a_record()
    jobs.create(record)
    return record.job_id


def running(jobs: Jobs, owner: str = "me") -> str:
    job_id = created(jobs)
    assert jobs.claim(job_id, owner=owner) is None
    return job_id


def progress(step: int = 1) -> JobProgress:
    return JobProgress(phase="train", step=step, steps=10, updated_at=utc_now())


def test_a_created_job_can_be_read_and_listed_newest_first(jobs: Jobs) -> None:
    records = [a_record() for _ in range(3)]
    for record in records:
        jobs.create(record)
    assert jobs.get(records[0].job_id) == records[0]
    assert jobs.list() == records[::-1]


def test_an_id_is_given_once(jobs: Jobs) -> None:
    record = a_record()
    jobs.create(record)
    with pytest.raises(JobExistsError, match=record.job_id):
        jobs.create(record.model_copy(update={"attempts": 1}))


def test_an_unknown_job_is_an_error(jobs: Jobs) -> None:
    with pytest.raises(JobNotFoundError):
        jobs.get("nobody")
    with pytest.raises(JobNotFoundError):
        jobs.request_cancel("nobody")
    with pytest.raises(JobNotFoundError):
        jobs.claim("nobody", owner="me")


def test_jobs_whose_records_expired_leave_the_list(jobs: Jobs, client: redis.Redis) -> None:
    job_id, other = created(jobs), created(jobs)
    client.delete(job_key(job_id))
    assert [record.job_id for record in jobs.list()] == [other]
    assert client.zrange(JOBS_KEY, 0, -1) == [other]


def test_the_message_names_the_task_and_carries_the_id_only(jobs: Jobs, client: redis.Redis) -> None:
    record = a_record()
    jobs.create(record)
    jobs.send_update(record.job_id)
    assert jobs.waiting_messages() == 1
    message = json.loads(str(client.lindex(UPDATES_QUEUE, 0)))
    assert message["headers"]["task"] == UPDATE_TASK
    assert message["content-type"] == "application/json"
    assert record.job_id in message["headers"]["argsrepr"]


def test_what_can_wait_is_taken_when_no_update_waits(jobs: Jobs, url: str) -> None:
    first, second = new_job_id(), new_job_id()
    jobs.send_update(first, later=True)
    assert (jobs.waiting_messages(), jobs.update_waits()) == (1, False)
    jobs.send_update(second)
    assert (jobs.waiting_messages(), jobs.update_waits()) == (2, True)
    with Connection(celery_url(url)) as connection, connection.SimpleQueue(UPDATES_QUEUE) as queue:  # type: ignore[no-untyped-call]
        taken = [queue.get(block=False) for _ in range(2)]
        assert [message.payload[0][0] for message in taken] == [second, first]
        for message in taken:
            message.ack()


def test_an_evaluation_can_wait_and_a_task_cannot(jobs: Jobs) -> None:
    task = a_record()
    job = UpdateJob(
        job_id=new_job_id(), task_name="e", evaluates=("000001-0123456789ab",), submitted_at=task.created_at
    )
    jobs.send(JobRecord(job=job, created_at=task.created_at))
    assert (jobs.waiting_messages(), jobs.update_waits()) == (1, False)
    jobs.send(task)
    assert jobs.update_waits()


def test_a_job_is_claimed_once(jobs: Jobs) -> None:
    job_id = created(jobs)
    answers: list[JobState | None] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(jobs.claim(job_id, owner=f"worker {n}"))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(None) == 1
    assert answers.count(JobState.RUNNING) == 7
    record = jobs.get(job_id)
    assert (record.state, record.attempts) == (JobState.RUNNING, 1)
    assert record.started_at is not None


def test_a_claim_whose_answer_was_lost_can_be_repeated(jobs: Jobs) -> None:
    job_id = running(jobs, "me")
    assert jobs.claim(job_id, owner="me") is None
    assert jobs.get(job_id).attempts == 1


def test_only_the_owner_writes_progress(jobs: Jobs) -> None:
    job_id = running(jobs, "me")
    assert jobs.save_progress(job_id, progress(3), owner="me")
    assert not jobs.save_progress(job_id, progress(9), owner="you")
    assert not jobs.heartbeat(job_id, owner="you")
    saved = jobs.get(job_id).progress
    assert saved is not None
    assert saved.step == 3


def test_every_sign_of_life_differs(jobs: Jobs) -> None:
    job_id = running(jobs)
    beats = [jobs.get(job_id).heartbeat]
    assert jobs.heartbeat(job_id, owner="me")
    beats.append(jobs.get(job_id).heartbeat)
    assert jobs.save_progress(job_id, progress(), owner="me")
    beats.append(jobs.get(job_id).heartbeat)
    assert len(set(beats)) == 3


def test_a_queued_job_is_cancelled_at_once(jobs: Jobs) -> None:
    job_id = created(jobs)
    record = jobs.request_cancel(job_id)
    assert record.state == JobState.CANCELLED
    assert record.finished_at is not None
    assert jobs.claim(job_id, owner="me") == JobState.CANCELLED


def test_a_running_job_is_asked_to_stop(jobs: Jobs) -> None:
    job_id = running(jobs)
    assert not jobs.cancel_requested(job_id)
    assert jobs.request_cancel(job_id).state == JobState.RUNNING
    assert jobs.cancel_requested(job_id)


def test_a_job_that_is_to_be_run_again_is_cancelled_by_a_worker(jobs: Jobs) -> None:
    job_id = running(jobs)
    assert jobs.requeue(job_id)
    record = jobs.request_cancel(job_id)
    assert (record.state, record.cancel_requested) == (JobState.QUEUED, True)


def test_a_final_state_stays(jobs: Jobs) -> None:
    job_id = running(jobs)
    assert jobs.finish(job_id, JobState.SUCCEEDED, outcome=OUTCOME)
    before = jobs.get(job_id)
    assert not jobs.finish(job_id, JobState.FAILED, error=JobError(kind="E", message="late"))
    assert not jobs.requeue(job_id)
    assert not jobs.heartbeat(job_id, owner="me")
    assert not jobs.save_progress(job_id, progress(), owner="me")
    assert jobs.request_cancel(job_id) == before
    assert jobs.get(job_id) == before
    assert before.outcome == OUTCOME


def test_records_of_finished_jobs_expire_and_others_do_not(jobs: Jobs, client: redis.Redis) -> None:
    finished, cancelled, open_job = running(jobs), created(jobs), running(jobs)
    jobs.finish(finished, JobState.FAILED, error=JobError(kind="E", message="no"))
    jobs.request_cancel(cancelled)
    assert client.ttl(job_key(finished)) > 0
    assert client.ttl(job_key(cancelled)) > 0
    assert client.ttl(job_key(open_job)) == -1


def test_requeueing_needs_the_owner_and_heartbeat_that_were_seen(jobs: Jobs) -> None:
    job_id = running(jobs, "me")
    heartbeat = jobs.get(job_id).heartbeat
    assert not jobs.requeue(job_id, owner="you")
    assert not jobs.requeue(job_id, heartbeat="another")
    assert jobs.requeue(job_id, owner="me", heartbeat=heartbeat)
    record = jobs.get(job_id)
    assert (record.state, record.attempts, record.owner, record.progress) == (JobState.QUEUED, 1, None, None)


def test_an_attempt_may_be_given_back(jobs: Jobs) -> None:
    job_id = running(jobs)
    assert jobs.requeue(job_id, counts=False)
    assert jobs.get(job_id).attempts == 0


def test_changes_are_published_on_the_jobs_channel(jobs: Jobs, client: redis.Redis) -> None:
    job_id = created(jobs)
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:  # type: ignore[no-untyped-call]
        pubsub.subscribe(events_channel(job_id))
        pubsub.get_message(timeout=1)
        jobs.claim(job_id, owner="me")
        jobs.save_progress(job_id, progress(), owner="me")
        jobs.request_cancel(job_id)
        jobs.finish(job_id, JobState.CANCELLED)
        heard = [pubsub.get_message(timeout=1)["data"] for _ in range(4)]
    assert heard == ["state", "progress", "state", "state"]


def test_an_idempotency_key_belongs_to_the_first(jobs: Jobs) -> None:
    assert jobs.recall("key") is None
    assert jobs.remember("key", "first", fingerprint="f").job_id == "first"
    assert jobs.remember("key", "second").job_id == "first"
    entry = jobs.recall("key")
    assert entry is not None
    assert (entry.job_id, entry.fingerprint) == ("first", "f")
    jobs.forget("key")
    assert jobs.remember("key", "second").job_id == "second"


def test_everything_says_so_soon_when_redis_is_gone() -> None:
    jobs = Jobs("redis://127.0.0.1:1/0", timeout_s=0.5)
    job_id = new_job_id()
    calls: list[Callable[[], object]] = [
        jobs.ping,
        jobs.list,
        jobs.waiting_messages,
        lambda: jobs.create(a_record()),
        lambda: jobs.send_update(job_id),
        lambda: jobs.get(job_id),
        lambda: jobs.claim(job_id, owner="me"),
        lambda: jobs.save_progress(job_id, progress(), owner="me"),
        lambda: jobs.finish(job_id, JobState.CANCELLED),
        lambda: jobs.request_cancel(job_id),
        lambda: jobs.remember("key", job_id),
        lambda: jobs.recall("key"),
    ]
    begun = time.monotonic()
    for call in calls:
        with pytest.raises(BrokerUnavailableError, match="the broker does not answer"):
            call()
    assert time.monotonic() - begun < 5


def test_a_connection_that_the_broker_cut_is_made_again(jobs: Jobs, client: redis.Redis) -> None:
    jobs.ping()
    jobs.send_update(new_job_id())
    client.client_kill_filter(_type="normal", skipme=True)
    jobs.send_update(new_job_id())
    jobs.ping()
    assert jobs.waiting_messages() == 2


def test_a_job_that_is_stored_twice_because_its_answer_was_lost_is_stored_once(jobs: Jobs) -> None:
    record = a_record()
    jobs.create(record)
    jobs.create(record)
    assert jobs.list() == [record]


def test_a_record_that_is_stored_with_its_end_expires(jobs: Jobs, client: redis.Redis) -> None:
    record = a_record().model_copy(update={"state": JobState.SUCCEEDED})
    jobs.create(record)
    assert client.ttl(job_key(record.job_id)) > 0


def test_records_that_cannot_be_read_stay_listed_apart(jobs: Jobs, client: redis.Redis) -> None:
    good, newer, other = created(jobs), created(jobs), created(jobs)
    client.hset(job_key(newer), "job", '{"written": "by a newer release"}')
    client.delete(job_key(other))
    client.set(job_key(other), "no hash at all")
    listing = jobs.listing()
    assert [record.job_id for record in listing.records] == [good]
    assert set(listing.unreadable) == {newer, other}
    assert listing.unreadable[newer]["state"] == "queued"
    assert set(client.zrange(JOBS_KEY, 0, -1)) == {good, newer, other}
    for job_id in (newer, other):
        with pytest.raises(JobUnreadableError, match="cannot be read by this release"):
            jobs.get(job_id)
    jobs.discard(other)
    assert set(jobs.listing().unreadable) == {newer}


def test_jobs_are_listed_in_pages_and_in_few_round_trips(
    jobs: Jobs, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exchange.jobs._PAGE", 3)
    ids = [created(jobs) for _ in range(8)][::-1]
    before = client.info("stats")["total_reads_processed"]
    assert [record.job_id for record in jobs.list()] == ids
    assert client.info("stats")["total_reads_processed"] - before <= 10
    first = jobs.listing(limit=5)
    assert ([r.job_id for r in first.records], first.more) == (ids[:5], True)
    second = jobs.listing(limit=5, before=ids[4])
    assert ([r.job_id for r in second.records], second.more) == (ids[5:], False)
    assert [r.job_id for r in jobs.listing(skip=ids[:7]).records] == ids[7:]
    with pytest.raises(JobNotFoundError):
        jobs.listing(before=new_job_id())


@pytest.mark.parametrize("page", [2, 3, 200])
def test_a_job_that_comes_while_jobs_are_listed_repeats_none_and_one_that_expired_hides_none(
    jobs: Jobs, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    ids = [created(jobs) for _ in range(7)][::-1]
    client.delete(job_key(ids[1]))
    monkeypatch.setattr("exchange.jobs._PAGE", page)
    read = jobs._fields

    def interrupted(wanted: Sequence[str]) -> Any:
        created(jobs)
        return read(wanted)

    monkeypatch.setattr(jobs, "_fields", interrupted)
    assert [record.job_id for record in jobs.list()] == [ids[0], *ids[2:]]
    assert client.zrank(JOBS_KEY, ids[1]) is None
