"""Requests as clients send them, byte by byte: what reaches the application, and what is refused before it."""

from __future__ import annotations

import pytest

from tests.unit.app.wire.wire import Running

CHUNKED = b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"
GET = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADES = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    "h2c-and-keep-alive": b"Connection: keep-alive, upgrade, http2-settings\r\nUPGRADE: h2c\r\nHTTP2-Settings:\r\n",
    "two-lines": b"Connection: HTTP2-Settings\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
    "tls": b"Connection: Upgrade\r\nUpgrade: TLS/1.3\r\n",
}
BODIES = {
    "length": (b"Content-Length: 11\r\n", b"hello world"),
    "chunked": (b"Transfer-Encoding: chunked\r\n", b"6\r\nhello \r\n5;x=y\r\nworld\r\n0\r\nTrailer: t\r\n\r\n"),
    "expected": (b"Expect: 100-continue\r\nContent-Length: 11\r\n", b"hello world"),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("parts", ["one segment", "body later", "byte by byte"])
def test_a_request_that_offers_another_protocol_keeps_its_body_and_its_connection(
    run: Running, upgrade: str, body: str, parts: str
) -> None:
    headers, content = BODIES[body]
    head = b"POST /a?b HTTP/1.1\r\nHost: a\r\nX-One: 1\r\n" + UPGRADES[upgrade] + headers + b"\r\n"
    peer = run.peer()
    if parts == "one segment":
        peer.send(head + content + GET)
    elif parts == "body later":
        peer.send(head)
        peer.send(content)
        peer.send(GET)
    else:
        for number in range(len(head + content + GET)):
            peer.send((head + content + GET)[number : number + 1])
    first = peer.reply()
    assert (first.status, first.document["path"], first.document["query"]) == (200, "/a", "b")
    assert first.document["body"] == "hello world"
    assert ["x-one", "1"] in first.document["headers"]
    assert not {"upgrade", "http2-settings", "trailer"} & {name for name, _ in first.document["headers"]}
    assert peer.reply().document["path"] == "/next"
    assert run.ended == []


def test_upgrades_may_be_pipelined(run: Running) -> None:
    one = b"POST /%d HTTP/1.1\r\nHost: a\r\n" + UPGRADES["h2c"] + b"Content-Length: 3\r\n\r\nabc"
    peer = run.peer()
    peer.send(b"".join(one % number for number in range(10)))
    assert [peer.reply().document["path"] for _ in range(10)] == [f"/{number}" for number in range(10)]


def test_pipelined_requests_are_answered_in_their_order(run: Running) -> None:
    peer = run.peer()
    peer.send(
        b"GET /held HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET /c HT"
    )
    peer.send(b"TP/1.1\r\nHost: a\r\n\r\n")
    run.echo.go.set()
    assert [peer.reply().document["path"] for _ in range(3)] == ["/held", "/b", "/c"]


def test_what_follows_a_last_request_is_not_run(run: Running) -> None:
    peer = run.peer()
    peer.send(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET * 3)
    assert peer.reply().headers["connection"] == "close"
    assert peer.ends()
    assert run.echo.begun == 1


def test_an_invalid_request_is_answered_after_those_before_it(run: Running) -> None:
    peer = run.peer()
    peer.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n" + GET + b"nonsense\r\n\r\n")
    run.echo.go.set()
    assert [peer.reply().status for _ in range(3)] == [200, 200, 400]
    assert peer.ends()


def test_a_queued_request_with_an_invalid_body_is_not_run(run: Running) -> None:
    peer = run.peer()
    peer.send(
        b"GET /held HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    )
    run.echo.go.set()
    assert [peer.reply().status for _ in range(2)] == [200, 400]
    assert run.echo.begun == 1


def test_a_body_that_turns_invalid_ends_the_request_with_400(run: Running) -> None:
    reply = run.ask(b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"zz\r\n")
    assert (reply.status, reply.problem) == (400, "bad-request")
    assert run.answers()
    assert run.echo.hung_up == 1


def test_an_answer_before_the_end_of_the_body_arrives_though_the_client_goes_on_sending(run: Running) -> None:
    peer = run.peer()
    peer.send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n")
    for _ in range(20):
        peer.send(b"x" * 1_000_000)
    reply = peer.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")


def test_trailers_are_no_headers(run: Running) -> None:
    body = b"1\r\nx\r\n0\r\nAuthorization: Bearer stolen\r\nHost: b\r\n\r\n"
    reply = run.ask(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert reply.document["headers"] == [["host", "a"], ["transfer-encoding", "chunked"]]


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (b"GET http://a.example:80/x?y HTTP/1.1", "/x"),
        (b"GET http://a.example HTTP/1.1", "/"),
        (b"GET //a.example/x HTTP/1.1", "//a.example/x"),
        (b"GET /%E2%9C%93 HTTP/1.1", "/✓"),
        (b"GET /%ff%00 HTTP/1.1", "/\ufffd\0"),
        (b"GET /a HTTP/1.0", "/a"),
        (b"OPTIONS * HTTP/1.1", "*"),
        (b"PROPFIND /a HTTP/1.1", "/a"),
    ],
)
def test_every_form_of_address_is_read(run: Running, line: bytes, path: str) -> None:
    assert run.ask(line + b"\r\nHost: a\r\n\r\n").document["path"] == path


@pytest.mark.parametrize(
    "host", [b"a", b"a:80", b"a.b-c_d.example:8000", b"[::1]:80", b"127.0.0.1", b"", b"\xc3\xa9"[:0]]
)
def test_hosts_are_taken(run: Running, host: bytes) -> None:
    assert run.ask(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").status == 200


REFUSED = {
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "half an address": (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    "a host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a host with a user": (b"GET / HTTP/1.1\r\nHost: b@a\r\n\r\n", 400),
    "a port of letters": (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2 by name": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
    "HTTP/2 without asking": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 400),
    "HTTP/3.7": (b"GET / HTTP/3.7\r\nHost: a\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 500, 400),
    "a proxy's method": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "all of it": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "an unknown method": (b"NONSENSE / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no address": (b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "half an absolute address": (b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "an address with a byte of no meaning": (b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "length and chunks": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "chunks and length": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        400,
    ),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a list of lengths": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
    "a signed length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
    "a negative length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc", 400),
    "an endless length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n", 400),
    "another coding": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "no coding": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\nabc", 400),
    "nearly chunked": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" * 2 + b"\r\n", 400),
    "chunks in HTTP/1.0": (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a huge chunk": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"F" * 20 + b"\r\n", 400),
    "a negative chunk": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    "a chunk too long": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
    "lines folded": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare carriage return": (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    "a zero byte": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n", 400),
    "a header without a name": (b"GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n", 400),
    "a header without a colon": (b"GET / HTTP/1.1\r\nHost: a\r\nabc\r\n\r\n", 400),
    "a name beyond ASCII": (b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: a\r\n\r\n", 400),
    "a length by another letter": (b"POST / HTTP/1.1\r\nHost: a\r\nContent\x00-Length: 3\r\n\r\nabc", 400),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_valid_request_is_refused_with_a_problem(
    run: Running, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent, status = REFUSED[case]
    peer = run.peer()
    peer.send(sent)
    reply = peer.reply()
    assert (reply.status, reply.document["status"]) == (status, status)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["connection"] == "close"
    assert peer.ends()
    assert run.answers()
    assert [record.levelname for record in caplog.records if record.levelno >= 30] == []


def test_values_beyond_ascii_are_handed_on(run: Running) -> None:
    reply = run.ask(b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\xc3\xa9\r\n\r\n")
    assert ["x", "\xff\xc3\xa9"] in reply.document["headers"]
