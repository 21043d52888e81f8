from __future__ import annotations

import asyncio
import contextlib
import errno
import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app import multipart
from app.errors import InvalidRequestError
from app.multipart import MAX_FIELD_BYTES, MAX_FIELDS_BYTES, Form, read_form


def part(headers: str, data: bytes) -> bytes:
    return b"--b\r\n" + f"Content-Disposition: form-data; {headers}\r\n\r\n".encode() + data + b"\r\n"


END = b"--b--\r\n"


def read(body: bytes, *, piece: int = 7, boundary: str = "; boundary=b", **limits: Any) -> Form:
    pieces = [body[i : i + piece] for i in range(0, len(body), piece)]
    return read_pieces(pieces, f"multipart/form-data{boundary}".encode(), **limits)


def read_pieces(pieces: Sequence[bytes], content_type: bytes, **limits: Any) -> Form:
    coming: Iterator[bytes] = iter(pieces)

    async def receive() -> dict[str, Any]:
        data = next(coming, None)
        return {"type": "http.request", "body": data or b"", "more_body": data is not None}

    request = Request({"type": "http", "headers": [(b"content-type", content_type)], "method": "POST"}, receive)
    return asyncio.run(read_form(request, **{"open_file": io.BytesIO, "max_files": 5, **limits}))


@pytest.mark.parametrize("piece", [1, 3, 10_000])
def test_fields_and_files_come_in_order_however_they_are_cut(piece: int) -> None:
    body = (
        part('name="a"', "é".encode()) + part('name="f"; filename="x/y.png"', b"\r\n--bytes") + part('name="a"', b"2")
    )
    form = read(body + END, piece=piece)
    assert form.fields == [("a", "é"), ("a", "2")]
    assert (form.values("a"), form.value("a"), form.value("b")) == (["é", "2"], "2", None)
    (file,) = form.files
    file.file.seek(0)
    assert (file.name, file.filename, file.size, file.file.read()) == ("f", "x/y.png", 9, b"\r\n--bytes")


def test_a_file_is_kept_up_to_its_limit_and_counted_beyond() -> None:
    form = read(part('name="f"; filename="x"', b"x" * 100) + END, max_file_bytes=10)
    assert form.files[0].size == 100
    assert form.files[0].file.seek(0, io.SEEK_END) == 11


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        part('name="a"', b"x"),
        (part('name="a"', b"x") + END)[:-6],
        part('filename="nameless"', b"x") + END,
        b"--b\r\nno colon\r\n\r\nx\r\n--b--\r\n",
    ],
)
def test_malformed_bodies_are_bad_requests(body: bytes) -> None:
    with pytest.raises(HTTPException) as caught:
        read(body)
    assert caught.value.status_code == 400


def test_a_missing_boundary_is_a_bad_request() -> None:
    with pytest.raises(HTTPException, match="boundary"):
        read(END, boundary="")


def test_too_many_files_and_too_large_fields_are_refused() -> None:
    files = part('name="f"; filename="x"', b"x") * 3
    with pytest.raises(InvalidRequestError, match="more than 2 files"):
        read(files + END, max_files=2)
    with pytest.raises(InvalidRequestError, match="'a' has more than"):
        read(part('name="a"', b"x" * (MAX_FIELD_BYTES + 1)) + END, piece=65_536)
    with pytest.raises(InvalidRequestError, match="fields"):
        read(part('name="a"', b"x") * 1001 + END, piece=65_536)
    with pytest.raises(InvalidRequestError, match="UTF-8"):
        read(part('name="a"', b"\xff") + END)


def test_files_of_a_refused_form_are_closed() -> None:
    opened: list[io.BytesIO] = []

    def open_file() -> io.BytesIO:
        opened.append(io.BytesIO())
        return opened[-1]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": part('name="f"; filename="x"', b"x"), "more_body": False}

    request = Request(
        {"type": "http", "headers": [(b"content-type", b"multipart/form-data; boundary=b")], "method": "POST"}, receive
    )
    with pytest.raises(HTTPException):
        asyncio.run(read_form(request, open_file, max_files=1))
    assert [file.closed for file in opened] == [True]


# any form, cut anywhere

# what RFC 2046 allows in a boundary, and names that browsers and httpx send without escapes
boundaries = st.from_regex(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]", fullmatch=True)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), max_size=12)


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, list[tuple[str, str | None, bytes]]]:
    """A boundary, and parts whose contents come as near to it as they may."""
    boundary = draw(boundaries)
    delimiter = f"\r\n--{boundary}".encode()
    morsels = st.sampled_from([delimiter[:cut] for cut in range(1, len(delimiter))]) | st.binary(max_size=5)
    contents = st.lists(morsels, max_size=6).map(b"".join).filter(lambda data: delimiter not in b"\r\n" + data)
    fields = st.tuples(names, st.none(), st.text(max_size=8).map(str.encode))
    files = st.tuples(names, names, contents)
    parts = draw(st.lists(fields | files, max_size=5))
    return boundary, [part for part in parts if delimiter not in b"\r\n" + part[2]]


def body_of(boundary: str, parts: Sequence[tuple[str, str | None, bytes]]) -> bytes:
    body = b""
    for name, filename, data in parts:
        label = f'name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
        body += f"--{boundary}\r\nContent-Disposition: form-data; {label}\r\n\r\n".encode() + data + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def cut(body: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Consecutive pieces of these sizes, and the rest."""
    pieces = []
    for size in sizes:
        pieces.append(body[:size])
        body = body[size:]
    return [*pieces, body]


@given(forms(), st.lists(st.integers(0, 30), max_size=30))
def test_any_form_arrives_as_it_was_sent_however_it_is_cut(
    form: tuple[str, list[tuple[str, str | None, bytes]]], sizes: list[int]
) -> None:
    boundary, parts = form
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multipart, "_WRITE_BYTES", 1)  # every piece is parsed by itself
        content_type = f'multipart/form-data; boundary="{boundary}"'.encode()
        got = read_pieces(cut(body_of(boundary, parts), sizes), content_type)
    assert got.fields == [(name, data.decode()) for name, filename, data in parts if filename is None]
    kept = [(part.name, part.filename, part.size, part.file) for part in got.files]
    assert [(name, filename, size) for name, filename, size, _ in kept] == [
        (name, filename, len(data)) for name, filename, data in parts if filename is not None
    ]
    assert [contents(file) for *_, file in kept] == [data for _, filename, data in parts if filename is not None]


def contents(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


@given(
    st.lists(st.binary(max_size=20), max_size=6).filter(lambda files: not any(b"--b" in data for data in files)),
    st.integers(0, 6),
    st.none() | st.integers(0, 20),
)
def test_limits_of_files_hold(files: list[bytes], max_files: int, max_file_bytes: int | None) -> None:
    body = body_of("b", [("f", "x", data) for data in files])
    if len(files) > max_files:
        with pytest.raises(InvalidRequestError, match=f"more than {max_files} files"):
            read(body, max_files=max_files, max_file_bytes=max_file_bytes)
        return
    form = read(body, max_files=max_files, max_file_bytes=max_file_bytes)
    most = None if max_file_bytes is None else max_file_bytes + 1
    assert [(part.size, contents(part.file)) for part in form.files] == [(len(data), data[:most]) for data in files]


pieces_of_forms = st.sampled_from(
    [
        b"--b",
        b"--",
        b"\r\n",
        b'Content-Disposition: form-data; name="a"',
        b'; filename="x"',
        b"; name*=utf-8''%ff",
        b'filename="',
        b": ",
        b"\xff",
        b"\0",
    ]
)


@given(st.lists(pieces_of_forms | st.binary(max_size=5), max_size=12).map(b"".join), st.integers(1, 20))
@example(b"--b\r\nContent-Disposition: form-data; name*=utf-8''%ff\r\n\r\nx\r\n--b--\r\n", 100)
def test_any_bytes_are_read_or_refused_and_no_file_stays_open(body: bytes, piece: int) -> None:
    opened: list[io.BytesIO] = []

    def open_file() -> io.BytesIO:
        opened.append(io.BytesIO())
        return opened[-1]

    with contextlib.suppress(InvalidRequestError, HTTPException):
        read(body, piece=piece, open_file=open_file).close()
    assert all(file.closed for file in opened)


@given(st.binary(max_size=30) | st.binary(max_size=10).map(lambda junk: b"multipart/form-data; boundary=" + junk))
def test_any_content_type_is_read_or_refused(content_type: bytes) -> None:
    with pytest.raises((HTTPException, InvalidRequestError)):
        read_pieces([b"--\r\n\r\n"], content_type)


def test_the_fields_of_a_form_are_bounded_together() -> None:
    field = b"x" * MAX_FIELD_BYTES
    body = b"".join(part(f'name="{number}"', field) for number in range(MAX_FIELDS_BYTES // MAX_FIELD_BYTES + 1))
    with pytest.raises(InvalidRequestError, match="4194304 bytes together"):
        read(body + END, piece=65_536)


def test_a_disk_that_fills_up_shows_while_the_form_is_read() -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        read(part('name="f"; filename="x"', b"bytes") + END, open_file=Full)
