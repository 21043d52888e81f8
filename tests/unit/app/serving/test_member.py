"""A server says how it is, and prepares what it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from app.services import Services
from app.serving.member import new_server_id
from exchange.roster import Move, ServerReport
from model_store.types import VersionId
from tests.unit.app.house import House
from tests.waiting import until

Scene = Callable[[Services], Awaitable[None]]


def play(house: House, scene: Scene) -> None:
    async def main() -> None:
        async with house.open() as services:
            await scene(services)

    asyncio.run(main())


def reported(services: Services) -> ServerReport | None:
    """This server's last report."""
    return next((seen.report for seen in services.roster.servers() if seen.report.id == services.member.id), None)


async def until_reported(services: Services, state: str) -> ServerReport:
    """This server's report, as soon as it says this state."""
    found: list[ServerReport] = []

    def said() -> bool:
        report = reported(services)
        if report is not None and report.state == state:
            found.append(report)
        return bool(found)

    await until(said)
    return found[0]


def begin(services: Services, version_id: VersionId) -> Move:
    move = services.roster.begin(version_id, hold_s=60)
    assert move is not None
    return move


def test_names_of_processes_differ() -> None:
    assert len({new_server_id() for _ in range(20)}) == 20


def test_a_server_is_on_the_roster_before_it_answers_anybody(house: House) -> None:
    async def scene(services: Services) -> None:
        report = reported(services)
        assert report is not None
        assert (report.id, report.device, report.serving, report.state) == ("server", "cpu", house.first, "serving")

    play(house, scene)
    assert house.services.roster.servers() == []  # it left


def test_a_server_without_a_version_is_only_starting(house: House) -> None:
    async def main() -> None:
        services = house.services
        await services.member.join(services.watcher)
        report = reported(services)
        assert report is not None
        assert (report.state, report.serving) == ("starting", None)
        await services.watcher.look()
        await services.member.beat()
        report = reported(services)
        assert report is not None
        assert (report.state, report.serving) == ("serving", house.first)
        await services.member.leave()
        services.watcher.close()

    asyncio.run(main())


def test_a_server_that_cannot_load_current_says_why(house: House) -> None:
    house.broken.add(house.first)

    async def scene(services: Services) -> None:
        report = await until_reported(services, "behind")
        assert report.reason == f"{house.first} is broken"
        house.broken.clear()
        await until_reported(services, "serving")

    play(house, scene)


def test_a_version_that_is_asked_for_is_loaded_and_then_served(house: House) -> None:
    version = house.publish(1)

    async def scene(services: Services) -> None:
        house.hold.clear()
        move = begin(services, version)
        loading = await until_reported(services, "loading")
        assert (loading.answered, loading.serving) == (None, house.first)
        house.hold.set()
        ready = await until_reported(services, "ready")
        assert (ready.answered, ready.prepared, ready.serving) == (move.id, version, house.first)
        assert services.roster.commit(move, ("server",))
        house.store.promote(version, expected=house.first, who="test", reason="")
        services.roster.end(move, abandoned=False)
        await until(lambda: services.live.version_id == version)
        serving = await until_reported(services, "serving")
        assert (serving.serving, serving.prepared) == (version, None)

    play(house, scene)
    assert house.loaded == [house.first, version]


def test_a_version_that_cannot_be_loaded_is_refused_with_its_reason(house: House) -> None:
    version = house.publish(1)
    house.broken.add(version)

    async def scene(services: Services) -> None:
        move = begin(services, version)
        refused = await until_reported(services, "refused")
        assert (refused.answered, refused.reason) == (move.id, f"{version} is broken")
        assert str(services.member.refusal) == f"{version} is broken"
        services.roster.end(move, abandoned=True)
        await until_reported(services, "serving")

    play(house, scene)


def test_a_version_is_let_go_when_its_move_is_abandoned(house: House) -> None:
    version = house.publish(1)

    async def scene(services: Services) -> None:
        move = begin(services, version)
        await until_reported(services, "ready")
        services.roster.end(move, abandoned=True)
        await until(lambda: services.watcher.prepared is None)
        assert (await until_reported(services, "serving")).prepared is None

    play(house, scene)


def test_a_version_whose_move_is_abandoned_while_it_loads_is_let_go_too(house: House) -> None:
    version = house.publish(1)

    async def scene(services: Services) -> None:
        house.hold.clear()
        move = begin(services, version)
        await until(lambda: version in house.loaded)
        services.roster.end(move, abandoned=True)
        await until(lambda: (report := reported(services)) is not None and report.answered is None)
        services.member.wake()
        house.hold.set()
        await until(lambda: (report := reported(services)) is not None and report.answered == move.id)
        await until(lambda: services.watcher.prepared is None)

    play(house, scene)


def test_who_was_left_out_of_a_move_knows(house: House) -> None:
    version = house.publish(1)

    async def scene(services: Services) -> None:
        assert await services.member.left_out(version) is False, "nobody was asked"
        for members, left_out in ((("another",), True), (("another", "server"), False)):
            move = begin(services, version)
            services.roster.commit(move, members)
            services.roster.end(move, abandoned=False)
            assert await services.member.left_out(version) is left_out

    play(house, scene)


def test_without_redis_a_server_serves_and_nobody_can_say_who_was_left_out(house_alone: House) -> None:
    async def scene(services: Services) -> None:
        await services.member.beat()
        assert services.live.version_id == house_alone.first
        assert await services.member.left_out(house_alone.first) is None

    play(house_alone, scene)


def test_a_change_is_reported_at_once_and_not_at_the_next_beat(tmp_path: Path, redis_url: str) -> None:
    house = House(tmp_path, redis_url, beat_s=600)
    version = house.publish(1)

    async def scene(services: Services) -> None:
        house.store.promote(version, expected=house.first, who="test", reason="")
        await until(lambda: (report := reported(services)) is not None and report.serving == version)

    play(house, scene)
    house.close()


def test_it_can_be_ended_in_the_moment_that_it_is_woken(tmp_path: Path, redis_url: str) -> None:
    house = House(tmp_path, redis_url, beat_s=600)

    async def scene(services: Services) -> None:
        taking_part = asyncio.create_task(services.member.run())
        await asyncio.sleep(0.1)  # it waits now
        services.member.wake()
        await asyncio.sleep(0)
        taking_part.cancel()
        await asyncio.wait([taking_part], timeout=5)
        ended = taking_part.done()
        taking_part.cancel()
        assert ended

    play(house, scene)
    house.close()
