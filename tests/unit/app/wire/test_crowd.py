"""More connections than there is room for, and a server that stops."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from app.settings import Settings
from app.wire.limits import FILES_KEPT, Limits, open_files_limit
from tests.unit.app.wire.wire import Peer, Running, running
from tests.waiting import wait_until

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"\r\n"], ids=["nothing", "half a head", "an empty line"])
def test_honest_requests_are_answered_among_idle_connections(run_with: Callable[..., Running], sent: bytes) -> None:
    run = run_with(connections=10)
    for _ in range(60):
        run.peer().send(sent)
    honest = run.peer()
    for _ in range(3):
        honest.send(GET)
        assert honest.reply().status == 200
    assert run.answers()
    assert len(run.server.crowd) <= 10


def test_the_connection_that_was_idle_longest_is_closed_for_a_new_one(run_with: Callable[..., Running]) -> None:
    run = run_with(connections=3)
    peers = [run.peer() for _ in range(3)]
    for number in (1, 0, 2):  # the order of their last requests
        peers[number].send(GET)
        assert peers[number].reply().status == 200
    new = run.peer()
    new.send(GET)
    assert new.reply().status == 200
    assert peers[1].ends()
    for number in (0, 2):
        peers[number].send(GET)
        assert peers[number].reply().status == 200


def test_a_connection_that_was_closed_before_its_first_request_is_told_to_come_again(
    run_with: Callable[..., Running],
) -> None:
    run = run_with(connections=1)
    first, second = run.peer(), run.peer()
    reply = first.reply()
    assert (reply.status, reply.problem, reply.headers["retry-after"]) == (503, "too-many-connections", "1")
    second.send(GET)
    assert second.reply().status == 200


def test_a_new_connection_is_turned_away_at_once_where_all_have_requests_in_hand(
    run_with: Callable[..., Running],
) -> None:
    run = run_with(connections=2)
    busy = [run.peer() for _ in range(2)]
    for peer in busy:
        peer.send(HELD)
    wait_until(lambda: run.echo.begun == 2)
    for _ in range(20):  # more than may linger
        turned_away = run.peer()
        turned_away.send(GET)
    reply = turned_away.reply()
    assert (reply.status, reply.problem, reply.headers["connection"]) == (503, "too-many-connections", "close")
    run.echo.go.set()
    assert [peer.reply().status for peer in busy] == [200, 200]
    assert run.answers()


def test_bodies_that_stall_make_room(run_with: Callable[..., Running]) -> None:
    run = run_with(connections=4, stall_timeout_s=60, header_timeout_s=0.4)
    for _ in range(4):
        run.peer().send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
    wait_until(lambda: run.answers_or_not() == 200)


def test_answers_that_are_not_read_make_room(run_with: Callable[..., Running]) -> None:
    run = run_with(connections=4, stall_timeout_s=60, header_timeout_s=0.4)
    for _ in range(4):
        run.peer(receive_buffer=4096).send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: run.answers_or_not() == 200)


@pytest.mark.parametrize(
    ("files", "connections"), [(128, 16), (256, 72), (1024, 408), (4096, 1752), (20_000, 8936), (1_000_000, 10_000)]
)
def test_connections_leave_files_to_the_store(files: int, connections: int) -> None:
    limits = Limits.of(Settings(), files=files)
    assert limits.connections == connections
    assert 2 * limits.connections + limits.backlog + limits.lingering + FILES_KEPT <= files


def test_the_setting_says_how_many_connections_there_may_be() -> None:
    assert Limits.of(Settings(max_connections=7)).connections == 7


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
        assert open_files_limit() == min(before[1], 1_000_000) or before[1] == resource.RLIM_INFINITY
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_server_that_stops_answers_what_comes_on_open_connections_for_a_moment_then_only_what_is_in_hand() -> None:
    with running(grace_s=20) as run:
        busy, idle, half = run.peer(), run.peer(), run.peer()
        idle.send(GET)
        assert idle.reply().status == 200
        busy.send(HELD)
        half.send(b"GET /a HTTP/1.1\r\n")
        wait_until(lambda: run.echo.begun == 2)
        run.server.should_exit = True
        wait_until(lambda: run.server.crowd.stopping)
        half.send(b"Host: a\r\n\r\n")
        reply = half.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        with pytest.raises(ConnectionError):
            Peer(run.port)
        wait_until(lambda: run.server.crowd.closed)
        assert idle.ends()
        busy.send(GET)
        wait_until(lambda: "stopping" in run.ended)
        assert run.echo.begun == 3, "nothing new is begun"
        run.echo.go.set()
        reply = busy.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")


def test_a_server_stops_in_time_whatever_its_clients_do() -> None:
    began = time.monotonic()
    with running(grace_s=0.5) as run:
        run.peer().send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        run.peer().send(b"GET /a HTTP")
        run.peer(receive_buffer=4096).send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        run.peer().send(HELD)
        run.peer().send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        run.peer()
        wait_until(lambda: run.echo.begun == 4)
        run.server.should_exit = True
        wait_until(lambda: run.is_empty() or time.monotonic() - began > 30)
    assert time.monotonic() - began < 20


def test_thousands_of_streams_of_garbage_leave_nothing_behind(
    run_with: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    run = run_with(header_timeout_s=1.0, idle_timeout_s=1.0, stall_timeout_s=1.0)
    pieces = [
        *(b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST /a HTTP/1.1\r\n", b"\r\n", b"\r\n\r\n"),
        *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello"),
        *(b"Host: [\r\n", b"ffffffff\r\n", b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"Expect: 100-continue\r\n"),
        *(b"\0" * 9, b"PRI * HTTP/2.0\r\n\r\n", b"X: \xff\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"HTTP/1.0\r\n"),
        *(b" ", b"Connection: close\r\n", b"/early"),
    ]

    def attack(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(1250):
            parts = chance.choices(pieces, k=chance.randint(1, 9))
            if chance.random() < 0.3:
                parts.append(chance.randbytes(chance.randint(1, 200)))
            if chance.random() < 0.3:
                chance.shuffle(parts)
            try:
                with Peer(run.port) as peer:
                    for part in parts:
                        peer.send(part)
                    if chance.random() < 0.3:
                        peer.socket.shutdown(1)
                        while peer.socket.recv(65_536):
                            pass
            except TimeoutError:
                raise
            except OSError:
                pass  # the server had heard enough: the connection is reset, or not there any more

    attackers = [threading.Thread(target=attack, args=(seed,)) for seed in range(4)]
    for attacker in attackers:
        attacker.start()
    for attacker in attackers:
        attacker.join(120)
    wait_until(run.is_empty, 60)
    assert run.answers()
    assert [record.getMessage() for record in caplog.records if record.levelno >= 30] == []
