"""When another attempt is made, and after how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from keepsight.client.retries import Retries, retry_after_s

BUSY = httpx.Response(503)


def answer(**headers: str) -> httpx.Response:
    return httpx.Response(429, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(("drawn", "waits"), [(0.0, [0.25, 0.5, 1.0]), (0.5, [0.375, 0.75, 1.5])])
def test_waits_double_and_half_of_each_is_random(drawn: float, waits: list[float]) -> None:
    retries = Retries(attempts=4, jitter=lambda: drawn)
    assert [retries.wait_s(attempt, BUSY) for attempt in (1, 2, 3, 4)] == [*waits, None]


def test_by_default_two_waits_differ() -> None:
    assert len({Retries().wait_s(1, BUSY) for _ in range(10)}) > 1


def test_waits_are_bounded_however_many_attempts_were_made() -> None:
    retries = Retries(attempts=10**6, max_wait_s=3.0, jitter=lambda: 1.0)
    assert retries.wait_s(99_999, BUSY) == 3.0


def test_the_time_that_was_asked_for_is_never_undercut() -> None:
    assert Retries(jitter=lambda: 0.0).wait_s(1, answer(retry_after="7")) == 7.0
    assert Retries(jitter=lambda: 0.5).wait_s(1, answer(retry_after="7")) == 7.125


def test_a_service_that_asks_for_too_long_a_wait_is_not_asked_again() -> None:
    assert Retries(max_wait_s=5.0).wait_s(1, answer(retry_after="6")) is None


@pytest.mark.parametrize("status", [200, 400, 401, 404, 409, 422, 500, 502, 504, 507])
def test_only_a_service_that_is_busy_is_asked_again(status: int) -> None:
    assert Retries().wait_s(1, httpx.Response(status, headers={"retry-after": "1"})) is None


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (httpx.ConnectError("refused"), True),
        (httpx.ConnectTimeout("slow"), True),
        (httpx.ReadError("reset"), False),
        (httpx.ReadTimeout("slow"), False),
        (httpx.InvalidURL("what"), False),
    ],
)
def test_only_what_cannot_have_arrived_is_sent_again(error: Exception, again: bool) -> None:
    assert (Retries().wait_s(1, error) is not None) == again


@pytest.mark.parametrize(
    ("said", "wait"), [("2", 2.0), ("0.5", 0.5), ("-5", 0.0), ("inf", 0.0), ("nan", 0.0), ("soon", 0.0)]
)
def test_retry_after_may_be_a_number(said: str, wait: float) -> None:
    assert retry_after_s(answer(retry_after=said)) == wait


def test_no_retry_after_asks_for_no_wait() -> None:
    assert retry_after_s(answer()) == 0.0


@pytest.mark.parametrize(("then", "wait"), [("07:28:20", 20.0), ("07:27:00", 0.0)])
def test_retry_after_may_be_a_date_by_the_services_clock(then: str, wait: float) -> None:
    response = answer(retry_after=f"Wed, 21 Oct 2015 {then} GMT", date="Wed, 21 Oct 2015 07:28:00 GMT")
    assert retry_after_s(response) == wait


def test_without_the_services_clock_ours_is_used() -> None:
    then = datetime.now(UTC) + timedelta(seconds=100)
    assert 90 < retry_after_s(answer(retry_after=format_datetime(then, usegmt=True))) <= 100
