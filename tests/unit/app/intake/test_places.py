from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from app.errors import DeadlineError
from app.intake.places import Check, Intake, Places

WAIT_S = 20.0


class Client:
    """A client that can hang up."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self.request = Request({"type": "http", "headers": [], "method": "POST", "path": "/"}, self._receive)

    def hang_up(self) -> None:
        self._gone.set()

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}


class Work:
    """A check of an upload that runs until it is not wanted any more, or may finish; if `deaf`, until it may finish."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.deaf = deaf
        self.begun = threading.Event()
        self.finish = threading.Event()
        self.ended = threading.Event()
        self.nice = -1

    def __call__(self, check: Check) -> str:
        self.begun.set()
        self.nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        try:
            while not self.finish.wait(0.01):
                if not self.deaf:
                    check()
            return "done"
        finally:
            self.ended.set()


async def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not happened():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_the_result_of_the_work_is_returned_and_its_thread_gives_way() -> None:
    async def scene() -> None:
        intake, work = Intake(threads=1, timeout_s=WAIT_S), Work()
        work.finish.set()
        assert await intake.run(Client().request, "a", work) == "done"
        assert work.nice == max(10, os.getpriority(os.PRIO_PROCESS, 0))
        intake.close()

    asyncio.run(scene())


def test_threads_take_short_turns_while_an_upload_is_checked() -> None:
    usual_s = sys.getswitchinterval()

    async def scene() -> None:
        intake, first, second = Intake(threads=2, timeout_s=WAIT_S), Work(), Work()
        running = [asyncio.ensure_future(intake.run(Client().request, "a", work)) for work in (first, second)]
        await until(lambda: first.begun.is_set() and second.begun.is_set())
        assert sys.getswitchinterval() < usual_s / 5
        first.finish.set()
        await running[0]
        assert sys.getswitchinterval() < usual_s / 5
        second.finish.set()
        await running[1]
        assert sys.getswitchinterval() == pytest.approx(usual_s)
        intake.close()

    asyncio.run(scene())


def test_the_work_ends_when_its_client_hangs_up() -> None:
    async def scene() -> None:
        intake, work, client = Intake(threads=1, timeout_s=WAIT_S), Work(), Client()
        running = asyncio.ensure_future(intake.run(client.request, "a", work))
        await until(work.begun.is_set)
        client.hang_up()
        with pytest.raises(ClientDisconnect):
            await running
        assert work.ended.is_set()
        intake.close()

    asyncio.run(scene())


def test_the_work_ends_when_its_time_is_up() -> None:
    async def scene() -> None:
        intake, work = Intake(threads=1, timeout_s=0.2), Work()
        with pytest.raises(DeadlineError, match=r"within 0\.2 s"):
            await intake.run(Client().request, "a", work)
        assert work.ended.is_set()
        intake.close()

    asyncio.run(scene())


def test_work_that_has_finished_when_its_client_hangs_up_is_not_lost() -> None:
    async def scene() -> None:
        intake, client = Intake(threads=1, timeout_s=WAIT_S), Client()
        begun, finish = threading.Event(), threading.Event()

        def work(check: Check) -> str:
            begun.set()
            finish.wait(WAIT_S)  # past the last check
            return "queued"

        running = asyncio.ensure_future(intake.run(client.request, "a", work))
        await until(begun.is_set)
        client.hang_up()
        await asyncio.sleep(0.05)
        finish.set()
        assert await running == "queued"
        intake.close()

    asyncio.run(scene())


@pytest.mark.parametrize("how", ["hangs up", "time is up"])
def test_waiting_for_a_place_ends_too(how: str) -> None:
    async def scene() -> None:
        intake = Intake(threads=1, timeout_s=1.0 if how == "time is up" else WAIT_S)
        first, second = Work(deaf=True), Work()
        busy = asyncio.ensure_future(intake.run(Client().request, "a", first))
        await until(first.begun.is_set)
        client = Client()
        waiting = asyncio.ensure_future(intake.run(client.request, "b", second))
        await asyncio.sleep(0.05)
        if how == "hangs up":
            client.hang_up()
        with pytest.raises(ClientDisconnect if how == "hangs up" else DeadlineError):
            await waiting
        assert not second.begun.is_set()
        first.finish.set()
        assert await busy == "done"
        third = Work()
        third.finish.set()
        assert await intake.run(Client().request, "c", third) == "done"  # its place was not lost
        intake.close()

    asyncio.run(scene())


def test_a_server_that_stops_ends_the_work() -> None:
    async def scene() -> None:
        intake, work = Intake(threads=1, timeout_s=WAIT_S), Work()
        running = asyncio.ensure_future(intake.run(Client().request, "a", work))
        await until(work.begun.is_set)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert work.ended.is_set()
        intake.close()

    asyncio.run(scene())


def test_callers_take_turns_however_many_uploads_each_has_waiting() -> None:
    async def scene() -> None:
        places, order = Places(1), list[str]()

        async def upload(caller: str, number: int) -> None:
            async with places.place(caller):
                order.append(f"{caller}{number}")
                await asyncio.sleep(0.01)

        many = [asyncio.ensure_future(upload("a", number)) for number in range(4)]
        await asyncio.sleep(0)
        one = asyncio.ensure_future(upload("b", 0))
        await asyncio.gather(*many, one)
        assert order == ["a0", "a1", "b0", "a2", "a3"]

    asyncio.run(scene())


def test_a_place_given_to_one_who_leaves_goes_to_the_next() -> None:
    async def scene() -> None:
        places, order = Places(1), list[str]()
        leave = asyncio.Event()

        async def upload(caller: str) -> None:
            async with places.place(caller):
                order.append(caller)
                await leave.wait()

        first, second, third = (asyncio.ensure_future(upload(caller)) for caller in "abc")
        await asyncio.sleep(0)
        leave.set()
        await first
        second.cancel()  # at the moment when the place is its own
        await third
        assert order[-1] == "c"
        async with places.place("d"):
            pass

    asyncio.run(scene())
