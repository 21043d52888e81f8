"""Announcements over Redis as asynchronous wake-ups. They are hints: a waiting program also polls by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from exchange.redis_client import why_unavailable

logger = logging.getLogger(__name__)

RECONNECT_S = 1.0


class Announcements:
    """Subscribes to channels of one broker.

    Args:
        redis_url: the broker's address; it need not answer yet.
        timeout_s: seconds to wait for a connection, or for a subscription to stand.
    """

    def __init__(self, redis_url: str, *, timeout_s: float = 3.0) -> None:
        self._redis: Redis = Redis.from_url(redis_url, socket_connect_timeout=timeout_s)
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def on(self, channel: str, callback: Callable[[], None]) -> AsyncIterator[None]:
        """Call `callback` whenever something is published on `channel`, until the block ends.

        The block begins once the subscription stands, or at once if the broker does not answer; subscribing is then
        retried in the background.
        """
        tried = asyncio.Event()
        task = asyncio.create_task(self._follow(channel, callback, tried))
        try:
            await tried.wait()
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _follow(self, channel: str, callback: Callable[[], None], tried: asyncio.Event) -> None:
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    async with asyncio.timeout(self._timeout_s):  # a stopped broker accepts and never answers
                        await pubsub.subscribe(channel)
                    tried.set()
                    callback()  # something may have been published before, or while the connection was lost
                    while True:
                        if await pubsub.get_message(timeout=30.0) is not None:
                            callback()
            except Exception as error:  # the loop's edge: whatever answers on the port, hints are tried for again
                if why_unavailable(error) is None:
                    logger.exception("announcements on %s failed; they are tried again", channel)
                else:
                    logger.debug("no announcements on %s: %s", channel, error)
                tried.set()
                await asyncio.sleep(RECONNECT_S)
