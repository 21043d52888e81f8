from __future__ import annotations

import asyncio

import pytest

from app import tidy
from app.tidy import GROWN_BYTES, tidy_when_idle


class House:
    """A process whose memory is a number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held, self.idle, self.tidied = 0, True, 0
        monkeypatch.setattr(tidy, "resident_bytes", lambda: self.held)
        monkeypatch.setattr(tidy, "_tidy", self._tidy)

    def _tidy(self) -> None:
        self.tidied += 1
        self.held -= GROWN_BYTES  # half of what was too much is in use

    async def live(self, seconds: float, *, overdue_s: float = 60.0) -> None:
        duty = asyncio.create_task(tidy_when_idle(lambda: self.idle, every_s=0.01, overdue_s=overdue_s))
        await asyncio.sleep(seconds / 2)
        self.held += 2 * GROWN_BYTES
        await asyncio.sleep(seconds / 2)
        duty.cancel()


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


def test_a_process_that_has_grown_is_tidied_once_in_a_quiet_moment(house: House) -> None:
    asyncio.run(house.live(0.4))
    assert house.tidied == 1


def test_it_is_not_while_something_is_in_hand(house: House) -> None:
    house.idle = False
    asyncio.run(house.live(0.4))
    assert house.tidied == 0


def test_unless_that_has_been_so_for_long(house: House) -> None:
    house.idle = False
    asyncio.run(house.live(0.4, overdue_s=0.05))
    assert house.tidied >= 1
