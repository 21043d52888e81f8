"""Pools that keep what hangs from holding anything else up."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from app.offload import QUICK_BYTES, Pool, off_loop
from tests.waiting import until


class FullError(Exception):
    """No place is left."""


def test_what_hangs_fills_its_own_pool_and_the_rest_is_refused_at_once() -> None:
    async def main() -> None:
        hold = threading.Event()
        pool = Pool("test", threads=2, waiting=1, full=FullError)
        waiting = [asyncio.create_task(pool.run(hold.wait, 30)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await pool.run(lambda: None)
        assert await off_loop(10**9, lambda: "parsed") == "parsed"
        waiting[0].cancel()  # its thread still hangs, so its place is not free
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await pool.run(lambda: None)
        hold.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: pool._taken == 0)
        assert await pool.run(lambda: "answer") == "answer"
        pool.close()

    asyncio.run(main())


def test_an_error_of_the_work_is_raised_and_frees_its_place() -> None:
    async def main() -> None:
        pool = Pool("test", threads=1, waiting=0, full=FullError)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await pool.run(lambda: 1 / 0)
            await until(lambda: pool._taken == 0)
        pool.close()

    asyncio.run(main())


def test_what_is_long_runs_in_a_thread_that_takes_short_turns() -> None:
    usual_s = sys.getswitchinterval()

    async def main() -> None:
        for size, is_long in ((QUICK_BYTES, False), (QUICK_BYTES + 1, True)):
            thread, turn_s = await off_loop(size, lambda: (threading.get_ident(), sys.getswitchinterval()))
            assert (thread != threading.get_ident()) is is_long
            assert (turn_s < usual_s / 5) is is_long
        with pytest.raises(ZeroDivisionError):
            await off_loop(QUICK_BYTES + 1, lambda: 1 / 0)
        assert sys.getswitchinterval() == pytest.approx(usual_s)

    asyncio.run(main())
