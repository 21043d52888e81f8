"""Hostile requests: made up from a seed, so that one that does harm can be sent again."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Headers = tuple[tuple[bytes, bytes], ...]
JSON: Headers = ((b"Content-Type", b"application/json"),)
FORM: Headers = ((b"Content-Type", b"multipart/form-data; boundary=b"),)
RAW: Headers = ((b"Content-Type", b"image/jpeg"),)

_GETS = (b"/v1/versions", b"/v1/classes", b"/v1/jobs", b"/v1/admin/rollout", b"/v2", b"/readyz", b"/metrics", b"/docs")
_IDS = (
    b"%00", b"%ff", b"..%2f..%2fetc%2fpasswd", b"%ed%a0%80", b"%", b"%zz", b"x" * 5000, b"0" * 32, b"%0d%0aX-Evil:1",
    b"000001-0123456789ab", b"CURRENT", b"*", b"?x", b"%25", b"~", b"\xff",
)  # fmt: skip
_ODD = (
    b"", b"\xff\xfe", b"\0", b"x" * 7000, b"1" * 5000, b"-1", b"1e999", b"NaN", b"null", b"a,b", b"\t", b"=", b";;;",
    b"multipart/form-data; boundary=" + b"b" * 5000, b'multipart/form-data; boundary="',
    b"application/json;charset=utf-16", b"*/*", b"text/html", b"bytes=0-0", b"bytes=-99999999999999999999", b"gzip",
    b"chunked", b"100-continue",
)  # fmt: skip
_NAMES = (
    b"Content-Type", b"Accept", b"Range", b"Last-Event-ID", b"Idempotency-Key", b"Authorization", b"X-API-Key",
    b"Cookie", b"Origin", b"Referer", b"Host", b"If-None-Match", b"Accept-Encoding", b"Content-Encoding",
    b"X-Forwarded-For", b"Forwarded", b"Sec-Fetch-Site", b"Inference-Header-Content-Length",
    b"Upgrade", b"X-Request-ID",
)  # fmt: skip
_HOSTS = (b"[::1", b"[::1]", b"localhost:99999999", b"", b"evil.example", b"a@b", b"[", b"\xff", b"127.0.0.1:8000:1")


@dataclass(frozen=True)
class Hostile:
    """One request. `kind` names the generator that made it."""

    kind: str
    method: bytes
    target: bytes
    headers: Headers = ()
    body: bytes = b""

    def wire(self, host: bytes = b"127.0.0.1") -> bytes:
        """Return the bytes of the request for HTTP/1.1, with a Host header if it has none of its own."""
        names = {name.lower() for name, _ in self.headers}
        lines = [self.method + b" " + self.target + b" HTTP/1.1"]
        lines += [name + b": " + text for name, text in self.headers]
        if b"host" not in names:
            lines.append(b"Host: " + host)
        lines += [b"Content-Length: %d" % len(self.body), b"Connection: close"]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


def hostile_requests(seed: int, count: int, *, largest: int = 4 * 1024 * 1024) -> Iterator[Hostile]:
    """Make up `count` requests, each kind as often as the others, of bodies of about `largest` bytes at most."""
    draw = random.Random(seed)
    for number in range(count):
        yield KINDS[number % len(KINDS)](draw, largest)


def _size(draw: random.Random, largest: int) -> int:
    """Return a size: mostly small, sometimes the largest."""
    return max(1, int(largest ** draw.choice((0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0))))


def _json_route(draw: random.Random) -> bytes:
    return draw.choice(
        (b"/v1/classify", b"/v1/embeddings", b"/v2/models/keepsight/infer", b"/v1/admin/promote", b"/v1/admin/rollback")
    )


def many_values(draw: random.Random, largest: int) -> Hostile:
    """A list, or an object, of very many things."""
    thing = draw.choice((b"1", b'""', b"[]", b"{}", b"null", b"1e5", b'"a"', b"[[]]", b'{"a":1}', b"true"))
    count = _size(draw, largest) // (len(thing) + 1)
    listed = b"[" + b",".join([thing] * count) + b"]"
    name = draw.choice((b"images", b"labels", b"input", b"inputs", b"outputs", b"shape", b"data", b"version_id", b"x"))
    nested = draw.choice((b'{"%b": %b}', b'{"images": [], "%b": %b}', b'{"inputs": [{"name": "images", "%b": %b}]}'))
    return Hostile("many_values", b"POST", _json_route(draw), JSON, nested % (name, listed))


def many_keys(draw: random.Random, largest: int) -> Hostile:
    """An object of very many names, all different or all the same."""
    count = _size(draw, largest) // 12
    same = draw.random() < 0.5
    body = b"{" + b",".join(b'"k%d":1' % (0 if same else n) for n in range(count)) + b"}"
    return Hostile("many_keys", b"POST", _json_route(draw), JSON, body)


def deep(draw: random.Random, largest: int) -> Hostile:
    """Brackets within brackets, closed or not."""
    size = _size(draw, largest)
    opening, closing = draw.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")))
    body = opening * (size // len(opening)) + (closing * (size // len(opening)) if draw.random() < 0.5 else b"")
    return Hostile("deep", b"POST", _json_route(draw), JSON, body)


def giant_value(draw: random.Random, largest: int) -> Hostile:
    """One value that is very long: digits, a string, escapes, spaces, quotes."""
    size = _size(draw, largest)
    value = draw.choice(
        (
            b"1" * size, b"0." + b"1" * size, b"-" * size, b"1e" + b"9" * size, b" " * size, b'"' + b"A" * size + b'"',
            b'"' + b"\\u0041" * (size // 6) + b'"', b'"' + b'\\"' * (size // 2) + b'"',
            b'"' + b"\\\\" * (size // 2) + b'"', b'"' + b"\\/" * (size // 2) + b'"', b'"' + b"A" * size,
            b'"' + b"\xff" * size + b'"',
            b'"' + "é".encode() * (size // 2) + b'"', b'"' + b"\\ud800" * (size // 6) + b'"',
            b'"' + b"\n" * size + b'"',
            b'"data:image/png,' + b"%41" * (size // 3) + b'"', b'"data:;base64,' + b"%" * size + b'"',
            b'"' + b"-_" * (size // 2) + b'"', b'"' + b"A=" * (size // 2) + b'"', b'"' + b"=" * size + b'"',
        )
    )  # fmt: skip
    name = draw.choice((b"images", b"input", b"labels", b"template", b"timeout_ms", b"top_k", b"version_id", b"reason"))
    listed = b"[%b]" % value if draw.random() < 0.7 else value
    return Hostile("giant_value", b"POST", _json_route(draw), JSON, b'{"images": [], "%b": %b}' % (name, listed))


def odd_json(draw: random.Random, largest: int) -> Hostile:
    """JSON that is cut, mixed up, in another encoding, or none."""
    good = json.dumps({"images": ["aGk="], "labels": ["a", "b"], "top_k": 3, "timeout_ms": 10**400}).encode()
    body = bytearray(good)
    for _ in range(draw.randint(1, 4)):
        body[draw.randrange(len(body))] = draw.randrange(256)
    whole = draw.choice(
        (
            bytes(body), good[: draw.randrange(len(good))], b"\xef\xbb\xbf" + good, good.decode().encode("utf-16"),
            b"NaN", b"Infinity", b"null", b"[]", b'""', b"", b"{}{}", b'{"images": NaN}', b'{"timeout_ms": 1e999}',
            b'{"input": "\\ud800"}', b'{"images": ["a"], "labels": ["\\udc00"]}', b'{"input": ["\xed\xa0\x80"]}',
            draw.randbytes(200),
        )
    )  # fmt: skip
    return Hostile("odd_json", b"POST", _json_route(draw), JSON, whole)


def odd_form(draw: random.Random, largest: int) -> Hostile:
    """Forms of many parts, of odd parts, cut off, or with another boundary."""
    count = min(5000, max(1, _size(draw, largest) // 60))
    part = draw.choice(
        (
            b'--b\r\nContent-Disposition: form-data; name="labels"\r\n\r\nx\r\n',
            b'--b\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\nx\r\n',
            b'--b\r\nContent-Disposition: form-data; name="' + b"n" * 2000 + b'"\r\n\r\nx\r\n',
            b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n",
            b'--b\r\nContent-Disposition: form-data; name="labels"\r\n\r\n[' + b'"",' * 5000 + b'""]\r\n',
            b'--b\r\nContent-Disposition: form-data; name="labels"\r\n\r\n["\\ud800", "a"]\r\n',
            b"--b\r\n" + b"a: b\r\n" * 50 + b"\r\nx\r\n",
            b'--b\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n' + b"9" * 5000 + b"\r\n",
            b"--b\r\n--b\r\n\r\n",
            draw.randbytes(60),
        )
    )
    body = part * count + draw.choice((b"--b--\r\n", b"", b"--b", b"--b--" + b"x" * 1000))
    kind = draw.choice((FORM, FORM, FORM, ((b"Content-Type", b"multipart/form-data; boundary=c"),)))
    return Hostile("odd_form", b"POST", draw.choice((b"/v1/classify", b"/v1/tasks")), kind, body)


def odd_query(draw: random.Random, largest: int) -> Hostile:
    """Queries of many, long, odd or repeated parameters."""
    query = draw.choice(
        (
            b"&".join([b"labels=x"] * 5000), b"&" * 20_000, b"a=" + b"x" * 20_000, b"top_k=" + b"9" * 5000,
            b"top_k=NaN", b"timeout_ms=1" + b"0" * 400, b"labels=%00&labels=%ff", b"labels=%ed%a0%80&labels=a",
            b"labels=[[[[[[", b"path=fused&path=text&path=", b"=&=&=", b"%", b"labels=a,b", b"template={}{}{}",
            b"template={0.__class__}",
        )
    )  # fmt: skip
    return Hostile("odd_query", b"POST", b"/v1/classify?" + query, RAW, draw.randbytes(30))


def odd_headers(draw: random.Random, largest: int) -> Hostile:
    """A usual request with headers of odd names and values."""
    odd = tuple((draw.choice(_NAMES), draw.choice(_ODD).replace(b"\0", b"")) for _ in range(draw.randint(1, 4)))
    if draw.random() < 0.5:
        return Hostile("odd_headers", b"GET", draw.choice(_GETS), odd)
    return Hostile("odd_headers", b"POST", draw.choice((_json_route(draw), b"/v1/tasks")), odd, b'{"images": ["aGk="]}')


def odd_host(draw: random.Random, largest: int) -> Hostile:
    """A usual request to an odd host."""
    return Hostile("odd_host", b"GET", draw.choice(_GETS), ((b"Host", draw.choice(_HOSTS)),))


def odd_path(draw: random.Random, largest: int) -> Hostile:
    """A route with an odd id in it."""
    route = draw.choice(
        (b"/v1/jobs/%b", b"/v1/jobs/%b/events", b"/v1/versions/%b", b"/v2/models/%b",
         b"/v2/models/keepsight/versions/%b",
         b"/v2/models/%b/ready", b"/%b", b"/v1/%b")
    )  # fmt: skip
    method = draw.choice((b"GET", b"GET", b"DELETE", b"HEAD", b"OPTIONS", b"PUT"))
    return Hostile("odd_path", method, route % draw.choice(_IDS))


def odd_image(draw: random.Random, largest: int) -> Hostile:
    """Bytes that are no image, as the body, in a form, and in base64 of every kind."""
    data = draw.choice((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"", b"RIFF\0\0\0\0WEBP")) + draw.randbytes(
        min(100_000, _size(draw, largest))
    )
    style = draw.randrange(3)
    if style == 0:
        return Hostile("odd_image", b"POST", b"/v1/classify?labels=a&labels=b", RAW, data)
    if style == 1:
        head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\n'
        return Hostile("odd_image", b"POST", b"/v1/classify?labels=a&labels=b", FORM, head + data + b"\r\n--b--\r\n")
    text = base64.b64encode(data).decode()
    text = draw.choice((text, text[:-1], text + "=", text.replace("A", "-"), "data:image/png," + text, text.lower()))
    body = json.dumps({"images": [text] * draw.randint(1, 3), "labels": ["a", "b"]}).encode()
    return Hostile("odd_image", b"POST", b"/v1/classify", JSON, body)


def odd_tensor(draw: random.Random, largest: int) -> Hostile:
    """Open Inference requests whose parts do not fit each other."""
    numbers: tuple[object, ...] = (0, 1, -1, 2**31, 2**63, 10**50, 1.5, "1", None, True, [1], {})
    shape = [draw.choice(numbers) for _ in range(draw.randint(0, 9))]
    behind = draw.randbytes(draw.choice((0, 3, 4, 5, 1000)))
    tensor = {
        "name": "images", "shape": draw.choice((shape, [1], [64], [65])), "datatype": draw.choice(("BYTES", "FP32", 1)),
        "parameters": {"binary_data_size": draw.choice((len(behind), *numbers))},
        "data": draw.choice((["aGk="], [["aGk="]], [1], None, [[[[[[[[[["aGk="]]]]]]]]]])),
    }  # fmt: skip
    parameters = {"timeout": draw.choice(numbers), "binary_data_output": draw.choice(numbers)}
    outputs = [{"name": draw.choice(("scores", "labels", "x")), "parameters": {"classification": draw.choice(numbers)}}]
    head = json.dumps({"inputs": [tensor], "parameters": parameters, "outputs": outputs}).encode()
    length = draw.choice((b"%d" % len(head), b"-1", b"9" * 50, b"0", b"x", b""))
    headers = (*JSON, (b"Inference-Header-Content-Length", length))
    return Hostile("odd_tensor", b"POST", b"/v2/models/keepsight/infer", headers, head + behind)


KINDS: tuple[Callable[[random.Random, int], Hostile], ...] = (
    many_values, many_keys, deep, giant_value, odd_json, odd_form, odd_query, odd_headers, odd_host, odd_path,
    odd_image, odd_tensor,
)  # fmt: skip
"""All kinds of hostile requests; a new kind is a function in this list."""
