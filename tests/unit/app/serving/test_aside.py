"""A version beside the served one: loaded once, and never instead of it."""

from __future__ import annotations

import asyncio

from model_store.types import StoreBusyError
from tests.unit.app.house import House


def test_the_served_version_is_not_loaded_again(house: House) -> None:
    async def ask() -> None:
        async with house.open() as services:
            served = services.live.get()
            assert await services.aside.get(house.first) is served

    asyncio.run(ask())
    assert house.loaded == [house.first]


def test_another_version_is_loaded_once_however_many_ask_for_it_at_the_same_time(house: House) -> None:
    other, third = house.publish(2), house.publish(3)

    async def ask() -> None:
        async with house.open() as services:
            found = await asyncio.gather(*(services.aside.get(other) for _ in range(5)))
            assert {each.version_id for each in found} == {other}
            assert (await services.aside.get(other)) is found[0]
            assert services.live.version_id == house.first
            assert (await services.aside.get(third)).version_id == third

    asyncio.run(ask())
    assert house.loaded == [house.first, other, third]


def test_more_than_may_wait_are_refused_at_once(house: House) -> None:
    other = house.publish(2)

    async def ask() -> None:
        async with house.open() as services:
            house.hold.clear()
            asking = [asyncio.create_task(services.aside.get(other)) for _ in range(12)]
            await asyncio.sleep(0.2)
            refused = [task for task in asking if task.done()]
            assert [type(task.exception()) for task in refused] == [StoreBusyError] * 3
            house.hold.set()
            found = await asyncio.gather(*(task for task in asking if task not in refused))
            assert {each.version_id for each in found} == {other}

    asyncio.run(ask())
