"""How long a client may take: by the clock alone, and over sockets."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from app.wire.patience import Awaited, Patience
from tests.unit.app.wire.wire import LIMITS, Running
from tests.waiting import wait_until

LINE = replace(LIMITS, header_timeout_s=10, idle_timeout_s=65, stall_timeout_s=30, window_bytes=30 * 8192)


def ends_after(awaited: Awaited | None, bytes_per_s: float, *, for_s: int = 100_000) -> int | None:
    """Look every second at a client that moves so many bytes a second; return when it is cut off."""
    patience = Patience(LINE)
    for second in range(for_s):
        if patience.ends(awaited, 1, int(second * bytes_per_s), float(second)):
            return second
    return None


@pytest.mark.parametrize(
    ("awaited", "bytes_per_s", "after_s"),
    [
        (Awaited.REQUEST, 0, 66),
        (Awaited.HEAD, 1, 11),
        (Awaited.BODY, 0, 31),
        (Awaited.BODY, 1, 31),
        (Awaited.BODY, 7000, 31),
        (Awaited.BODY, 8192, None),  # two gigabytes at this rate take three days, and are taken
        (Awaited.READING, 0, 31),
        (Awaited.READING, 7000, 31),
        (Awaited.READING, 8192, None),
        (None, 0, None),
    ],
)
def test_a_client_is_cut_off_when_it_is_slower_than_it_must_be(
    awaited: Awaited | None, bytes_per_s: float, after_s: int | None
) -> None:
    assert ends_after(awaited, bytes_per_s) == after_s


def test_a_line_may_be_down_for_most_of_a_window() -> None:
    patience = Patience(LINE)
    moved = 0
    for second in range(10_000):
        moved += 500_000 if second % 25 == 0 else 0
        assert not patience.ends(Awaited.BODY, 1, moved, float(second))


def test_another_request_starts_the_clock_anew() -> None:
    patience = Patience(LINE)
    assert not any(patience.ends(Awaited.HEAD, second // 9, 0, float(second)) for second in range(1000))


def test_a_client_that_moves_nothing_is_quiet_and_one_that_is_not_waited_for_is_not() -> None:
    patience = Patience(LINE)
    said = []
    for second, (awaited, moved) in enumerate(
        [(Awaited.BODY, 0), (Awaited.BODY, 5), (Awaited.BODY, 5), (None, 0), (None, 0), (Awaited.READING, 0)]
    ):
        patience.ends(awaited, 1, moved, float(second))
        said.append(patience.quiet)
    assert said == [False, False, True, False, False, False]


def test_headers_that_come_a_byte_at_a_time_are_cut_off(run_with: Callable[..., Running]) -> None:
    run = run_with(header_timeout_s=0.4)
    peer = run.peer()
    with suppress(ConnectionError):
        for number in range(1000):
            peer.send(b"GET / HTTP/1.1\r\nX: "[number : number + 1] or b"y")
            time.sleep(0.01)
            if run.ended:
                break
    assert peer.reply().status == 408
    assert run.ended == ["request-timeout"]


def test_a_connection_without_a_request_is_closed(run_with: Callable[..., Running]) -> None:
    run = run_with(header_timeout_s=1.0, idle_timeout_s=1.2)
    fresh, used = run.peer(), run.peer()
    used.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    assert used.reply().status == 200
    assert fresh.reply().status == 408
    assert used.ends()  # closed without a word, as clients expect of a connection that they keep


def test_empty_lines_do_not_keep_a_connection_open(run_with: Callable[..., Running]) -> None:
    run = run_with(header_timeout_s=0.3)
    peer = run.peer()
    with suppress(ConnectionError):
        for _ in range(1000):
            peer.send(b"\r\n")
            time.sleep(0.01)
            if run.ended:
                break
    assert peer.reply().status == 408


@pytest.mark.parametrize("head", [b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
@pytest.mark.parametrize("drip", [b"", b"1\r\nx\r\n"])
def test_a_body_that_stalls_or_drips_is_cut_off(run_with: Callable[..., Running], head: bytes, drip: bytes) -> None:
    run = run_with(stall_timeout_s=0.4, window_bytes=1000)
    peer = run.peer()
    peer.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + head)
    with suppress(ConnectionError):
        for _ in range(1000):
            peer.send(drip)
            time.sleep(0.01)
            if run.ended:
                break
    reply = peer.reply()
    assert (reply.status, reply.problem) == (408, "request-timeout")
    wait_until(lambda: run.echo.hung_up == 1)  # the application is told, so that it lets go of what it holds


def test_a_slow_body_that_moves_is_read_to_its_end(run_with: Callable[..., Running]) -> None:
    run = run_with(stall_timeout_s=2, window_bytes=500)
    peer = run.peer()
    peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n")
    for _ in range(30):
        peer.send(b"x" * 1000)
        time.sleep(0.1)
    assert len(peer.reply().document["body"]) == 30_000


def test_an_application_that_takes_its_time_is_waited_for(run_with: Callable[..., Running]) -> None:
    run = run_with(idle_timeout_s=0.2, stall_timeout_s=0.2)
    peer = run.peer()
    peer.send(b"POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
    time.sleep(1)
    run.echo.go.set()
    assert peer.reply().document["body"] == "abc"


def test_an_answer_that_is_not_read_is_given_up(run_with: Callable[..., Running]) -> None:
    run = run_with(stall_timeout_s=0.5, window_bytes=1000)
    peer = run.peer(receive_buffer=4096)
    peer.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: run.ended == ["answer-not-taken"])
    wait_until(run.is_empty)


def test_an_answer_that_is_read_slowly_is_not_given_up(run_with: Callable[..., Running]) -> None:
    run = run_with(stall_timeout_s=2, window_bytes=1000)
    peer = run.peer(receive_buffer=65_536)
    peer.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    for _ in range(30):
        assert peer.socket.recv(30_000)
        time.sleep(0.1)
    assert run.ended == []
