"""A broker that answers with its own trouble counts as gone; a mistake of ours does not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.connection import UnixDomainSocketConnection

from exchange.announcements import Announcements
from exchange.contracts import JobState, new_job_id
from exchange.jobs import Jobs
from exchange.redis_client import BrokerUnavailableError, why_unavailable
from exchange.rollout import Limits, move_current
from exchange.roster import Roster
from tests.broker_proxy import OUR_MISTAKES, REPLIES, BrokerProxy, always, to
from tests.unit.exchange.test_jobs import a_record


@pytest.fixture
def proxy(redis_url: str) -> Iterator[BrokerProxy]:
    with BrokerProxy(redis_url.removesuffix("/0") + "/6") as proxy:
        yield proxy


@pytest.fixture
def jobs(proxy: BrokerProxy) -> Iterator[Jobs]:
    jobs = Jobs(proxy.url, timeout_s=1.0)
    yield jobs
    jobs.close()


def calls_of(jobs: Jobs) -> list[Callable[[], object]]:
    job_id = new_job_id()
    return [
        jobs.ping,
        jobs.list,
        jobs.waiting_messages,
        lambda: jobs.create(a_record()),
        lambda: jobs.send_update(job_id),
        lambda: jobs.get(job_id),
        lambda: jobs.claim(job_id, owner="me"),
        lambda: jobs.finish(job_id, JobState.CANCELLED),
        lambda: jobs.request_cancel(job_id),
        lambda: jobs.remember("key", job_id),
        lambda: jobs.recall("key"),
    ]


@pytest.mark.parametrize("trouble", REPLIES)
@pytest.mark.parametrize("connected", [True, False])
def test_every_call_takes_a_broker_in_trouble_for_gone(
    proxy: BrokerProxy, jobs: Jobs, trouble: str, connected: bool
) -> None:
    if connected:
        jobs.ping()
        jobs.waiting_messages()
    proxy.fault = always(REPLIES[trouble])
    for call in calls_of(jobs):
        with pytest.raises(BrokerUnavailableError, match=r"the broker (does not answer|answers with an error)"):
            call()
    proxy.fault = None
    jobs.ping()


@pytest.mark.parametrize("mistake", OUR_MISTAKES)
def test_a_mistake_of_ours_stays_an_error(proxy: BrokerProxy, jobs: Jobs, mistake: str) -> None:
    proxy.fault = to(OUR_MISTAKES[mistake], "EVAL", "HGET", "LPUSH")
    with pytest.raises(redis.ResponseError):
        jobs.claim(new_job_id(), owner="me")
    with pytest.raises(redis.ResponseError):
        jobs.cancel_requested(new_job_id())


def test_a_broker_whose_memory_is_full_says_so_from_inside_a_script(redis_url: str) -> None:
    jobs = Jobs(redis_url.removesuffix("/0") + "/6")
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(BrokerUnavailableError, match="answers with an error"):
                jobs.create(a_record())
            with pytest.raises(BrokerUnavailableError, match="answers with an error"):
                jobs.send_update(new_job_id())
        finally:
            client.config_set("maxmemory", 0)
    jobs.close()


def test_a_broker_whose_name_is_not_known_is_gone() -> None:
    jobs = Jobs("redis://no-such-broker.invalid:6379/0", timeout_s=1.0)
    for call in (jobs.ping, lambda: jobs.send_update(new_job_id())):
        with pytest.raises(BrokerUnavailableError, match="does not answer"):
            call()


def test_words_that_look_like_codes_inside_other_errors_are_no_outage() -> None:
    assert why_unavailable(redis.ResponseError("ERR user_script:1: BUSYBODY is nil")) is None
    assert why_unavailable(redis.ResponseError("WRONGTYPE Operation against a key")) is None
    assert why_unavailable(ZeroDivisionError()) is None


@pytest.mark.parametrize("trouble", ["READONLY", "OOM", "LOADING", "in a script, old", "a web server"])
def test_current_moves_while_the_broker_is_in_trouble(proxy: BrokerProxy, trouble: str) -> None:
    roster, done = Roster(proxy.url, f"test-{time.time_ns()}", timeout_s=1.0), []
    proxy.fault = to(REPLIES[trouble], "EVAL")
    move_current(
        roster,
        "000002-bbbbbbbbbbbb",
        lambda: done.append("moved"),
        limits=Limits(),
        prepare_here=lambda: done.append("prepared"),
    )
    roster.close()
    assert done == ["prepared", "moved"]


@pytest.mark.parametrize("trouble", REPLIES)
def test_announcements_outlive_whatever_the_broker_answers(
    proxy: BrokerProxy, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exchange.announcements.RECONNECT_S", 0.05)

    async def main() -> None:
        announcements, woken = Announcements(proxy.url), asyncio.Event()
        proxy.fault = always(REPLIES[trouble])
        async with announcements.on("test:signals", woken.set):
            assert not woken.is_set()
            proxy.fault = None
            await asyncio.wait_for(woken.wait(), 20)
        await announcements.close()

    asyncio.run(main())


def test_a_broker_that_accepts_and_never_answers_holds_no_block_up(proxy: BrokerProxy) -> None:
    proxy.silent.set()

    async def main() -> None:
        announcements = Announcements(proxy.url, timeout_s=0.2)
        async with asyncio.timeout(20), announcements.on("test:signals", lambda: None):
            pass
        await announcements.close()

    asyncio.run(main())


def test_a_connection_over_a_unix_socket_that_fails_for_the_last_time_raises_nothing_of_its_own(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "broker.sock"))
        listener.listen()
        made: Any = UnixDomainSocketConnection
        connection = made(path=str(tmp_path / "broker.sock"))
        connection._sock = connection._connect()
        connection.disconnect(error=redis.exceptions.ConnectionError("gone"), failure_count=99)
