"""What is hardly HTTP: other protocols, requests within requests, and sound requests with a few bytes changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from benchmarks.faults.inputs.bad import Bad, as_json, classify, http, mutate, upload
from benchmarks.faults.pictures import Pictures

_GET: Final = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_POST: Final = b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
FORGED: Final[dict[str, bytes]] = {
    "line ends": b"\r\n" * 1000,
    "zeros": b"\0" * 5000,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 500,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 10,
    "h2c upgrade": _GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    "a web socket": _GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n" + b"\x81" * 50,
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "Redis": b"*1\r\n$8\r\nFLUSHALL\r\n",
    "SMTP": b"EHLO example.org\r\nMAIL FROM:<a>\r\n",
    "HTTP/0.9": b"GET /healthz\r\n",
    "HTTP/1.0": b"GET /healthz HTTP/1.0\r\n\r\n",
    "HTTP/3.7": b"GET /healthz HTTP/3.7\r\nHost: 127.0.0.1\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": _GET + b"Host: example.org\r\n\r\n",
    "bare line feeds": b"GET /healthz HTTP/1.1\nHost: 127.0.0.1\n\n",
    "spaces before a colon": _GET + b"X-A : b\r\n\r\n",
    "a folded header": _GET + b"X-A: b\r\n  c\r\n\r\n",
    "a header without a colon": _GET + b"hello\r\n\r\n",
    "a header with a zero": _GET + b"X: a\0b\r\n\r\n",
    "10000 headers": _GET + b"X: y\r\n" * 10_000 + b"\r\n",
    "a header of 2 MB": _GET + b"X: " + b"y" * 2_000_000 + b"\r\n\r\n",
    "a header name of 1 MB": _GET + b"y" * 1_000_000 + b": x\r\n\r\n",
    "a path of 1 MB": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a method of 1 MB": b"A" * 1_000_000 + b" / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "two lengths": _POST + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\n{}abc",
    "length and chunks": _POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a chunk of 2^63 bytes": _POST + b"Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n{}",
    "a chunk of a negative size": _POST + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "a chunk that is no number": _POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n",
    "chunks of one byte": _POST
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"1\r\n \r\n" * 50_000
    + b"2\r\n{}\r\n0\r\n\r\n",
    "chunk extensions of 1 MB": _POST
    + b"Transfer-Encoding: chunked\r\n\r\n2;"
    + b"x" * 1_000_000
    + b"\r\n{}\r\n0\r\n\r\n",
    "trailers of 1 MB": _POST
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: "
    + b"y" * 1_000_000
    + b"\r\n\r\n",
    "less than it says": _POST + b"Content-Length: 1000\r\n\r\n{}",
    "more than it says": _POST + b"Content-Length: 2\r\n\r\n{}" + b"GET /healthz HTTP/1.1\r\n" * 100,
    "500 requests at once": (_GET + b"\r\n") * 500,
    "a request within a request": _POST + b"Content-Length: 0\r\n\r\n" + _GET + b"\r\n",
    "continue, and then nothing": _POST + b"Expect: 100-continue\r\nContent-Length: 100\r\n\r\n",
}


def bad_wire(seed: int) -> Iterator[Bad]:
    """First all that is forged, then mutated sound requests and noise, without end."""
    for what, raw in FORGED.items():
        yield Bad("wire", what, raw, whole=False)
    draw = random.Random(seed)
    pictures = Pictures(seed)
    sound = {
        "classify": classify(pictures.png()),
        "embeddings": as_json("/v1/embeddings", {"input": ["a cat"]}),
        "jobs": http("GET", "/v1/jobs"),
        "upload": upload(pictures.archive(("kind 0 a", "kind 0 b"), images=2)),
    }
    while True:
        if draw.random() < 0.1:
            yield Bad("wire", "noise", draw.randbytes(draw.randrange(1, 5000)), whole=False)
            continue
        name = draw.choice(sorted(sound))
        head, end, body = sound[name].partition(b"\r\n\r\n")
        # within the head, where a change is not drowned by the body
        what, changed = mutate(draw, head)
        yield Bad("wire", f"{name}: {what}", changed + end + body, whole=False)
