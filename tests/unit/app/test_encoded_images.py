"""Images in base64 and data URIs, in every spelling, however the body that has them was cut."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.encoded_images import from_base64, kind_of
from app.errors import ImageTooLargeError, InvalidRequestError
from app.json_body import LONG_BYTES, JsonText, LongText
from segp_cl.errors import ImageDecodeError

MIB = 1024 * 1024
Spelling = Callable[[bytes], str]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url_safe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


SPELLINGS: dict[str, Spelling] = {
    "plain": b64,
    "line breaks": lambda data: base64.encodebytes(data).decode(),
    "CRLF": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "a final newline": lambda data: b64(data) + "\n",
    "space around it": lambda data: f" \t{b64(data)}  ",
    "no padding": lambda data: b64(data).rstrip("="),
    "URL-safe": url_safe,
    "URL-safe without padding": lambda data: url_safe(data).rstrip("="),
    "data URI": lambda data: "data:image/png;base64," + b64(data),
    "data URI in capitals": lambda data: "DATA:IMAGE/JPEG;BASE64," + b64(data),
    "data URI with parameters": lambda data: 'data:image/png;name="a b.png";charset=utf-8;base64,' + b64(data),
    "data URI without a type": lambda data: "data:;base64," + b64(data),
    "data URI of line breaks": lambda data: "data:image/png;base64,\n" + base64.encodebytes(data).decode(),
    "data URI percent-encoded": lambda data: "data:image/png;base64," + urllib.parse.quote(b64(data), safe=""),
    "data URI of bytes": lambda data: "data:image/png," + urllib.parse.quote_from_bytes(data),
}
ESCAPES: dict[str, Callable[[str], str]] = {
    "as it is": json.dumps,
    "escaped slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "every character escaped": lambda text: '"' + "".join(f"\\u{ord(sign):04x}" for sign in text) + '"',
    "raw line breaks": lambda text: f'"{text}"' if '"' not in text else json.dumps(text),
}


def sent(literal: str, piece: int) -> str | LongText:
    """What a server makes of a string that arrives in pieces."""
    text = JsonText(100)
    data = f"[{literal}]".encode()
    for at in range(0, len(data), piece):
        text.feed(data[at : at + piece])
    (value,) = text.value()
    assert isinstance(value, str | LongText)
    return value


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("escaped", ESCAPES.values(), ids=ESCAPES)
@pytest.mark.parametrize("size", [1, 2, 3, 1000, 30_001])
def test_every_spelling_is_read(spelling: Spelling, escaped: Callable[[str], str], size: int) -> None:
    data = bytes(n * n % 251 for n in range(size))
    literal = escaped(spelling(data))
    for piece in (997, 65_536):
        assert from_base64(sent(literal, piece), max_bytes=MIB) == data
    assert from_base64(spelling(data), max_bytes=MIB) == data


@given(st.binary(min_size=1, max_size=300), st.integers(1, 90), st.sampled_from(sorted(SPELLINGS)))
def test_wherever_a_long_string_is_cut_it_is_the_same(data: bytes, piece: int, name: str) -> None:
    literal = ESCAPES["escaped slashes"](SPELLINGS[name](data) + "\n" * LONG_BYTES)
    if name != "data URI of bytes":  # there a line break is data
        assert from_base64(sent(literal, piece), max_bytes=MIB) == data


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("§§§", "'§' at position 0"),
        ("aGk=aGk=", "'=' before its end, at position 3"),
        ("aGk==", "2 '=' at its end, expected 1"),
        ("aGk===", "3 '='"),
        ("aGkhI", "no base64 has 5 characters"),
        ("", "got nothing"),
        ("  \n", "got nothing"),
        ("data:image/png;base64,", "got nothing"),
        ("data:image/png;base64,aG!k", "'!' at position 2"),
        ("aGk\0", "position 3"),
        ("https://example.org/cat.jpg", "an address"),
        ("file:///home/ada/cat.jpg", "an address"),
        ("cat.jpg", "a file's name"),
        ("/home/ada/my cat.JPEG", "a file's name"),
        ("C:\\photos\\cat.png", "a file's name"),
        ("\ud800", "position 0"),
        ("A" * 40_000 + "!", "'!' at position 40000"),
    ],
)
def test_what_is_no_base64_is_refused_with_what_was_seen(text: str, why: str) -> None:
    error = from_base64(text, max_bytes=MIB)
    assert isinstance(error, ImageDecodeError)
    assert "expected an image in base64" in str(error)
    assert why in str(error)


def test_a_backslash_that_escapes_nothing_is_refused() -> None:
    error = from_base64(LongText([b"AAAA" * 100, b"\\q" * 10]), max_bytes=MIB)
    assert isinstance(error, ImageDecodeError)
    assert "backslash" in str(error)


def test_an_image_with_too_many_bytes_is_not_decoded_to_its_end() -> None:
    pieces = [b"AAAA" * 1000] * 10 + [b"!"]  # what would be refused is never reached
    error = from_base64(LongText(pieces), max_bytes=6000)
    assert isinstance(error, ImageTooLargeError)
    assert "more than 6000 bytes" in str(error)
    assert from_base64(b64(bytes(6000)), max_bytes=6000) == bytes(6000)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    assert isinstance(from_base64(text, max_bytes=MIB), bytes | ImageDecodeError)


JPEG, PNG = b"\xff\xd8\xff\xe0" + bytes(60), b"\x89PNG\r\n\x1a\n" + bytes(60)


@pytest.mark.parametrize(
    "text",
    [
        "data:image/png;base64,aGk=",
        "DATA:IMAGE/JPEG;BASE64,aGk=",
        "data:application/octet-stream;base64," + b64(JPEG),
        "data:;base64," + b64(JPEG),
        b64(JPEG),
        b64(PNG),
        url_safe(JPEG).rstrip("="),
        "\n" + base64.encodebytes(PNG).decode(),
        b64(b"GIF89a" + bytes(60)),
        b64(b"RIFF\1\2\3\4WEBPVP8 " + bytes(60)),
        b64(b"\0\0\0\x20ftypavif" + bytes(60)),
        b64(b"II*\0" + bytes(60)),
    ],
)
def test_images_are_told_from_texts(text: str) -> None:
    assert kind_of(text) == "image"


@pytest.mark.parametrize(
    "text",
    ["a cat", "data: what it is, and is not", "Donaudampfschifffahrtsgesellschaft", "see https://example.org now",
     "cat.", "naïve", "", "9j", "ACGT" * 100, "a picture, cat.jpg"],
)  # fmt: skip
def test_texts_are_texts(text: str) -> None:
    assert kind_of(text) == "text"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://example.org/cat", "an address"),
        (" http://example.org/cat.png\n", "an address"),
        ("s3://bucket/cat.png", "an address"),
        ("photos/cat.PNG", "a file's name"),
        ("data:text/plain;base64,aGk=", "'text/plain'"),
        ("data:application/pdf;base64,aGk=", "'application/pdf'"),
        (b64(bytes(range(256))), "looks like base64"),
    ],
)
def test_what_is_neither_is_refused_with_how_to_send_an_image(text: str, why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why) as refused:
        kind_of(text)
    assert "base64" in str(refused.value)
