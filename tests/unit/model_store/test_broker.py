from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from model_store.broker import Broker, JobExistsError, JobNotFoundError
from model_store.contracts import (
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
from model_store.redis_client import BrokerUnavailableError

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
def broker(url: str, client: redis.Redis) -> Iterator[Broker]:
    broker = Broker(url)
    yield broker
    broker.close()


def a_record() -> JobRecord:
    job = UpdateJob(
        job_id=new_job_id(),
        task_name="pets",
        classes=(JobClass(name="cat", prompt="a photo of a cat.", images=3),),
        dataset_digest="d" * 64,
        submitted_at=utc_now(),
    )
    return JobRecord(job=job, created_at=utc_now())


def created(broker: Broker) -> str:
    record = a_record()
    broker.create(record)
    return record.job_id


def running(broker: Broker, owner: str = "me") -> str:
    job_id = created(broker)
    assert broker.claim(job_id, owner=owner) is None
    return job_id


def progress(step: int = 1) -> JobProgress:
    return JobProgress(phase="train", step=step, steps=10, updated_at=utc_now())


def test_a_created_job_can_be_read_and_listed_newest_first(broker: Broker) -> None:
    records = [a_record() for _ in range(3)]
    for record in records:
        broker.create(record)
    assert broker.get(records[0].job_id) == records[0]
    assert broker.list() == records[::-1]


def test_an_id_is_given_once(broker: Broker) -> None:
    record = a_record()
    broker.create(record)
    with pytest.raises(JobExistsError, match=record.job_id):
        broker.create(record)


def test_an_unknown_job_is_an_error(broker: Broker) -> None:
    with pytest.raises(JobNotFoundError):
        broker.get("nobody")
    with pytest.raises(JobNotFoundError):
        broker.request_cancel("nobody")
    with pytest.raises(JobNotFoundError):
        broker.claim("nobody", owner="me")


def test_jobs_whose_records_expired_leave_the_list(broker: Broker, client: redis.Redis) -> None:
    job_id, other = created(broker), created(broker)
    client.delete(job_key(job_id))
    assert [record.job_id for record in broker.list()] == [other]
    assert client.zrange(JOBS_KEY, 0, -1) == [other]


def test_the_message_names_the_task_and_carries_the_id_only(broker: Broker, client: redis.Redis) -> None:
    record = a_record()
    broker.submit(record)
    assert broker.waiting_messages() == 1
    message = json.loads(str(client.lindex(UPDATES_QUEUE, 0)))
    assert message["headers"]["task"] == UPDATE_TASK
    assert message["content-type"] == "application/json"
    assert record.job_id in message["headers"]["argsrepr"]


def test_a_job_is_claimed_once(broker: Broker) -> None:
    job_id = created(broker)
    answers: list[JobState | None] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(broker.claim(job_id, owner=f"worker {n}"))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(None) == 1
    assert answers.count(JobState.RUNNING) == 7
    record = broker.get(job_id)
    assert (record.state, record.attempts) == (JobState.RUNNING, 1)
    assert record.started_at is not None


def test_a_claim_whose_answer_was_lost_can_be_repeated(broker: Broker) -> None:
    job_id = running(broker, "me")
    assert broker.claim(job_id, owner="me") is None
    assert broker.get(job_id).attempts == 1


def test_only_the_owner_writes_progress(broker: Broker) -> None:
    job_id = running(broker, "me")
    assert broker.save_progress(job_id, progress(3), owner="me")
    assert not broker.save_progress(job_id, progress(9), owner="you")
    assert not broker.heartbeat(job_id, owner="you")
    saved = broker.get(job_id).progress
    assert saved is not None
    assert saved.step == 3


def test_every_sign_of_life_differs(broker: Broker) -> None:
    job_id = running(broker)
    beats = [broker.get(job_id).heartbeat]
    assert broker.heartbeat(job_id, owner="me")
    beats.append(broker.get(job_id).heartbeat)
    assert broker.save_progress(job_id, progress(), owner="me")
    beats.append(broker.get(job_id).heartbeat)
    assert len(set(beats)) == 3


def test_a_queued_job_is_cancelled_at_once(broker: Broker) -> None:
    job_id = created(broker)
    record = broker.request_cancel(job_id)
    assert record.state == JobState.CANCELLED
    assert record.finished_at is not None
    assert broker.claim(job_id, owner="me") == JobState.CANCELLED


def test_a_running_job_is_asked_to_stop(broker: Broker) -> None:
    job_id = running(broker)
    assert not broker.cancel_requested(job_id)
    assert broker.request_cancel(job_id).state == JobState.RUNNING
    assert broker.cancel_requested(job_id)


def test_a_job_that_is_to_be_run_again_is_cancelled_by_a_worker(broker: Broker) -> None:
    job_id = running(broker)
    assert broker.requeue(job_id)
    record = broker.request_cancel(job_id)
    assert (record.state, record.cancel_requested) == (JobState.QUEUED, True)


def test_a_final_state_stays(broker: Broker) -> None:
    job_id = running(broker)
    assert broker.finish(job_id, JobState.SUCCEEDED, outcome=OUTCOME)
    before = broker.get(job_id)
    assert not broker.finish(job_id, JobState.FAILED, error=JobError(kind="E", message="late"))
    assert not broker.requeue(job_id)
    assert not broker.heartbeat(job_id, owner="me")
    assert not broker.save_progress(job_id, progress(), owner="me")
    assert broker.request_cancel(job_id) == before
    assert broker.get(job_id) == before
    assert before.outcome == OUTCOME


def test_records_of_finished_jobs_expire_and_others_do_not(broker: Broker, client: redis.Redis) -> None:
    finished, cancelled, open_job = running(broker), created(broker), running(broker)
    broker.finish(finished, JobState.FAILED, error=JobError(kind="E", message="no"))
    broker.request_cancel(cancelled)
    assert client.ttl(job_key(finished)) > 0
    assert client.ttl(job_key(cancelled)) > 0
    assert client.ttl(job_key(open_job)) == -1


def test_requeueing_needs_the_owner_and_heartbeat_that_were_seen(broker: Broker) -> None:
    job_id = running(broker, "me")
    heartbeat = broker.get(job_id).heartbeat
    assert not broker.requeue(job_id, owner="you")
    assert not broker.requeue(job_id, heartbeat="another")
    assert broker.requeue(job_id, owner="me", heartbeat=heartbeat)
    record = broker.get(job_id)
    assert (record.state, record.attempts, record.owner, record.progress) == (JobState.QUEUED, 1, None, None)


def test_an_attempt_may_be_given_back(broker: Broker) -> None:
    job_id = running(broker)
    assert broker.requeue(job_id, counts=False)
    assert broker.get(job_id).attempts == 0


def test_changes_are_published_on_the_jobs_channel(broker: Broker, client: redis.Redis) -> None:
    job_id = created(broker)
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:  # type: ignore[no-untyped-call]
        pubsub.subscribe(events_channel(job_id))
        pubsub.get_message(timeout=1)
        broker.claim(job_id, owner="me")
        broker.save_progress(job_id, progress(), owner="me")
        broker.request_cancel(job_id)
        broker.finish(job_id, JobState.CANCELLED)
        heard = [pubsub.get_message(timeout=1)["data"] for _ in range(4)]
    assert heard == ["state", "progress", "state", "state"]


def test_an_idempotency_key_belongs_to_the_first(broker: Broker) -> None:
    assert broker.recall("key") is None
    assert broker.remember("key", "first", fingerprint="f").job_id == "first"
    assert broker.remember("key", "second").job_id == "first"
    entry = broker.recall("key")
    assert entry is not None
    assert (entry.job_id, entry.fingerprint) == ("first", "f")
    broker.forget("key")
    assert broker.remember("key", "second").job_id == "second"


def test_announcements_are_heard(broker: Broker) -> None:
    heard: list[str] = []
    listening = threading.Event()

    def stop() -> bool:
        listening.set()
        return bool(heard)

    thread = threading.Thread(target=broker.listen_current, args=(heard.append,), kwargs={"stop": stop})
    thread.start()
    assert listening.wait(5)
    broker.announce_current("000002-0123456789ab")
    thread.join(5)
    assert heard == ["000002-0123456789ab"]


def test_everything_says_so_soon_when_redis_is_gone() -> None:
    broker = Broker("redis://127.0.0.1:1/0", timeout_s=0.5)
    job_id = new_job_id()
    calls: list[Callable[[], object]] = [
        broker.ping,
        broker.list,
        broker.waiting_messages,
        lambda: broker.submit(a_record()),
        lambda: broker.send_update(job_id),
        lambda: broker.get(job_id),
        lambda: broker.claim(job_id, owner="me"),
        lambda: broker.save_progress(job_id, progress(), owner="me"),
        lambda: broker.finish(job_id, JobState.CANCELLED),
        lambda: broker.request_cancel(job_id),
        lambda: broker.remember("key", job_id),
        lambda: broker.recall("key"),
        lambda: broker.announce_current("v"),
        lambda: broker.listen_current(print, stop=lambda: False),
    ]
    begun = time.monotonic()
    for call in calls:
        with pytest.raises(BrokerUnavailableError, match="Redis does not answer"):
            call()
    assert time.monotonic() - begun < 5


def test_a_job_whose_message_cannot_be_sent_is_taken_back(
    broker: Broker, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job_id: str) -> None:
        raise BrokerUnavailableError("gone")

    monkeypatch.setattr(broker, "send_update", fail)
    with pytest.raises(BrokerUnavailableError):
        broker.submit(a_record())
    assert broker.list() == []
    assert client.keys("keepsight:job:*") == []
