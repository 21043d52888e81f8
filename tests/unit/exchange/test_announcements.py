from __future__ import annotations

import asyncio
import time

from redis import Redis

from exchange.announcements import Announcements


def test_a_publication_wakes_up_and_the_subscription_stands_when_the_block_begins(redis_url: str) -> None:
    async def main() -> int:
        announcements, woken = Announcements(redis_url), asyncio.Event()
        async with announcements.on("test:signals", woken.set):
            woken.clear()
            with Redis.from_url(redis_url) as redis:
                heard = int(redis.publish("test:signals", "x"))
            await asyncio.wait_for(woken.wait(), 5)
        await announcements.close()
        return heard

    assert asyncio.run(main()) == 1


def test_a_redis_that_is_gone_delays_nobody() -> None:
    async def main() -> None:
        announcements = Announcements("redis://127.0.0.1:1/0")
        async with announcements.on("test:signals", lambda: None):
            pass
        await announcements.close()

    begun = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - begun < 5
