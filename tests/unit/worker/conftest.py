"""A queue, a spool and jobs for tests; and programs that stand in for a job's process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import redis

from exchange.contracts import JobClass, JobRecord, UpdateJob, new_job_id, utc_now
from exchange.jobs import Jobs
from exchange.notes import Note, accept
from exchange.spool import Spool
from worker.settings import WorkerSettings

Submit = Callable[[], JobRecord]


@pytest.fixture
def own_redis(redis_url: str) -> Iterator[str]:
    """The address of an empty data base of this session's server, unlike the other areas'."""
    url = redis_url.removesuffix("/0") + "/7"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):  # sends the message of a job that was put back
                thread.join(5)
        client.flushdb()


@pytest.fixture
def jobs(own_redis: str) -> Iterator[Jobs]:
    jobs = Jobs(own_redis)
    yield jobs
    jobs.close()


@pytest.fixture
def settings(tmp_path: Path, own_redis: str) -> WorkerSettings:
    return WorkerSettings(
        store=tmp_path / "store",
        spool=tmp_path / "spool",
        redis_url=own_redis,
        device="cpu",
        threads=1,
        heartbeat_s=0.05,
        stale_after_s=0.5,
        retry_pause_s=0.05,
        warm=False,
    )


@pytest.fixture
def spool(settings: WorkerSettings) -> Spool:
    return Spool(settings.spool)


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def submit(jobs: Jobs, spool: Spool) -> Submit:
    """Spool two images and queue the job that learns them."""

    def submit_one() -> JobRecord:
        job_id = new_job_id()
        with spool.create(job_id) as writer:
            for label in (0, 1):
                writer.add(label, b"an image", ".png")
            index = writer.close(["cat", "dog"])
        job = UpdateJob(
            job_id=job_id,
            task_name="pets",
            classes=tuple(JobClass(name=name, prompt=f"a photo of a {name}.", images=1) for name in index.classes),
            dataset_digest=index.digest,
            submitted_at=utc_now(),
        )
        record = JobRecord(job=job, created_at=utc_now())
        accept(jobs, spool, Note(record=record))
        return record

    return submit_one


_PROLOGUE = """
import json, os, signal, sys, time
order = json.loads(sys.stdin.readline())
def say(kind, **fields):
    print(json.dumps({"kind": kind, **fields}), flush=True)
def step(phase, step, steps, **losses):
    say("step", phase=phase, step=step, steps=steps, losses=losses)
def ask():
    say("ready")
    assert sys.stdin.readline().strip() == "go"
def done(version="000002-0123456789ab", promoted=True):
    say("done", outcome={"version_id": version, "promoted": promoted})
def fail(kind, message):
    say("failed", error={"kind": kind, "message": message})
"""


@pytest.fixture
def process_that(tmp_path: Path) -> Callable[[str], Sequence[str]]:
    """The command of a program that speaks the protocol of a job's process and does what it is told."""

    def command(body: str) -> Sequence[str]:
        path = tmp_path / "process.py"
        path.write_text(_PROLOGUE + body)
        return (sys.executable, "-I", "-S", str(path))

    return command
