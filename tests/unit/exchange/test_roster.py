"""What Redis remembers of a store's servers and of the move that is under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import redis

from exchange.announcements import Announcements
from exchange.contracts import CURRENT_CHANNEL
from exchange.redis_client import BrokerUnavailableError
from exchange.roster import Roster, ServerReport, ServerState
from tests.waiting import until

OLD, NEW = "000001-aaaaaaaaaaaa", "000002-bbbbbbbbbbbb"


def report(name: str, *, state: ServerState = "serving", serving: str | None = OLD) -> ServerReport:
    return ServerReport(id=name, host="here", pid=1, device="cpu", serving=serving, state=state)


@pytest.fixture
def roster(redis_url: str) -> Iterator[Roster]:
    roster = Roster(redis_url, f"test-{time.time_ns()}")
    yield roster
    roster.close()


def test_servers_are_listed_by_id_with_their_last_report_and_its_age(roster: Roster) -> None:
    assert roster.servers() == []
    roster.report(report("b"))
    roster.report(report("a", state="starting", serving=None))
    roster.report(report("a"))
    first, second = roster.servers()
    assert (first.report, second.report) == (report("a"), report("b"))
    assert 0 <= first.seen_s <= second.seen_s + 0.002  # whole milliseconds


def test_a_report_of_a_newer_release_is_read_as_far_as_it_goes(roster: Roster, redis_url: str) -> None:
    roster.report(report("a"))
    raw = report("a").model_dump_json().replace("{", '{"mood": "good", ', 1)
    with redis.Redis.from_url(redis_url) as client:
        client.hset(roster._servers, "a", raw)
    (seen,) = roster.servers()
    assert seen.report == report("a")


def test_a_server_hears_of_the_move_when_it_reports(roster: Roster) -> None:
    assert roster.report(report("a")) is None
    begun = roster.begin(NEW, hold_s=60)
    assert begun is not None
    assert roster.report(report("a")) == begun
    assert roster.move() == begun
    assert roster.commit(begun, ("a",))
    committed = roster.report(report("a"))
    assert committed is not None
    assert (committed.id, committed.state, committed.members) == (begun.id, "committed", ("a",))


def test_the_next_move_begins_when_the_one_before_ends(roster: Roster) -> None:
    first = roster.begin(OLD, hold_s=60)
    assert first is not None
    assert roster.begin(NEW, hold_s=60) is None
    roster.end(first, abandoned=True)
    last = roster.move()
    assert last is not None
    assert last.state == "abandoned"
    second = roster.begin(NEW, hold_s=60)
    assert second is not None
    assert second.id != first.id
    assert not roster.commit(first, ()), "its turn is over"
    assert roster.move() == second


def test_who_was_ready_is_remembered_by_version(roster: Roster) -> None:
    assert roster.members(NEW) is None
    move = roster.begin(NEW, hold_s=60)
    assert move is not None
    roster.commit(move, ())
    roster.end(move, abandoned=False)
    assert roster.members(NEW) == ()
    assert roster.members(OLD) is None


def test_where_no_server_was_known_none_was_left_out(roster: Roster) -> None:
    move = roster.begin(NEW, hold_s=60)
    assert move is not None
    assert roster.commit(move, None)
    assert roster.members(NEW) is None


def test_nobody_was_silent_while_the_broker_was(roster: Roster, redis_url: str) -> None:
    roster.report(report("a"))
    roster.report(report("b"))
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        for name, beat in client.hgetall(roster._beats).items():
            client.hset(roster._beats, name, int(beat) - 8000)
    assert all(server.seen_s >= 8 for server in roster.servers())
    roster.report(report("a"))
    assert [server.seen_s >= 8 for server in roster.servers()] == [False, True]
    roster.report(report("a"), after_failure=True)
    assert all(server.seen_s < 4 for server in roster.servers())


def test_beginning_ending_and_waking_are_announced(roster: Roster, redis_url: str) -> None:
    async def scene() -> int:
        announcements, heard = Announcements(redis_url), 0

        def count() -> None:
            nonlocal heard
            heard += 1

        async with announcements.on(CURRENT_CHANNEL, count):
            heard = 0  # a subscription begins with one
            move = await asyncio.to_thread(roster.begin, NEW, hold_s=60)
            assert move is not None
            await asyncio.to_thread(roster.wake, NEW)
            await asyncio.to_thread(roster.end, move, abandoned=False)
            await until(lambda: heard == 3)
        await announcements.close()
        return heard

    assert asyncio.run(scene()) == 3


def test_a_mover_that_died_holds_up_the_next_for_a_while_only(roster: Roster) -> None:
    assert roster.begin(OLD, hold_s=0.1) is not None
    assert roster.begin(NEW, hold_s=1) is None
    time.sleep(0.15)
    assert roster.move() is None, "servers would prepare for a mover that is gone"
    assert roster.begin(NEW, hold_s=1) is not None


def test_a_server_that_left_is_not_listed(roster: Roster) -> None:
    roster.report(report("a"))
    roster.report(report("b"))
    roster.leave("a")
    assert [server.report.id for server in roster.servers()] == ["b"]


def test_stores_do_not_hear_of_each_other(roster: Roster, redis_url: str) -> None:
    roster.report(report("a"))
    assert roster.begin(NEW, hold_s=60) is not None
    other = Roster(redis_url, "another")
    assert other.servers() == []
    assert other.move() is None
    other.close()


def test_without_the_broker_every_call_says_so() -> None:
    nowhere = Roster("redis://127.0.0.1:1/0", "x", timeout_s=0.2)
    for call in (
        lambda: nowhere.report(report("a")),
        lambda: nowhere.leave("a"),
        lambda: nowhere.members(NEW),
        nowhere.move,
        nowhere.servers,
        lambda: nowhere.begin(NEW, hold_s=1),
        lambda: nowhere.wake(NEW),
    ):
        with pytest.raises(BrokerUnavailableError, match="does not answer"):
            call()
    nowhere.close()
