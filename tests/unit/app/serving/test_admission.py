from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from app.errors import BusyError, DeadlineError
from app.metrics import Metrics
from app.serving.admission import Admission, unless_gone


def request(*messages: str, after_s: float = 0.0) -> Request:
    """A request whose client sends these messages after its body, then nothing."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(after_s)
        if left:
            return {"type": left.pop(0)}
        await asyncio.Event().wait()
        raise AssertionError

    return Request({"type": "http", "method": "GET", "path": "/", "headers": []}, receive)


def test_work_is_answered_while_the_client_stays() -> None:
    async def work() -> int:
        await asyncio.sleep(0.01)
        return 3

    assert asyncio.run(unless_gone(request("http.request"), work())) == 3


def test_work_is_cancelled_once_the_client_is_gone() -> None:
    cancelled = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def scene() -> None:
        with pytest.raises(ClientDisconnect):
            await unless_gone(request("http.request", "http.disconnect", after_s=0.01), work())
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}  # nothing goes on behind the answer

    asyncio.run(scene())
    assert cancelled == [True]


def test_an_error_of_the_work_is_the_callers() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(unless_gone(request(), work()))


def test_a_deadline_around_it_cancels_the_work() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def scene() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(unless_gone(request(), work()), 0.02)
        await asyncio.sleep(0)

    asyncio.run(scene())
    assert ended == [True]


def test_there_are_only_so_many_places_and_each_is_given_back() -> None:
    admission = Admission(places=2, timeout_s=1, metrics=Metrics())
    with (
        admission.place(),
        admission.place(),
        pytest.raises(BusyError, match="2 requests are in progress; at most 2"),
        admission.place(),
    ):
        raise AssertionError
    with pytest.raises(ZeroDivisionError), admission.place():
        raise ZeroDivisionError
    with admission.place(), admission.place():
        pass


def test_a_request_holds_its_place_for_a_while_only() -> None:
    admission = Admission(places=1, timeout_s=60, metrics=Metrics())

    async def work() -> None:
        await asyncio.sleep(60)

    async def scene() -> None:
        with pytest.raises(DeadlineError, match=r"no answer within 0\.02 s"):
            await admission.while_wanted(request(), work, timeout_ms=20)
        with admission.place():
            pass

    asyncio.run(scene())


def test_a_client_that_would_wait_for_ever_waits_as_long_as_the_server_allows() -> None:
    admission = Admission(places=1, timeout_s=0.02, metrics=Metrics())

    async def work() -> None:
        await asyncio.sleep(60)

    with pytest.raises(DeadlineError, match=r"no answer within 0\.02 s"):
        asyncio.run(admission.while_wanted(request(), work, timeout_ms=10**400))
