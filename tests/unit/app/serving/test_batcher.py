"""Which items end up in which batch, and what becomes of those that fail or that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from app.errors import StoppingError
from app.serving.batcher import Batcher
from tests.waiting import until


class Model:
    """Doubles numbers, fails on negative ones, and can be held so that others queue up meanwhile."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()

    def __call__(self, key: str, items: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append((key, list(items)))
        self.begun.set()
        assert self.go.wait(10)
        if any(item < 0 for item in items):
            raise ArithmeticError(f"negative among {items}")
        return [2 * item for item in items]


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.go.set()


def batcher(model: Model, size: int = 4, **options: Any) -> Batcher[str, int, int]:
    return Batcher(model, name="test", max_batch_size=size, **options)


async def held(model: Model, under: Batcher[str, int, int]) -> asyncio.Task[Any]:
    """A request that runs until the model is let go."""
    model.go.clear()
    first = asyncio.create_task(under.run("v", [0]))
    await asyncio.to_thread(model.begun.wait, 10)
    return first


async def queued(under: Batcher[str, int, int], *requests: tuple[str, list[int]]) -> list[asyncio.Task[Any]]:
    """These requests, waiting in this order."""
    tasks = []
    for key, items in requests:
        tasks.append(asyncio.create_task(under.run(key, items)))
        await asyncio.sleep(0)
    return tasks


def test_a_request_alone_leaves_at_once(model: Model) -> None:
    assert asyncio.run(batcher(model, 64).run("v", [3, 1])) == [6, 2]
    assert model.batches == [("v", [3, 1])]


def test_what_queued_up_meanwhile_is_the_next_batch(model: Model) -> None:
    async def scene() -> None:
        under = batcher(model)
        first = await held(model, under)
        others = await queued(under, *(("v", [n]) for n in range(1, 7)))
        assert under.waiting == 6
        model.go.set()
        assert [await task for task in (first, *others)] == [[2 * n] for n in range(7)]
        assert under.waiting == 0

    asyncio.run(scene())
    assert model.batches == [("v", [0]), ("v", [1, 2, 3, 4]), ("v", [5, 6])]


def test_requests_take_turns_so_that_a_large_one_does_not_hold_up_a_small_one(model: Model) -> None:
    async def scene() -> None:
        under = batcher(model)
        first = await held(model, under)
        large, small, middle = await queued(under, ("v", list(range(10, 18))), ("v", [20]), ("v", [30, 31]))
        model.go.set()
        assert await large == [2 * n for n in range(10, 18)]
        assert (await small, await middle, await first) == ([40], [60, 62], [0])

    asyncio.run(scene())
    assert model.batches[1:] == [("v", [10, 20, 30, 11]), ("v", [12, 31, 13, 14]), ("v", [15, 16, 17])]


def test_a_batch_is_of_one_version_and_the_longest_waiting_goes_first(model: Model) -> None:
    async def scene() -> None:
        under = batcher(model)
        first = await held(model, under)
        tasks = await queued(under, ("v", [1]), ("w", [2, 3]), ("v", [4]))
        model.go.set()
        assert [await task for task in tasks] == [[2], [4, 6], [8]]
        await first

    asyncio.run(scene())
    assert model.batches[1:] == [("v", [1, 4]), ("w", [2, 3])]


@pytest.mark.parametrize("place", range(8))
def test_an_item_that_fails_leaves_the_others_their_results(model: Model, place: int) -> None:
    items = list(range(1, 9))
    items[place] = -1
    results = asyncio.run(batcher(model, 8).run("v", items))
    assert isinstance(results[place], ArithmeticError)
    assert results[:place] + results[place + 1 :] == [2 * n for n in items if n > 0]
    assert len(model.batches) == 7  # the whole, then both halves of what failed, three times


def test_an_exception_in_a_place_is_that_items_result() -> None:
    refusal = KeyError("not this one")
    under: Batcher[str, int, int] = Batcher(lambda key, items: [1, refusal], name="test", max_batch_size=2)
    assert asyncio.run(under.run("v", [1, 2])) == [1, refusal]


def test_a_wrong_number_of_results_is_an_error_of_every_item() -> None:
    under: Batcher[str, int, int] = Batcher(lambda key, items: [], name="test", max_batch_size=2)
    results = asyncio.run(under.run("v", [1, 2]))
    assert [str(result) for result in results] == 2 * ["work returned 0 results for 1 items"]


def test_what_nobody_waits_for_any_more_is_never_run(model: Model) -> None:
    async def scene() -> None:
        under = batcher(model)
        first = await held(model, under)
        left, late, stays = await queued(under, ("v", [1, 2]), ("v", [3]), ("v", [4]))
        left.cancel()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(late, 0.01)
        assert under.waiting == 1
        model.go.set()
        assert (await stays, await first) == ([8], [0])

    asyncio.run(scene())
    assert model.batches == [("v", [0]), ("v", [4])]


def test_leaving_while_ones_batch_runs_does_not_disturb_the_others(model: Model) -> None:
    async def scene() -> None:
        under = batcher(model)
        first = await held(model, under)
        first.cancel()
        (other,) = await queued(under, ("v", [1]))
        model.go.set()
        assert await other == [2]

    asyncio.run(scene())


def test_closing_runs_what_waits_and_refuses_what_comes(model: Model) -> None:
    async def scene() -> None:
        under = batcher(model)
        first = await held(model, under)
        waiting = await queued(under, ("v", [1]), ("w", [2]))
        closing = asyncio.create_task(asyncio.to_thread(under.close))
        await asyncio.sleep(0.05)
        with pytest.raises(StoppingError):
            await under.run("v", [5])
        assert not closing.done()
        model.go.set()
        await closing
        assert [await task for task in (first, *waiting)] == [[0], [2], [4]]

    asyncio.run(scene())


def test_a_full_batch_does_not_wait_and_a_lone_item_no_longer_than_allowed(model: Model) -> None:
    async def scene() -> None:
        patient = batcher(model, 2, max_wait_s=60)
        one, two = await queued(patient, ("v", [1]), ("v", [2]))
        assert (await one, await two) == ([2], [4])
        assert model.batches == [("v", [1, 2])]
        assert await batcher(model, 2, max_wait_s=0.05).run("v", [3]) == [6]

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_an_empty_request_is_answered_without_a_batch(model: Model) -> None:
    assert asyncio.run(batcher(model).run("v", [])) == []
    assert model.batches == []


def test_every_batch_is_observed(model: Model) -> None:
    seen: list[tuple[int, float]] = []
    under = batcher(model, 2, observe=lambda size, seconds: seen.append((size, seconds)))
    asyncio.run(under.run("v", [1, 2, 3]))
    under.close()
    assert [size for size, _ in seen] == [2, 1]
    assert all(seconds > 0 for _, seconds in seen)


def test_a_loop_that_was_closed_in_the_meantime_does_not_end_the_thread(model: Model) -> None:
    under = batcher(model)

    async def leave() -> None:
        await held(model, under)

    asyncio.run(leave())  # cancels the request, whose batch is running
    model.go.set()
    assert asyncio.run(under.run("v", [7])) == [14]


def test_a_full_batch_is_handed_over_while_another_runs_and_no_other_is(model: Model) -> None:
    async def scene() -> None:
        under = batcher(model, 4, ahead=1)
        first = await held(model, under)
        others = await queued(under, *(("v", [n]) for n in range(1, 4)))
        await asyncio.sleep(0.05)
        assert under.waiting == 3  # not full yet
        more = await queued(under, *(("v", [n]) for n in range(4, 10)))
        await until(lambda: len(model.batches) == 2)
        assert model.batches == [("v", [0]), ("v", [1, 2, 3, 4])]
        assert under.waiting == 5  # full again, but no further thread
        model.go.set()
        assert [await task for task in (first, *others, *more)] == [[2 * n] for n in range(10)]

    asyncio.run(scene())
    assert sorted(n for _, items in model.batches for n in items) == list(range(10))
    assert [len(items) for _, items in model.batches[2:]] in ([4, 1], [1, 4])


def test_a_request_in_two_batches_at_once_gets_all_its_results_in_order(model: Model) -> None:
    async def scene() -> list[int | Exception]:
        under = batcher(model, 4, ahead=1)
        first = await held(model, under)
        (large,) = await queued(under, ("v", list(range(1, 20))))
        await until(lambda: len(model.batches) == 2)
        model.go.set()
        await first
        return list(await large)

    assert asyncio.run(scene()) == [2 * n for n in range(1, 20)]


def test_closing_ends_all_threads_and_runs_what_waits(model: Model) -> None:
    async def scene() -> None:
        under = batcher(model, 2, ahead=2)
        first = await held(model, under)
        others = await queued(under, ("v", [1, 2, 3]), ("w", [4]))
        closing = asyncio.create_task(asyncio.to_thread(under.close))
        await asyncio.sleep(0.05)
        assert not closing.done()
        model.go.set()
        await closing
        assert [await task for task in (first, *others)] == [[0], [2, 4, 6], [8]]

    asyncio.run(scene())


def test_ahead_a_batch_is_still_of_one_version(model: Model) -> None:
    async def scene() -> None:
        under = batcher(model, 2, ahead=1)
        first = await held(model, under)
        others = await queued(under, ("v", [1]), ("w", [2]), ("w", [3]), ("v", [4]))
        model.go.set()
        assert [await task for task in (first, *others)] == [[0], [2], [4], [6], [8]]

    asyncio.run(scene())
    assert {key for key, items in model.batches if set(items) & {2, 3}} == {"w"}
    assert {key for key, items in model.batches if set(items) & {0, 1, 4}} == {"v"}
