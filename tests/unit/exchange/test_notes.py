"""A job outlives a broker that fails or forgets, from the moment it is accepted."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from exchange.contracts import JobRecord, JobState, job_key, new_job_id
from exchange.jobs import JobNotFoundError, Jobs, JobUnreadableError
from exchange.notes import Note, accept, find, note_attempt, read_note, restore, write_note
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool, SpoolError
from tests.broker_proxy import REPLIES, BrokerProxy, to
from tests.unit.exchange.test_jobs import a_record


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url.removesuffix("/0") + "/9", decode_responses=True) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def proxy(redis_url: str, client: redis.Redis) -> Iterator[BrokerProxy]:
    with BrokerProxy(redis_url.removesuffix("/0") + "/9") as proxy:
        yield proxy


@pytest.fixture
def jobs(proxy: BrokerProxy) -> Iterator[Jobs]:
    jobs = Jobs(proxy.url, timeout_s=1.0)
    yield jobs
    jobs.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def spooled(spool: Spool) -> JobRecord:
    record = a_record()
    with spool.create(record.job_id) as writer:
        writer.add(0, b"an image")
        writer.close(["cat"])
    return record


def test_an_accepted_job_is_in_the_broker_and_in_the_spool(jobs: Jobs, spool: Spool) -> None:
    note = Note(record=spooled(spool), key="ann:1", fingerprint="f")
    accept(jobs, spool, note)
    assert jobs.get(note.record.job_id) == note.record
    assert read_note(spool, note.record.job_id) == note
    assert jobs.waiting_messages() == 1


@pytest.mark.parametrize("trouble", ["OOM", "READONLY", "MISCONF", "in a script, old"])
def test_a_job_that_the_broker_refuses_is_not_accepted_and_does_not_come_back(
    proxy: BrokerProxy, jobs: Jobs, spool: Spool, client: redis.Redis, trouble: str
) -> None:
    record = spooled(spool)
    proxy.fault = to(REPLIES[trouble], "EVAL")
    with pytest.raises(BrokerUnavailableError):
        accept(jobs, spool, Note(record=record))
    assert read_note(spool, record.job_id) is None
    assert client.keys() == []


def test_a_job_whose_worker_cannot_be_woken_is_accepted_all_the_same(
    proxy: BrokerProxy, jobs: Jobs, spool: Spool
) -> None:
    record = spooled(spool)
    proxy.fault = to(REPLIES["OOM"], "LPUSH")
    accept(jobs, spool, Note(record=record))
    assert jobs.get(record.job_id) == record
    assert jobs.waiting_messages() == 0


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_job_that_cannot_be_noted_is_not_accepted(
    jobs: Jobs, spool: Spool, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    record = spooled(spool)
    jobs.ping()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        if call == "fsync":
            patched.setattr(os, "fsync", full)
        else:
            patched.setattr(Path, "open" if call == "write" else "replace", full)
        with pytest.raises(OSError, match="No space"):
            accept(jobs, spool, Note(record=record))
    assert {path.name for path in spool.folder(record.job_id).iterdir()} == {"images", "index.json"}
    assert client.keys() == []


def test_a_job_that_the_broker_lost_is_found_and_its_key_still_belongs_to_it(
    jobs: Jobs, spool: Spool, client: redis.Redis
) -> None:
    note = Note(record=spooled(spool), key="ann:1", fingerprint="f")
    accept(jobs, spool, note)
    client.flushdb()
    assert find(jobs, spool, note.record.job_id) == note.record
    assert find(jobs, spool, note.record.job_id) == note.record
    assert jobs.waiting_messages() == 1
    entry = jobs.recall("ann:1")
    assert entry is not None
    assert entry.job_id == note.record.job_id


def test_attempts_are_counted_in_the_note_and_its_key_is_kept(jobs: Jobs, spool: Spool, client: redis.Redis) -> None:
    note = Note(record=spooled(spool), key="ann:1", fingerprint="f")
    accept(jobs, spool, note)
    jobs.claim(note.record.job_id, owner="me")
    note_attempt(spool, jobs.get(note.record.job_id))
    client.flushdb()
    restored = restore(jobs, spool, note.record.job_id)
    assert restored is not None
    assert (restored.state, restored.attempts, restored.owner) == (JobState.QUEUED, 1, None)
    assert jobs.recall("ann:1") is not None


def test_a_job_without_a_note_is_not_made_up(jobs: Jobs, spool: Spool, client: redis.Redis) -> None:
    record = spooled(spool)
    for job_id in (record.job_id, new_job_id(), "nope", "../../etc/passwd"):
        with pytest.raises(JobNotFoundError):
            find(jobs, spool, job_id)
    jobs.create(record)
    client.hset(job_key(record.job_id), "job", "{}")
    write_note(spool, Note(record=record))
    with pytest.raises(JobUnreadableError):
        find(jobs, spool, record.job_id)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"record": {"job": {"from": "a newer release"}}}'])
def test_a_note_that_cannot_be_read_is_told(jobs: Jobs, spool: Spool, content: bytes) -> None:
    record = spooled(spool)
    (spool.folder(record.job_id) / "job.json").write_bytes(content)
    with pytest.raises(SpoolError, match="cannot be read by this release"):
        restore(jobs, spool, record.job_id)
    with pytest.raises(JobNotFoundError):
        find(jobs, spool, record.job_id)


def test_a_note_of_another_job_restores_nothing(jobs: Jobs, spool: Spool) -> None:
    record, other = spooled(spool), spooled(spool)
    write_note(spool, Note(record=record))
    (spool.folder(record.job_id) / "job.json").rename(spool.folder(other.job_id) / "job.json")
    with pytest.raises(SpoolError, match="is that of job"):
        restore(jobs, spool, other.job_id)
