"""Callers share threads, one item each in turn; who gives up gives back its items."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from app.errors import StoppingError
from app.serving.turns import Turns
from tests.waiting import wait_until


class Gate:
    """Work that notes its items, and waits at the first until it is let through."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.opened = threading.Event()

    def __call__(self, item: str) -> str:
        self.begun.append(item)
        assert self.opened.wait(30)
        return item.upper()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def turns() -> Iterator[Turns]:
    pool = Turns(1, "test")
    yield pool
    pool.close()


def test_results_come_in_the_order_of_the_items() -> None:
    pool = Turns(4, "test")
    assert asyncio.run(pool.run(lambda number: number * number, range(50))) == [n * n for n in range(50)]
    assert asyncio.run(pool.run(lambda number: number, [])) == []
    pool.close()


def test_callers_take_turns_item_by_item(turns: Turns, gate: Gate) -> None:
    async def main() -> list[list[str]]:
        first = asyncio.create_task(turns.run(gate, ["a1", "a2", "a3", "a4"]))
        await asyncio.to_thread(wait_until, lambda: gate.begun == ["a1"])
        others = [asyncio.create_task(turns.run(gate, items)) for items in (["b1", "b2"], ["c1"])]
        await asyncio.sleep(0)
        gate.opened.set()
        return list(await asyncio.gather(first, *others))

    assert asyncio.run(main()) == [["A1", "A2", "A3", "A4"], ["B1", "B2"], ["C1"]]
    assert gate.begun == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


def test_items_of_a_caller_that_gave_up_are_never_begun(turns: Turns, gate: Gate) -> None:
    async def main() -> list[str]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await turns.run(gate, ["a1", "a2", "a3"])
        other = asyncio.create_task(turns.run(gate, ["b1"]))
        await asyncio.sleep(0)
        gate.opened.set()
        return await other

    assert asyncio.run(main()) == ["B1"]
    assert gate.begun == ["a1", "b1"]


def test_an_error_of_the_work_is_the_caller_s_and_the_threads_go_on(turns: Turns) -> None:
    begun: list[int] = []

    def divide(number: int) -> float:
        begun.append(number)
        return 1 / number

    with pytest.raises(ZeroDivisionError):
        asyncio.run(turns.run(divide, [0, 1, 2]))
    assert asyncio.run(turns.run(divide, [4])) == [0.25]
    assert begun == [0, 4]


def test_every_thread_begins_as_it_is_told() -> None:
    names: list[str] = []
    pool = Turns(2, "test", begin=lambda: names.append(threading.current_thread().name))
    asyncio.run(pool.run(str, range(8)))
    pool.close()
    assert 1 <= len(names) <= 2
    assert all(name.startswith("test") for name in names)


def test_a_closed_pool_refuses(turns: Turns) -> None:
    turns.close()
    with pytest.raises(StoppingError):
        asyncio.run(turns.run(str, [1]))
