"""How much a client may send that is no body: refused as soon as it is too much, in bounded memory."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import pytest

from app.wire.limits import MAX_HEADERS, MAX_PIPELINED, MAX_TARGET_BYTES
from tests.unit.app.wire.wire import LIMITS, Peer, Running

MIB = 1024 * 1024
POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "a header's value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"y", 431),
    "a header's name": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"y", 431),
    "headers": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n", 431),
    "an address": (b"GET /", b"y", 414),
    "a query": (b"GET /?", b"y", 414),
    "a trailer": (POST + b"0\r\nX: ", b"y", 431),
    "trailers": (POST + b"0\r\n", b"X: y\r\n", 431),
    "the extension of a chunk": (POST + b"1;", b"y", 431),
    "the extension of the last chunk": (POST + b"0;", b"y", 431),
    "lines before a request": (b"", b"\r\n", 431),
    "an upgrade's headers": (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n", b"X: y\r\n", 431),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_what_has_no_end_is_refused_at_its_limit(run: Running, case: str) -> None:
    begin, more, status = ENDLESS[case]
    piece = more * (65_536 // len(more))
    peer = run.peer()
    tracemalloc.start()
    try:
        peer.send(begin)
        for _ in range(200 * MIB // len(piece)):
            peer.send(piece)
            if run.ended:
                break
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    reply = peer.reply()
    assert (reply.status, reply.document["status"]) == (status, status)
    assert held < 8 * MIB
    assert run.answers()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * LIMITS.header_bytes + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * MAX_TARGET_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * MAX_HEADERS + b"\r\n", 431),
    ],
)
@pytest.mark.parametrize("size", [1_000_000, 1000])
def test_a_head_just_above_a_limit_is_refused_however_it_is_cut(
    run: Running, sent: bytes, status: int, size: int
) -> None:
    peer = run.peer()
    for begin in range(0, len(sent), size):
        peer.send(sent[begin : begin + size])
    assert peer.reply().status == status


def test_a_head_below_the_limits_is_served_however_it_is_cut(run: Running) -> None:
    head = b"GET /" + b"y" * 3000 + b" HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * (MAX_HEADERS - 2)
    head += b"Y: " + b"z" * 3000 + b"\r\n\r\n"
    peer = run.peer()
    for begin in range(0, len(head), 7):
        peer.send(head[begin : begin + 7])
    assert peer.reply().status == 200
    peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000 + head)
    assert [len(peer.reply().document["body"]) for _ in range(2)] == [1_000_000, 0]


def test_a_body_in_tiny_chunks_with_long_extensions_is_refused(run: Running) -> None:
    peer = run.peer()
    peer.send(POST)
    while not run.ended:
        peer.send(b"1;" + b"y" * 4000 + b"\r\nx\r\n")
    assert peer.reply().status == 431


def test_a_body_in_chunks_of_one_byte_is_read(run: Running) -> None:
    peer = run.peer()
    peer.send(POST + b"1\r\nx\r\n" * 100_000)
    peer.send(b"0\r\n\r\n")
    assert len(peer.reply().document["body"]) == 100_000


def test_a_flood_of_pipelined_requests_is_stopped_and_those_that_were_taken_are_answered(run: Running) -> None:
    peer = run.peer()
    peer.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n" * 20_000)
    run.echo.go.set()
    statuses = []
    while 429 not in statuses:
        statuses.append(peer.reply().status)
    assert statuses == [200] * (MAX_PIPELINED + 1) + [429]
    assert run.echo.begun == MAX_PIPELINED + 1
    assert run.answers()


def test_a_client_that_reads_no_answers_is_not_read_for_ever(run: Running) -> None:
    with Peer(run.port, receive_buffer=4096) as peer:
        peer.socket.settimeout(0.5)
        assert send_for_ever(peer, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 2000) < 100 * MIB
        assert run.echo.begun == 1
        assert run.answers()


def send_for_ever(peer: Peer, data: bytes) -> int:
    """Return how many bytes the server and the system took."""
    sent = 0
    with suppress(TimeoutError, ConnectionError):
        while sent < 200 * MIB:
            sent += peer.socket.send(data)
    return sent
