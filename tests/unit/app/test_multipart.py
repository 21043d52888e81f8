from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.errors import InvalidRequestError
from app.multipart import MAX_FIELD_BYTES, Form, read_form


def part(headers: str, data: bytes) -> bytes:
    return b"--b\r\n" + f"Content-Disposition: form-data; {headers}\r\n\r\n".encode() + data + b"\r\n"


END = b"--b--\r\n"


def read(body: bytes, *, piece: int = 7, boundary: str = "; boundary=b", **limits: Any) -> Form:
    pieces: Iterator[bytes] = iter([body[i : i + piece] for i in range(0, len(body), piece)])

    async def receive() -> dict[str, Any]:
        data = next(pieces, None)
        return {"type": "http.request", "body": data or b"", "more_body": data is not None}

    headers = [(b"content-type", f"multipart/form-data{boundary}".encode())]
    request = Request({"type": "http", "headers": headers, "method": "POST"}, receive)
    return asyncio.run(read_form(request, io.BytesIO, **{"max_files": 5, **limits}))


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
