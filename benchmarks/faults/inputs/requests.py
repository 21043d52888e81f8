"""Requests that are HTTP and yet wrong: bodies of every shape, headers, paths, methods and lengths that lie."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.faults.inputs.bad import BOUNDARY, Bad, as_form, as_json, classify, http, mutate, text
from benchmarks.faults.pictures import Pictures

HUGE: Final = b"1" + b"0" * 400
VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 10**18, 1e308, "", "x", "\x00", "\ud800", "x" * 70_000, [], [[]], {}, {"": None},
    [None],
    [1, 2, 3], ["a"] * 3000, [1] * 100_000, {"a": {"a": {"a": []}}}, "data:image/png;base64,", "data:,x", "https://127.0.0.1/x",
    "../../etc/passwd", "000001-0123456789ab", "NaN", "%s%n", "'; DROP TABLE", "\u202e\u200b", "☃" * 1000,
)  # fmt: skip
FIELDS: Final = {
    "/v1/classify": ("images", "top_k", "path", "labels", "template", "timeout_ms", "unknown"),
    "/v1/embeddings": ("input", "model", "encoding_format", "stored_version", "timeout_ms", "user", "dimensions"),
    "/v1/admin/promote": ("version_id", "reason", "expected", "unknown"),
    "/v1/admin/rollback": ("version_id", "reason", "expected", "unknown"),
    "/v2/models/keepsight/infer": ("id", "inputs", "outputs", "parameters", "unknown"),
}
RAW: Final = (
    b"", b"{", b"[", b"null", b"true", b'"x"', b"NaN", b"{}", b"[]", b"{}{}", b"\xff\xfe{}", b"\xef\xbb\xbf{}",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"images": ' + HUGE + b"}",
    b'{"top_k": ' + HUGE + b', "images": []}',
    b'{"images": [NaN, Infinity]}',
    b'{"images": [], "images": [1]}',
    b'{"timeout_ms": ' + HUGE + b', "images": ["aa"]}',
    b'{"top_k": 1e400, "images": []}',
    b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"images": [' + b"1," * 500_000 + b"1]}",
    b'{"input": [' + b"[1]," * 200_000 + b"1]}",
    b'{"labels": [' + b'"a",' * 300_000 + b'"b"], "images": [""]}',
    b"{" + b",".join(b'"f%d": 0' % n for n in range(50_000)) + b"}",
    b'{"images": "' + b"A" * 2_000_000 + b'"}',
)  # fmt: skip
PATHS: Final = (
    "/", "//", "/v1", "/v1/", "/v1/classify/", "/v1/jobs/x", "/v1/jobs/" + "a" * 5000, "/v1/jobs/%00",
    "/v1/jobs/..%2f..",
    "/v1/versions/%ff", "/v1/versions/000001-%0a", "/v1/versions/" + "9" * 500, "/v2/models/%00", "/v2/models/x/infer",
    "/v1/jobs/00000000000000000000000000000000", "/v1/jobs/00000000000000000000000000000000/events",
    "/docs/../v1/jobs", "/%",
    "/v1/classify?top_k=" + "9" * 500, "/v1/classify?top_k=1&top_k=2", "/v1/classify?" + "a=b&" * 5000, "/\ud83d", "*",
    "http://example.org/v1/jobs", "/v1/classify?timeout_ms=1e999", "/v1/classify?path=%00",
    "/openapi.json?x=" + "y" * 60_000,
)  # fmt: skip
METHODS: Final = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PRI",
    "get",
    "X" * 300,
)
HEADERS: Final[tuple[tuple[str, str], ...]] = (
    ("Host", "[::1"), ("Host", ""), ("Host", "a:b:c"), ("Host", "127.0.0.1:99999"), ("Host", "\x7f"), ("Host",
    "x" * 5000),
    ("Host", "[::ffff:127.0.0.1]:80"), ("Host", "127.0.0.1, 127.0.0.1"), ("Origin", "http://[::1"), ("Origin", "null"),
    ("Origin", "http://evil.example"), ("Forwarded", "for=10.0.0.1"), ("X-Forwarded-For", "10.0.0.1"),
    ("Authorization", "Bearer " + "x" * 8000), ("Authorization", "Basic ==="), ("X-API-Key", "\xff\xfe"),
    ("Content-Type", ""), ("Content-Type", "application/json; charset=utf-99"), ("Content-Type", "multipart/form-data"),
    ("Content-Type", "multipart/form-data; boundary="), ("Content-Type", "multipart/form-data; boundary=" + "b" * 5000),
    ("Content-Type", "application/x-www-form-urlencoded"), ("Content-Type", "text/plain"), ("Content-Type",
    "image/jpeg"),
    ("Content-Encoding", "gzip"), ("Transfer-Encoding", "gzip"), ("Transfer-Encoding", "chunked"), ("Expect",
    "100-continue"),
    ("Expect", "200-ok"), ("Range", "bytes=0-" + "9" * 100), ("If-None-Match", "*"), ("Idempotency-Key", "x" * 300),
    ("Idempotency-Key", "\x01"), ("Accept", "x" * 30_000), ("Cookie", "a=b; " * 3000), ("X-Long", "x" * 60_000),
    ("Upgrade", "h2c"), ("Upgrade", "websocket"), ("Connection", "Upgrade, HTTP2-Settings"), ("Accept-Encoding",
    "br;q=9"),
    ("traceparent", "00-" + "0" * 32 + "-0-00"), ("X-Request-Id", "a\tb"), ("Content-Length", "-1"),
    ("Content-Length", "1e3"),
    ("Content-Length", "9" * 40), ("Content-Length", "0x10"), ("Content-Length", "+5"),
)  # fmt: skip
ROLLBACK: Final = "/v1/admin/rollback"
ROUTES: Final = (
    "/v1/classify", "/v1/embeddings", "/v1/tasks", "/v1/jobs", "/v1/versions", "/v1/classes", "/v1/admin/promote",
    "/v1/admin/rollback", "/v1/admin/rollout", "/v2", "/v2/models/keepsight", "/v2/models/keepsight/infer", "/healthz",
    "/readyz", "/metrics", "/openapi.json", "/docs", "/nowhere",
)  # fmt: skip


def _tensor(name: str = "image", **changed: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [1], "data": ["aa"], **changed}


INFERENCES: Final[tuple[Any, ...]] = (
    [_tensor(shape=[2**40])], [_tensor(shape=[-1])], [_tensor(shape=[])], [_tensor(shape=[1] * 5000)],
    [_tensor(datatype="FP99")],
    [_tensor(datatype="FP32", data=[1e400])], [_tensor(datatype="UINT8", shape=[50_000, 50_000, 3], data=[0])],
    [_tensor(data=[1])], [_tensor(data=[[["aa"]]])], [_tensor()] * 3000, [_tensor("labels", data=["a"] * 1)],
    [_tensor(parameters={"binary_data_size": 2**62})], [_tensor(parameters={"binary_data_size": -1})], [], "x", 7,
)  # fmt: skip


def forged(picture: bytes) -> Iterator[tuple[str, bytes]]:
    """Requests that are made by hand."""
    for method, path in itertools.product(METHODS, ROUTES):
        if (method, path) != ("POST", ROLLBACK):
            yield f"{method[:10]} {path}", http(method, path)
    for path in PATHS:
        for method in ("GET", "POST"):
            yield f"{method} {path[:40]!r}", http(method, path)
    for name, value in HEADERS:
        for path in ("/v1/classes", "/healthz"):
            yield f"{name}: {value[:30]!r} for {path}", http("GET", path, headers={name: value})
        sound = classify(picture)
        head, _, body = sound.partition(b"\r\n\r\n")
        line = f"{name}: {value}\r\n".encode("latin-1", "replace")
        kept = [old for old in head.split(b"\r\n") if not old.lower().startswith(name.lower().encode() + b":")]
        yield f"{name}: {value[:30]!r} with an image", b"\r\n".join(kept) + b"\r\n" + line + b"\r\n" + body
    for route in FIELDS:
        for number, body in enumerate(RAW):
            if not _sound(route, body):
                yield f"body {number} for {route}", as_json(route, body)
    for inputs in INFERENCES:
        yield f"inference of {str(inputs)[:40]}", as_json("/v2/models/keepsight/infer", {"inputs": inputs})
    for size in ("-1", "99999999999999999999", "1", "x"):
        header = {"Inference-Header-Content-Length": size, "Content-Type": "application/octet-stream"}
        yield f"inference with a header of {size}", http("POST", "/v2/models/keepsight/infer", b"{}aaaa", header)
    yield from _forms(picture)


def _forms(picture: bytes) -> Iterator[tuple[str, bytes]]:
    many = {f"field{n}": "x" for n in range(3000)}
    yield "3000 fields", as_form("/v1/classify", many, [("images", "a.png", picture)])
    yield "a field of 2 MB", as_form("/v1/classify", {"template": "x" * 2_000_000}, [("images", "a.png", picture)])
    yield "5000 labels", as_form("/v1/classify", {"labels": str(["a"] * 5000)}, [("images", "a.png", picture)])
    yield "labels with commas", classify(picture, labels="rooster,chair,pizza")
    yield "a file name of 100 kB", as_form("/v1/classify", {}, [("images", "a" * 100_000, picture)])
    yield "a text for the images", as_form("/v1/classify", {"images": "x"}, [])
    yield "a file for the labels", as_form("/v1/classify", {}, [("images", "a", picture), ("labels", "b", b"x")])
    mark = BOUNDARY.encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    for what, body in {
        "nothing but the boundary": b"--" + mark + b"--",
        "no boundary": picture,
        "a part without headers": b"--" + mark + b"\r\n\r\nx\r\n--" + mark + b"--",
        "a part without a name": b"--" + mark + b"\r\nContent-Disposition: form-data\r\n\r\nx\r\n--" + mark + b"--",
        "a part header of 1 MB": b"--" + mark + b"\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\nx\r\n--" + mark + b"--",
        "10000 part headers": b"--" + mark + b"\r\n" + b"X: y\r\n" * 10_000 + b"\r\nx\r\n--" + mark + b"--",
        "20000 parts": (b"--" + mark + b"\r\n\r\n\r\n") * 20_000 + b"--" + mark + b"--",
        "a part that does not end": b"--" + mark + b"\r\nContent-Disposition: form-data; name=images\r\n\r\n" + picture,
        "only line ends": b"\r\n" * 500_000,
        "only hyphens": b"-" * 1_000_000,
    }.items():  # fmt: skip
        for path in ("/v1/classify", "/v1/tasks"):
            yield f"a form with {what} for {path}", http("POST", path, body, kind)


def bad_requests(seed: int) -> Iterator[Bad]:
    """First every forged request, then bodies with drawn values and mutated sound ones, without end."""
    draw = random.Random(seed)
    picture = Pictures(seed).png()
    for what, raw in forged(picture):
        yield Bad("request", what, raw, whole=False)
    sound = {"images": [text(picture)], "input": ["a cat"], "inputs": [_tensor(data=[text(picture)])]}
    while True:
        path = draw.choice(sorted(FIELDS))
        if draw.random() < 0.3:
            what, body = mutate(draw, _json(sound))
            yield Bad("request", f"{path}: {what}", as_json(path, body))
            continue
        fields = FIELDS[path]
        drawn: dict[str, Any] = {name: sound[name] for name in fields if name in sound}
        for name in draw.sample(fields, draw.randrange(1, 3)):
            drawn[name] = draw.choice(VALUES)
        body = _json(drawn)
        if not _sound(path, body):
            yield Bad("request", f"{path}: {str(drawn)[:60]}", as_json(path, body))


def _sound(path: str, body: bytes) -> bool:
    """Whether this may ask for a rollback to the version before, as a good request does."""
    if path != ROLLBACK:
        return False
    try:
        asked = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return False
    return isinstance(asked, dict) and asked.get("version_id") is None


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
