"""Many streams of one job, one reader; and a broker that fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import redis

from app import feeds as module
from app.errors import BusyError
from app.feeds import JobFeeds, Sight
from app.offload import Pool
from exchange.announcements import Announcements
from exchange.contracts import JobState, job_key
from exchange.jobs import JobNotFoundError, Jobs
from exchange.redis_client import BrokerUnavailableError
from exchange.spool import Spool
from tests.broker_proxy import REPLIES, BrokerProxy, always
from tests.unit.exchange.test_jobs import a_record, progress
from tests.waiting import until


@pytest.fixture
def proxy(redis_url: str) -> Iterator[BrokerProxy]:
    url = redis_url.removesuffix("/0") + "/8"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    with BrokerProxy(url) as proxy:
        yield proxy


@pytest.fixture
def jobs(redis_url: str) -> Iterator[Jobs]:
    jobs = Jobs(redis_url.removesuffix("/0") + "/8")
    yield jobs
    jobs.close()


Scene = Callable[[JobFeeds], Awaitable[None]]


def play(proxy: BrokerProxy, tmp_path: Path, scene: Scene, *, most: int = 100, poll_s: float = 0.05) -> None:
    async def main() -> None:
        behind, announcements = Jobs(proxy.url, timeout_s=1.0), Announcements(proxy.url, timeout_s=1.0)
        pool = Pool("broker", threads=2, waiting=50, full=lambda: BrokerUnavailableError("full"))
        feeds = JobFeeds(behind, Spool(tmp_path / "spool"), announcements, pool, poll_s=poll_s, most=most)
        try:
            await scene(feeds)
        finally:
            await feeds.close()
            pool.close()
            await announcements.close()
            behind.close()

    asyncio.run(main())


async def seen_to_its_end(feeds: JobFeeds, job_id: str) -> list[Sight]:
    first = await feeds.first(job_id)
    async with aclosing(feeds.follow(job_id, first)) as sights:
        return [sight async for sight in sights]


def test_twenty_streams_of_a_job_cost_one_subscription_and_all_see_its_end(
    proxy: BrokerProxy, jobs: Jobs, tmp_path: Path
) -> None:
    record = a_record()
    jobs.create(record)

    async def scene(feeds: JobFeeds) -> None:
        streams = [asyncio.create_task(seen_to_its_end(feeds, record.job_id)) for _ in range(20)]
        await until(lambda: proxy.subscriptions == 1)
        await until(lambda: feeds._feeds[record.job_id].followers == 20)
        await asyncio.to_thread(jobs.claim, record.job_id, owner="me")
        await asyncio.to_thread(jobs.save_progress, record.job_id, progress(3), owner="me")
        await asyncio.sleep(0.2)
        await asyncio.to_thread(jobs.finish, record.job_id, JobState.CANCELLED)
        for sights in await asyncio.gather(*streams):
            assert sights[0].state == "queued"
            assert [sight.terminal for sight in sights] == [False] * (len(sights) - 1) + [True]
        assert feeds._feeds == {}

    play(proxy, tmp_path, scene, poll_s=10)
    assert proxy.subscriptions == 1


def test_a_stream_outlives_a_broker_that_fails_and_one_that_answers_with_errors(
    proxy: BrokerProxy, jobs: Jobs, tmp_path: Path
) -> None:
    record = a_record()
    jobs.create(record)

    async def scene(feeds: JobFeeds) -> None:
        stream = asyncio.create_task(seen_to_its_end(feeds, record.job_id))
        await until(lambda: record.job_id in feeds._feeds)
        for trouble in ("READONLY", "LOADING", "a web server"):
            proxy.fault = always(REPLIES[trouble])
            proxy.drop()
            await asyncio.sleep(0.3)
        proxy.fault = None
        assert not stream.done()
        await asyncio.to_thread(jobs.finish, record.job_id, JobState.CANCELLED)
        assert (await asyncio.wait_for(stream, 30))[-1].terminal

    play(proxy, tmp_path, scene)


def test_a_job_that_is_gone_for_long_ends_its_streams(
    proxy: BrokerProxy, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = a_record()
    jobs.create(record)
    monkeypatch.setattr(module, "MISSING_S", 0.2)

    async def scene(feeds: JobFeeds) -> None:
        stream = asyncio.create_task(seen_to_its_end(feeds, record.job_id))
        await until(lambda: record.job_id in feeds._feeds)
        await asyncio.to_thread(jobs._redis.delete, job_key(record.job_id))
        assert len(await asyncio.wait_for(stream, 30)) == 1
        with pytest.raises(JobNotFoundError):
            await feeds.first(record.job_id)

    play(proxy, tmp_path, scene)


def test_streams_have_a_limit_and_a_place_is_free_when_its_client_goes(
    proxy: BrokerProxy, jobs: Jobs, tmp_path: Path
) -> None:
    record = a_record()
    jobs.create(record)

    async def scene(feeds: JobFeeds) -> None:
        streams = [asyncio.create_task(seen_to_its_end(feeds, record.job_id)) for _ in range(2)]
        await until(lambda: (feed := feeds._feeds.get(record.job_id)) is not None and feed.followers == 2)
        with pytest.raises(BusyError, match="2 event streams are open"):
            await feeds.first(record.job_id)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        await until(lambda: feeds._feeds == {})
        await feeds.first(record.job_id)

    play(proxy, tmp_path, scene, most=2)
