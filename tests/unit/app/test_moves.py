"""CURRENT moves on request, over all servers, and nothing moves where it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.moves import Move, promote, roll_back
from app.services import Services
from exchange.rollout import Limits, RolloutBusyError
from model_store.types import ConflictError, NothingToRollBackToError, VersionId, VersionNotFoundError
from segp_cl.errors import KeepsightError
from tests.unit.app.house import House

Scene = Callable[[Services], Awaitable[Move]]


def play(house: House, scene: Scene) -> Move:
    """What `scene` gives while the server runs; it serves CURRENT when it is over."""

    async def main() -> Move:
        async with house.open() as services:
            assert services.live.version_id == house.first
            done = await scene(services)
            assert services.live.version_id == house.store.current()
            return done

    return asyncio.run(main())


def promoting(version_id: VersionId, *, expected: VersionId | None = None) -> Scene:
    return lambda services: promote(services, version_id, who="ann", reason="better", expected=expected)


def rolling_back(version_id: VersionId | None = None, *, expected: VersionId | None = None) -> Scene:
    return lambda services: roll_back(services, version_id, who="ann", reason="worse", expected=expected)


def test_a_promoted_version_is_served_when_the_move_is_done(house: House) -> None:
    version = house.publish(1)
    move = play(house, promoting(version))
    assert (move.before, move.after) == (house.first, version)
    assert move.prepare_s >= 0
    assert move.commit_s >= 0
    last = house.store.journal()[-1]
    assert (last.action, last.from_, last.to, last.who, last.reason) == (
        "promote",
        house.first,
        version,
        "ann",
        "better",
    )
    assert house.services.roster.members(version) == ("server",)
    assert house.loaded == [house.first, version]


def test_a_version_that_does_not_exist_asks_no_server(house: House) -> None:
    with pytest.raises(VersionNotFoundError):
        play(house, promoting("000009-0123456789ab"))
    assert house.services.roster.move() is None
    assert house.store.current() == house.first


def test_a_current_that_is_not_as_expected_is_not_moved(house: House) -> None:
    version, other = house.publish(1), house.publish(2)

    async def scene(services: Services) -> Move:
        with pytest.raises(ConflictError):
            await promoting(version, expected=other)(services)
        return await rolling_back(version, expected=other)(services)

    with pytest.raises(ConflictError):
        play(house, scene)
    assert house.store.current() == house.first
    move = house.services.roster.move()
    assert move is not None
    assert move.state == "abandoned"


def test_this_servers_own_reason_against_a_version_is_the_answer(house: House) -> None:
    version = house.publish(1)
    house.broken.add(version)
    with pytest.raises(KeepsightError, match=f"^{version} is broken$"):
        play(house, promoting(version))
    assert house.store.current() == house.first


def test_a_rollback_goes_to_the_parent_unless_a_version_is_named(house: House) -> None:
    second = house.publish(1)
    third = house.publish(2, parent=second)
    house.store.promote(second, expected=house.first, who="test", reason="")
    house.store.promote(third, expected=second, who="test", reason="")

    async def scene(services: Services) -> Move:
        parent = await rolling_back()(services)
        assert (parent.before, parent.after) == (third, second)
        return await rolling_back(house.first)(services)

    async def main() -> Move:
        async with house.open() as services:
            return await scene(services)

    named = asyncio.run(main())
    assert (named.before, named.after) == (second, house.first)
    assert [entry.action for entry in house.store.journal()][-2:] == ["rollback", "rollback"]


def test_version_1_has_nothing_to_go_back_to(house: House) -> None:
    with pytest.raises(NothingToRollBackToError):
        play(house, rolling_back())


def test_a_named_rollback_mends_a_pointer_that_cannot_be_read(house: House) -> None:
    async def scene(services: Services) -> Move:
        (house.store.root / "CURRENT").write_text("nonsense")
        return await rolling_back(house.first)(services)

    move = play(house, scene)
    assert (move.before, move.after) == (None, house.first)


def test_without_redis_this_server_prepares_and_follows_by_itself(house_alone: House) -> None:
    version = house_alone.publish(1)
    move = play(house_alone, promoting(version))
    assert move.after == version
    assert house_alone.loaded == [house_alone.first, version]


def test_without_redis_a_version_that_cannot_be_loaded_is_not_promoted(house_alone: House) -> None:
    version = house_alone.publish(1)
    house_alone.broken.add(version)
    with pytest.raises(KeepsightError, match="is broken"):
        play(house_alone, promoting(version))
    assert house_alone.store.current() == house_alone.first


def test_a_version_that_was_prepared_for_nothing_is_let_go(house_alone: House) -> None:
    version, other = house_alone.publish(1), house_alone.publish(2)
    with pytest.raises(ConflictError):
        play(house_alone, promoting(version, expected=other))
    assert version in house_alone.loaded
    assert house_alone.services.watcher.prepared is None


def test_another_move_under_way_is_waited_for_and_then_said(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    version = house.publish(1)
    monkeypatch.setattr(Limits, "of", lambda settings: Limits(turn_s=0.05))
    assert house.services.roster.begin(house.publish(2), hold_s=60) is not None
    with pytest.raises(RolloutBusyError):
        play(house, promoting(version))
    assert house.store.current() == house.first
