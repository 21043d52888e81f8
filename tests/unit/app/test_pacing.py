"""Refusals that come too fast are held back, by caller, and nothing else is."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.metrics import Metrics
from app.pacing import HELD_S, LONGEST_S, MOST_CALLERS, REFUSED, Pace, Paced


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_second_s_refusals_are_free_and_then_each_waits_for_its_turn() -> None:
    pace = Pace(10, clock=Clock())
    waits = [pace.wait_s("10.0.0.1") for _ in range(13)]
    assert waits == pytest.approx([0.0] * 10 + [0.1, 0.2, 0.3])


def test_a_caller_who_waits_is_refused_at_the_rate_for_ever() -> None:
    clock = Clock()
    pace, held = Pace(10, clock=clock), []
    for _ in range(200):
        held.append(pace.wait_s("10.0.0.1"))
        clock.now += held[-1]
    assert clock.now - 1000 == pytest.approx(19.0)  # 200 refusals at 10 a second, of which one second's were free
    assert max(held) <= 0.1 + 1e-9


def test_nobody_waits_longer_than_the_longest_whatever_was_sent_before() -> None:
    clock = Clock()
    pace = Pace(10, clock=clock)
    assert max(pace.wait_s("10.0.0.1") for _ in range(10_000)) == LONGEST_S
    clock.now += 1 + LONGEST_S
    assert pace.wait_s("10.0.0.1") == 0.0


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_callers_are_told_apart_by_address_and_by_network(first: str, second: str, same: bool) -> None:
    pace = Pace(1, clock=Clock())
    assert pace.wait_s(first) == 0.0
    assert (pace.wait_s(second) > 0) is same


def test_callers_without_an_address_and_a_rate_of_none_are_never_held() -> None:
    assert all(Pace(1, clock=Clock()).wait_s("") == 0.0 for _ in range(5))
    pace, none = Pace(1, clock=Clock()), Pace(0, clock=Clock())
    assert all(pace.wait_s("testclient") == none.wait_s("10.0.0.1") == 0.0 for _ in range(50))


def test_only_so_many_callers_are_remembered() -> None:
    pace = Pace(1, clock=Clock())
    for caller in range(MOST_CALLERS + 1):
        pace.wait_s(f"10.0.{caller // 256}.{caller % 256}")
    assert len(pace._due) == MOST_CALLERS
    assert pace.wait_s("10.0.0.0") == 0.0, "the first one is forgotten"
    assert pace.wait_s("10.0.16.0") > 0


async def _answer(status: int, *, refused: bool = False, address: str | None = "10.0.0.1", times: int = 3) -> Scope:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if refused:
            scope["state"][REFUSED] = True
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        pass

    paced = Paced(app, Pace(1, clock=Clock()), Metrics())
    for _ in range(times):
        scope: Scope = {"type": "http", "client": (address, 5) if address else None, "state": {}}
        await paced(scope, receive, send)
    return scope


@pytest.mark.parametrize(
    ("status", "refused", "held"),
    [
        (400, False, True),
        (404, False, True),
        (422, False, True),
        (401, False, True),
        (200, True, True),
        (200, False, False),
        (202, False, False),
        (304, False, False),
        (429, False, False),
        (500, False, False),
        (503, False, False),
    ],
)
def test_refusals_are_held_and_no_other_answer(
    status: int, refused: bool, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("app.pacing.asyncio.sleep", sleep)
    scope = asyncio.run(_answer(status, refused=refused))
    assert slept == ([LONGEST_S, LONGEST_S] if held else [])
    assert (scope["state"].get(HELD_S) == LONGEST_S) is held
    slept.clear()
    asyncio.run(_answer(status, refused=refused, address=None))
    assert not slept, "it has no address"
