from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.errors import StaleError, SwapTimeoutError
from app.metrics import Metrics
from app.serving.live_model import LiveModel, Served
from app.serving.watcher import Watcher
from segp_cl.errors import KeepsightError
from tests.waiting import until


class World:
    """A pointer, and versions that load or do not."""

    def __init__(self, *, backoff_s: float = 0.05, poll_s: float = 0.01) -> None:
        self.pointer: str | None = "1"
        self.broken: set[str] = set()
        self.loaded: list[str] = []
        self.metrics = Metrics()
        self.live = LiveModel(self.metrics)
        self.others_serve: bool | None = False
        self.hold = threading.Event()
        self.hold.set()
        self.looks = 0
        self.swaps: list[str | None] = []
        self.before: list[str] = []
        self.before_is_broken = False
        self.elsewhere: str | None = None
        self.watcher = Watcher(
            current=self.current,
            load=self.load,
            live=self.live,
            poll_s=poll_s,
            backoff_s=backoff_s,
            metrics=self.metrics,
            left_out=self.left_out,
            swapped=lambda: self.swaps.append(self.live.version_id),
            fallback=self.fallback,
            served_elsewhere=self.served_elsewhere,
        )

    def fallback(self) -> list[str]:
        if self.before_is_broken:
            raise OSError("the disk is gone")
        return self.before

    async def left_out(self, version_id: str) -> bool | None:
        return self.others_serve

    async def served_elsewhere(self, version_id: str) -> bool:
        return version_id == self.elsewhere

    def current(self) -> str | None:
        self.looks += 1
        if self.pointer == "unreadable":
            raise OSError("the disk is gone")
        return self.pointer

    def load(self, version_id: str) -> Served:
        self.loaded.append(version_id)
        self.hold.wait(5)
        if version_id in self.broken:
            raise KeepsightError(f"{version_id} is broken")
        classifier = SimpleNamespace(state=SimpleNamespace(classes=()), engine="torch")
        return Served(version_id, cast(Any, classifier), cast(Any, None))


def run(body: Callable[[World], Awaitable[None]], **options: float) -> World:
    return follow(World(**options), body)


def follow(world: World, body: Callable[[World], Awaitable[None]]) -> World:
    async def main() -> None:
        following = asyncio.create_task(world.watcher.run())
        await body(world)
        assert not following.done(), "the watcher ended"
        following.cancel()
        world.hold.set()
        world.watcher.close()

    asyncio.run(main())
    return world


def test_a_moved_pointer_is_followed() -> None:
    async def body(world: World) -> None:
        await until(lambda: world.live.version_id == "1")
        world.pointer = "2"
        await until(lambda: world.live.version_id == "2")

    assert run(body).loaded == ["1", "2"]


def test_a_version_that_fails_leaves_the_old_one_and_is_tried_again_after_a_pause() -> None:
    async def body(world: World) -> None:
        await until(lambda: world.live.version_id == "1")
        world.broken.add("2")
        world.pointer = "2"
        await until(lambda: world.loaded.count("2") >= 2)
        assert world.live.version_id == "1"
        assert world.watcher.failure is not None
        assert world.watcher.failure.reason == "2 is broken"
        world.broken.clear()
        await until(lambda: world.live.version_id == "2")
        assert world.watcher.failure is None

    run(body)


def test_a_failed_version_is_not_tried_at_every_look() -> None:
    async def body(world: World) -> None:
        world.broken.add("1")
        await asyncio.sleep(0.2)

    assert run(body, backoff_s=60).loaded == ["1"]


def test_an_unreadable_pointer_ends_nothing() -> None:
    async def body(world: World) -> None:
        await until(lambda: world.live.version_id == "1")
        world.pointer = "unreadable"
        await until(lambda: world.watcher.failure is not None)
        world.pointer = "2"
        await until(lambda: world.live.version_id == "2")

    run(body)


def test_a_prepared_version_is_loaded_once() -> None:
    async def body(world: World) -> None:
        await until(lambda: world.live.version_id == "1")
        await world.watcher.prepare("2")
        assert world.live.version_id == "1"
        world.pointer = "2"
        await world.watcher.until_serving("2", 5)
        assert world.live.version_id == "2"

    assert run(body).loaded == ["1", "2"]


def test_a_prepared_version_can_be_let_go() -> None:
    async def body(world: World) -> None:
        await until(lambda: world.live.version_id == "1")
        await world.watcher.prepare("2")
        world.watcher.discard()
        world.pointer = "2"
        await world.watcher.until_serving("2", 5)

    assert run(body).loaded == ["1", "2", "2"]


def test_preparing_a_broken_version_raises_and_preparing_the_served_one_does_nothing() -> None:
    async def body(world: World) -> None:
        await until(lambda: world.live.version_id == "1")
        world.broken.add("2")
        with pytest.raises(KeepsightError, match="2 is broken"):
            await world.watcher.prepare("2")
        await world.watcher.prepare("1")

    assert run(body).loaded == ["1", "2"]


def test_waiting_for_a_version_that_does_not_come_says_why() -> None:
    async def body(world: World) -> None:
        await until(lambda: world.live.version_id == "1")
        world.broken.add("2")
        world.pointer = "2"
        with pytest.raises(SwapTimeoutError, match=r"still serves 1: 2 is broken"):
            await world.watcher.until_serving("2", 0.2)

    run(body)


def test_many_may_wait_for_one_swap() -> None:
    async def body(world: World) -> None:
        await until(lambda: world.live.version_id == "1")
        waiting = [asyncio.create_task(world.watcher.until_serving("2", 5)) for _ in range(5)]
        world.pointer = "2"
        await asyncio.gather(*waiting)

    run(body)


def test_while_a_version_loads_that_others_serve_nobody_is_answered() -> None:
    async def body(world: World) -> None:
        world.others_serve = True
        await until(lambda: world.live.version_id == "1")
        world.hold.clear()
        world.pointer = "2"
        await until(lambda: "2" in world.loaded)
        with pytest.raises(StaleError, match="moved on to 2"):
            world.live.get()
        world.hold.set()
        await until(lambda: world.live.version_id == "2")
        assert world.live.get().version_id == "2"

    run(body)


def test_a_version_that_others_serve_and_this_server_cannot_load_is_not_covered_up() -> None:
    async def body(world: World) -> None:
        world.others_serve = True
        await until(lambda: world.live.version_id == "1")
        world.broken.add("2")
        world.pointer = "2"
        await until(lambda: world.watcher.failure is not None)
        with pytest.raises(StaleError):
            world.live.get()
        world.pointer = "1"  # an operator goes back
        await until(lambda: world.watcher.failure is None)
        assert world.live.get().version_id == "1"

    run(body)


@pytest.mark.parametrize("others_serve", [False, None])
def test_where_nobody_is_known_to_serve_it_the_old_version_goes_on(others_serve: bool | None) -> None:
    async def body(world: World) -> None:
        world.others_serve = others_serve
        await until(lambda: world.live.version_id == "1")
        world.broken.add("2")
        world.pointer = "2"
        await until(lambda: world.watcher.failure is not None)
        assert world.live.get().version_id == "1"

    run(body)


def test_while_nobody_can_say_what_the_others_serve_the_old_version_answers_until_the_new_one_is_loaded() -> None:
    async def body(world: World) -> None:
        world.others_serve = None
        await until(lambda: world.live.version_id == "1")
        world.hold.clear()
        world.pointer = "2"
        await until(lambda: "2" in world.loaded)
        assert world.live.get().version_id == "1"
        world.hold.set()
        await until(lambda: world.live.version_id == "2")

    run(body)


def test_what_was_prepared_is_swapped_in_without_a_pause() -> None:
    async def body(world: World) -> None:
        world.others_serve = True
        await until(lambda: world.live.version_id == "1")
        await world.watcher.prepare("2")
        world.hold.clear()  # a load would never end
        world.pointer = "2"
        while world.live.version_id != "2":
            world.live.get()
            await asyncio.sleep(0)

    run(body)


def test_a_pointer_that_moves_on_while_a_version_loads_is_followed_to_its_end() -> None:
    async def body(world: World) -> None:
        await until(lambda: world.live.version_id == "1")
        world.hold.clear()
        world.pointer = "2"
        await until(lambda: "2" in world.loaded)
        world.pointer = "3"
        world.hold.set()
        await until(lambda: world.live.version_id == "3")

    assert run(body).swaps == ["1", "3"]


def test_a_server_that_did_not_look_for_long_answers_nobody_until_it_has() -> None:
    now = 0.0
    live = LiveModel(Metrics(), lease_s=5, clock=lambda: now)
    live.swap(
        Served("1", cast(Any, SimpleNamespace(state=SimpleNamespace(classes=()), engine="torch")), cast(Any, None))
    )
    now = 5.0
    assert live.get().version_id == "1"
    now = 5.1
    with pytest.raises(StaleError, match="expected at most 5 s ago"):
        live.get()
    live.confirm()
    assert live.get().version_id == "1"


def test_a_request_that_comes_after_a_long_pause_waits_for_a_look_at_current() -> None:
    async def scene() -> None:
        now = 0.0
        world = World(poll_s=60)
        world.live._lease_s, world.live._clock = 5, lambda: now
        following = asyncio.create_task(world.watcher.run())
        await until(lambda: world.live.version_id == "1")
        world.pointer, now = "2", 10.0
        assert (await world.watcher.served()).version_id == "2"
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        now = 20.0  # nobody looks any more
        with pytest.raises(StaleError, match="expected at most 5 s ago"):
            await world.watcher.served()
        world.watcher.close()

    asyncio.run(scene())


def test_earlier_versions_that_cannot_be_listed_do_not_end_the_looking() -> None:
    async def body(world: World) -> None:
        world.broken.add("1")
        world.before_is_broken = True
        await until(lambda: world.watcher.failure is not None)
        world.pointer = "2"
        await until(lambda: world.live.version_id == "2")

    run(body)


def test_looks_go_on_while_a_version_loads() -> None:
    async def body(world: World) -> None:
        await until(lambda: world.live.version_id == "1")
        world.hold.clear()
        world.pointer = "2"
        await until(lambda: "2" in world.loaded)
        looks = world.looks
        await until(lambda: world.looks > looks + 3)
        world.hold.set()

    run(body)


def test_it_can_be_ended_in_the_moment_that_it_is_woken() -> None:
    async def scene() -> bool:
        world = World(poll_s=60)
        following = asyncio.create_task(world.watcher.run())
        await until(lambda: world.live.version_id == "1")
        await asyncio.sleep(0.05)  # it waits now
        world.watcher.wake()
        await asyncio.sleep(0)
        following.cancel()
        await asyncio.wait([following], timeout=5)
        ended = following.done()
        following.cancel()
        world.watcher.close()
        return ended

    assert asyncio.run(scene())


@pytest.mark.parametrize("pointer", ["unreadable", None, "broken"])
def test_a_server_that_starts_where_current_cannot_be_served_serves_the_last_that_can(pointer: str | None) -> None:
    async def body(world: World) -> None:
        await until(lambda: world.live.version_id == "1")
        assert world.watcher.failure is not None
        assert world.loaded[-2:] == ["2", "1"]
        world.pointer = "3"
        await until(lambda: world.live.version_id == "3")
        await until(lambda: world.watcher.failure is None)

    world = World()
    world.pointer, world.broken, world.before = pointer, {"broken", "2"}, ["2", "1"]
    follow(world, body)


def test_a_server_that_serves_something_stays_on_it_when_current_is_damaged() -> None:
    async def body(world: World) -> None:
        await until(lambda: world.live.version_id == "1")
        world.before = ["0"]
        for pointer in ("unreadable", None):
            world.pointer = pointer
            await until(lambda: world.watcher.failure is not None)
            assert world.live.version_id == "1"
        assert world.loaded == ["1"]

    run(body)


def test_a_version_that_others_serve_is_not_answered_for_with_an_older_one() -> None:
    async def body(world: World) -> None:
        await until(lambda: world.watcher.failure is not None)
        await until(lambda: world.looks > 5)
        assert world.live.version_id is None

    world = World()
    world.broken, world.before, world.elsewhere = {"1"}, ["0"], "1"
    follow(world, body)
