"""A real worker goes on taking messages after a broker that answered with errors, and after messages that are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from exchange.contracts import UPDATES_QUEUE, new_job_id
from exchange.jobs import Jobs
from tests.valkey import a_valkey
from tests.waiting import wait_until


@dataclass(frozen=True)
class Site:
    """A broker and a worker of its own, with no job at all."""

    broker: redis.Redis
    jobs: Jobs
    worker: subprocess.Popen[bytes]
    log: Path

    def takes_messages(self) -> bool:
        """Send a message and wait until the worker has handled it."""
        job_id = new_job_id()
        self.jobs.send_update(job_id)

        def handled() -> bool:
            assert self.worker.poll() is None, self.log.read_text()[-3000:]
            return f"job_id={job_id} a message names a job" in self.log.read_text()

        return wait_until(handled, 90, explain=lambda: self.log.read_text()[-3000:])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("trouble")
    with a_valkey(root / "valkey") as server:
        url, log = f"redis://127.0.0.1:{server.port}/0", root / "worker.log"
        environment = {
            **os.environ,
            "KEEPSIGHT_STORE": str(root / "store"),
            "KEEPSIGHT_SPOOL": str(root / "spool"),
            "KEEPSIGHT_REDIS_URL": url,
            "KEEPSIGHT_DEVICE": "cpu",
        }
        with log.open("wb") as output:
            worker = subprocess.Popen(
                (sys.executable, "-m", "worker"), env=environment, stdout=output, stderr=output, start_new_session=True
            )
        broker, jobs = redis.Redis.from_url(url), Jobs(url)
        try:
            yield Site(broker, jobs, worker, log)
        finally:
            worker.kill()
            worker.wait()
            jobs.close()
            broker.close()


def message(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_messages_that_are_none_are_dropped_and_the_worker_goes_on(site: Site) -> None:
    assert site.takes_messages()
    bodies = [b"no json", b"\xff\xfe\x00", b"7", b"null", b"[]", b"{}", message(body="x")]
    bodies.append(message(body="x", properties=7, headers={}))
    properties = {"delivery_tag": "t", "body_encoding": "base64", "delivery_info": {"routing_key": UPDATES_QUEUE}}
    for headers in ({"task": "no.such.task", "id": "a"}, {}, {"task": "keepsight.update", "id": "b"}):
        bodies.append(
            message(
                body="bm90IGpzb24=",
                properties=properties,
                headers=headers,
                **{"content-type": "application/json", "content-encoding": "utf-8"},
            )
        )
    for body in bodies:
        site.broker.lpush(UPDATES_QUEUE, body)
    assert site.takes_messages()


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 3", "CONFIG SET min-replicas-to-write 0"),
        ("ACL SETUSER default -brpop -zadd", "ACL SETUSER default +@all"),
    ],
)
def test_a_broker_that_answers_with_errors_for_a_while_does_not_end_the_worker(
    site: Site, begin: str, end: str
) -> None:
    assert site.takes_messages()
    site.broker.execute_command(*begin.split())  # type: ignore[no-untyped-call]
    site.broker.client_kill_filter(_type="normal", skipme=True)
    time.sleep(3)  # the worker meets it
    site.broker.execute_command(*end.split())  # type: ignore[no-untyped-call]
    assert site.takes_messages()
