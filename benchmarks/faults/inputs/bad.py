"""A bad input: the bytes of one HTTP request, and how such bytes are put together and taken apart."""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

BOUNDARY: Final = "keepsight-bad-input"
_EXTREMES: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass(frozen=True)
class Bad:
    """What is sent on a connection of its own.

    Attributes:
        kind: The family it belongs to: `archive`, `image`, `request` or `wire`.
        what: In words.
        raw: All bytes.
        whole: Whether it is a whole request, which must be answered. Of others a server may wait for the rest.
    """

    kind: str
    what: str
    raw: bytes
    whole: bool = True


def http(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, length: str | None = None
) -> bytes:
    """A request; `length` is what it says of its body, by default the truth."""
    said = {"Host": "127.0.0.1", "Content-Length": str(len(body)) if length is None else length, **(headers or {})}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in said.items() if value)
    return head.encode("utf-8", "surrogatepass") + b"\r\n" + body


def as_json(path: str, value: Any) -> bytes:
    """A POST of JSON; bytes are sent as they are."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return http("POST", path, body, {"Content-Type": "application/json"})


def as_form(path: str, fields: Mapping[str, str], files: list[tuple[str, str, bytes]]) -> bytes:
    """A POST of a form. `files`: (field, file name, content)."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    for field, name, content in files:
        parts.append(f'Content-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode() + content)
    body = b"".join(b"--" + BOUNDARY.encode() + b"\r\n" + part + b"\r\n" for part in parts)
    body += b"--" + BOUNDARY.encode() + b"--\r\n"
    return http("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})


def upload(archive: bytes, fields: Mapping[str, str] | None = None) -> bytes:
    """A POST of a task."""
    return as_form("/v1/tasks", {"name": "bad", **(fields or {})}, [("archive", "task.zip", archive)])


def classify(*images: bytes, **options: str) -> bytes:
    """A POST of images as a form."""
    return as_form("/v1/classify", options, [("images", f"{n}.png", image) for n, image in enumerate(images)])


def text(content: bytes) -> str:
    """Base64."""
    return base64.b64encode(content).decode()


def mutate(draw: random.Random, content: bytes) -> tuple[str, bytes]:
    """What was done to the bytes, and what they are now: one to four small changes, most of them near the ends."""
    changed, said = bytearray(content), []
    for _ in range(draw.choice((1, 1, 2, 4))):
        name, change = draw.choice(_CHANGES)
        said.append(name)
        change(draw, changed)
    return ", ".join(said), bytes(changed)


def _place(draw: random.Random, content: bytearray) -> int:
    size = len(content)
    if size < 2:
        return 0
    near = draw.choice(("begin", "end", "anywhere"))
    if near == "begin":
        return draw.randrange(min(size, 96))
    return draw.randrange(max(0, size - 96), size) if near == "end" else draw.randrange(size)


def _flip(draw: random.Random, content: bytearray) -> None:
    if content:
        content[_place(draw, content)] ^= 1 << draw.randrange(8)


def _set(draw: random.Random, content: bytearray) -> None:
    place, number = _place(draw, content), draw.choice(_EXTREMES)
    pattern = draw.choice(("<I", ">I", "<H", ">H"))
    mask = 0xFFFFFFFF if pattern[1] == "I" else 0xFFFF
    packed = struct.pack(pattern, number & mask)
    content[place : place + len(packed)] = packed


def _cut(draw: random.Random, content: bytearray) -> None:
    del content[_place(draw, content) :]


def _remove(draw: random.Random, content: bytearray) -> None:
    place = _place(draw, content)
    del content[place : place + draw.randrange(1, 64)]


def _repeat(draw: random.Random, content: bytearray) -> None:
    place = _place(draw, content)
    content[place:place] = content[place : place + draw.randrange(1, 256)] * draw.choice((1, 2, 40))


def _insert(draw: random.Random, content: bytearray) -> None:
    place = _place(draw, content)
    content[place:place] = draw.choice((draw.randbytes(16), b"\0" * 32, b"\xff" * 8, b"\r\n\r\n", b"%s%n"))


def _append(draw: random.Random, content: bytearray) -> None:
    content += draw.randbytes(draw.randrange(1, 2000))


_CHANGES: Final = (
    ("a bit turned over", _flip),
    ("a number set", _set),
    ("a number set", _set),
    ("cut off", _cut),
    ("a piece removed", _remove),
    ("a piece repeated", _repeat),
    ("bytes inserted", _insert),
    ("bytes appended", _append),
)
