"""JSON bodies: what is many is counted, what is long is kept apart, and what is odd is refused in words."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tracemalloc
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from app.errors import BodyTooLargeError, InvalidRequestError
from app.json_body import LONG_BYTES, MAX_BARE_BYTES, MAX_SHORT_BYTES, JsonText, LongText, Text, parse_json, read_json

MIB = 1024 * 1024


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    images: list[Text] = Field([], fail_fast=True)
    word: str = ""
    number: int = 0


def cut(data: bytes, piece: int = 65_536) -> deque[bytes]:
    return deque(data[at : at + piece] for at in range(0, len(data), piece))


def parse(data: bytes, *, piece: int = 65_536, max_marks: int = 1000) -> Body:
    return parse_json(cut(data, piece), Body, max_marks=max_marks)


def value(data: bytes, piece: int) -> Any:
    text = JsonText(10**6)
    for each in cut(data, piece):
        text.feed(each)
    return text.value()


def plain(found: Any) -> Any:
    """The same with every long string in full."""
    if isinstance(found, LongText):
        return found.text(10**6)
    if isinstance(found, list):
        return [plain(each) for each in found]
    return {name: plain(each) for name, each in found.items()} if isinstance(found, dict) else found


texts = st.text(max_size=20) | st.sampled_from(['"\\', "\\" * 7 + '"', "x" * (LONG_BYTES + 1), '\\"' * LONG_BYTES])
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


@given(documents, st.integers(1, 40) | st.just(65_536), st.booleans())
def test_any_document_is_read_as_json_reads_it_however_it_is_cut(document: Any, piece: int, ascii_only: bool) -> None:
    data = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert plain(value(data, max(piece, len(data) // 2000))) == document


@given(st.binary(max_size=80), st.integers(1, 9))
def test_any_bytes_are_read_or_refused_in_words(data: bytes, piece: int) -> None:
    with contextlib.suppress(InvalidRequestError, RequestValidationError):
        parse(data, piece=piece)


def test_a_long_string_is_kept_apart_and_a_client_cannot_write_its_place() -> None:
    long = "A" * (LONG_BYTES + 1)
    body = parse(json.dumps({"images": [long, "short", long]}).encode(), piece=1000)
    first, second, third = body.images
    assert isinstance(first, LongText)
    assert isinstance(third, LongText)
    assert (first.text(10**6), second, third.size) == (long, "short", len(long))
    with pytest.raises(RequestValidationError):
        parse(json.dumps({"images": [long, {"": 0}]}).encode())


def refused(data: bytes, **options: Any) -> str:
    with pytest.raises(RequestValidationError) as caught:
        parse(data, **options)
    return str(caught.value.errors()[0]["msg"])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "expecting value"),
        (b"{", "expecting property name"),
        (b'{"word": "a', "ends inside a string"),
        (b'{"word": "a", "word": "b"}', "the name 'word' twice"),
        (b'{"number": NaN}', "NaN is not a number"),
        (b'{"number": -Infinity}', "-Infinity is not a number"),
        (b'{"number": ' + b"1" * 5000 + b"}", "a number has 5000 digits"),
        (b'{"number": ' + b"1" * 101 + b"}", "a number has 101 digits"),
        (b"[" * 1000, "nested more than 32 deep"),
        (b"]" * 1000, "a bracket too many"),
        (b'{"a":' * 40, "nested more than 32 deep"),
        (b'{"word": "\xff"}', "not UTF-8: byte 0xff"),
        (b"\xff\xfe{\0}\0", "not UTF-8"),
        (b'{"word": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"number": 1e999}', "finite"),
        (b'{"word": "\\ud800"}', "half a character, \\ud800"),
        (b'{"\\udc00\\ud800": [{"word": 1}]}', "half a character"),
        (json.dumps({"word": "x" * 20_000}).encode(), "a string of 20000 bytes is too long here"),
        (json.dumps({"images": "x" * 20_000}).encode(), "a string of 20000 bytes is too long here"),
        (json.dumps({"x" * 20_000: 1}).encode(), "expecting property name"),
    ],
)
def test_what_is_odd_is_refused_in_words(data: bytes, why: str) -> None:
    assert why in refused(data)


def test_a_byte_order_mark_and_line_breaks_in_strings_are_read() -> None:
    assert parse(b'\xef\xbb\xbf{"word": "a"}').word == "a"
    assert parse(b'{"word": "a\nb"}').word == "a\nb"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"images": [' + b"1," * 2 * MIB + b"1]}", "strings, commas and brackets"),
        (b'{"images": [' + b'"",' * MIB + b'""]}', "strings, commas and brackets"),
        (b'{"images": [' + b"[]," * MIB + b"1]}", "strings, commas and brackets"),
        (b"{" + b",".join(b'"k%d":1' % n for n in range(10_000)) + b"}", "strings, commas and brackets"),
        (b'{"word": "' + b'\\"' * MIB + b'"}', "strings, commas and brackets"),
        (b" " * (MAX_BARE_BYTES + 1), "outside its strings"),
        (b'{"number": ' + b"1" * (MAX_BARE_BYTES + 1), "outside its strings"),
        (b'["' + b'","'.join([b"x" * LONG_BYTES] * (MAX_SHORT_BYTES // LONG_BYTES + 1)) + b'"]', "besides its images"),
    ],
)
def test_what_is_many_is_refused_before_it_is_parsed(data: bytes, why: str) -> None:
    pieces = cut(data)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequestError, match=why):
            parse_json(pieces, Body, max_marks=3000)
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()


def request(pieces: Sequence[bytes], **headers: str) -> Request:
    coming = iter(pieces)

    async def receive() -> dict[str, Any]:
        data = next(coming, None)
        return {"type": "http.request", "body": data or b"", "more_body": data is not None}

    raw = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


def test_a_body_that_says_or_has_too_many_bytes_is_refused() -> None:
    for asked in (request([], content_length="101"), request([], content_length="9" * 5000), request([b"x" * 60] * 2)):
        with pytest.raises(BodyTooLargeError, match="at most 100 bytes"):
            asyncio.run(read_json(asked, Body, max_bytes=100))
    body = asyncio.run(read_json(request([b'{"word"', b': "a"}'], content_length="odd"), Body, max_bytes=100))
    assert body.word == "a"


def test_many_marks_are_allowed_where_they_were_asked_for() -> None:
    data = json.dumps({"images": ["a"] * 5000}).encode()
    assert len(asyncio.run(read_json(request([data]), Body, max_bytes=MIB, max_marks=20_000)).images) == 5000
    with pytest.raises(InvalidRequestError):
        asyncio.run(read_json(request([data]), Body, max_bytes=MIB, max_marks=5000))


def test_a_long_text_may_be_asked_for_and_has_a_limit_too() -> None:
    assert LongText([b"caf\xc3", b"\xa9 \\u00e9"]).text(100) == "café é"
    for pieces, why in (([b"x" * 2000], "2000 bytes"), ([b"\\q"], "invalid escape"), ([b"\\ud800"], "UTF-8")):
        with pytest.raises(InvalidRequestError, match=why):
            LongText(pieces).text(100)
