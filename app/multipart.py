"""Reads multipart bodies as they arrive: uploads into files that the caller opens, small fields into memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.errors import InvalidRequestError
from app.offload import off_loop

_WRITE_BYTES = 1024 * 1024
MAX_FIELD_BYTES = 256 * 1024
MAX_FIELDS = 1000
MAX_FIELDS_BYTES = 4 * 1024 * 1024
"""Most bytes of all fields of a form together; files are not counted."""
MAX_BOUNDARY_BYTES = 200
_QUICK_PARTS = 50
"""So many parts are parsed faster than they are handed over to a thread."""


@dataclass
class FilePart:
    """One file of a form. `name` is the field's name; `filename` is what the client sent, never used as a path."""

    name: str
    filename: str
    file: BinaryIO
    size: int = 0

    def content(self) -> bytes:
        """Return the file's bytes. What was kept in memory is not copied, which would hold up every thread."""
        if isinstance(self.file, io.BytesIO):
            return self.file.getvalue()
        self.file.seek(0)
        return self.file.read()


@dataclass
class Form:
    """A received form, in order."""

    fields: list[tuple[str, str]] = field(default_factory=list)
    files: list[FilePart] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        """Return all values of a field."""
        return [value for key, value in self.fields if key == name]

    def value(self, name: str) -> str | None:
        """Return the last value of a field, or None."""
        return next(reversed(self.values(name)), None)

    def close(self) -> None:
        """Close all files, which deletes those without a name."""
        for part in self.files:
            part.file.close()


async def read_form(
    request: Request, open_file: Callable[[], BinaryIO], *, max_files: int, max_file_bytes: int | None = None
) -> Form:
    """Read a whole multipart body, about 1 MiB at a time; all but small pieces are written in a thread.

    Args:
        request: the request to read.
        open_file: opens a file for the bytes of an upload.
        max_files: the most files allowed.
        max_file_bytes: one byte more than this is kept of each file; the rest is only counted in `size`.

    Raises:
        HTTPException: 400 for a malformed body.
        InvalidRequestError: too many files or fields, or a field that is too large.
    """
    _, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if not boundary:
        raise HTTPException(400, "the multipart body has no boundary in its Content-Type")
    if len(boundary) > MAX_BOUNDARY_BYTES:
        raise HTTPException(400, f"the boundary has {len(boundary)} bytes; at most {MAX_BOUNDARY_BYTES} are allowed")
    receiver = _Receiver(open_file, max_files, max_file_bytes)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": receiver.on_part_begin,
                "on_header_field": receiver.on_header_field,
                "on_header_value": receiver.on_header_value,
                "on_header_end": receiver.on_header_end,
                "on_headers_finished": receiver.on_headers_finished,
                "on_part_data": receiver.on_part_data,
                "on_part_end": receiver.on_part_end,
                "on_end": receiver.on_end,
            },
        )

        async def parse(data: bytes) -> None:
            # every part costs its own callbacks, however small it is
            parts = data.count(b"--" + boundary)
            await off_loop(len(data) if parts <= _QUICK_PARTS else _WRITE_BYTES, parser.write, data)

        pending = bytearray()
        async for chunk in request.stream():
            pending += chunk
            if len(pending) >= _WRITE_BYTES:
                await parse(bytes(pending))
                pending.clear()
        await parse(bytes(pending))
        parser.finalize()
        if not receiver.complete:
            raise HTTPException(400, "the multipart body ends before its last boundary")
    except MultipartParseError as error:
        receiver.form.close()
        raise HTTPException(400, f"the multipart body is malformed: {error}") from error
    except BaseException:
        receiver.form.close()
        raise
    return receiver.form


class _Receiver:
    """The parser's callbacks."""

    def __init__(self, open_file: Callable[[], BinaryIO], max_files: int, max_file_bytes: int | None) -> None:
        self.form = Form()
        self.complete = False
        self._open_file = open_file
        self._max_files = max_files
        self._max_file_bytes = max_file_bytes
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._name = ""
        self._file: FilePart | None = None
        self._field = bytearray()
        self._fields_bytes = 0

    def on_part_begin(self) -> None:
        self._disposition, self._file = b"", None
        self._field = bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise HTTPException(400, "a part of the multipart body has no name")
        self._name = options[b"name"].decode("utf-8", "replace")
        if b"filename" in options:
            if len(self.form.files) >= self._max_files:
                raise InvalidRequestError(f"the request has more than {self._max_files} files")
            filename = options[b"filename"].decode("utf-8", "replace")
            self._file = FilePart(self._name, filename, self._open_file())
            self.form.files.append(self._file)
        elif len(self.form.fields) >= MAX_FIELDS:
            raise InvalidRequestError(f"the form has more than {MAX_FIELDS} fields")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            room = end - start
            if self._max_file_bytes is not None:
                room = max(0, min(room, self._max_file_bytes + 1 - self._file.size))
            self._file.file.write(memoryview(data)[start : start + room])
            self._file.size += end - start
        else:
            self._field += data[start:end]
            self._fields_bytes += end - start
            if len(self._field) > MAX_FIELD_BYTES:
                raise InvalidRequestError(f"the field {self._name[:40]!r} has more than {MAX_FIELD_BYTES} bytes")
            if self._fields_bytes > MAX_FIELDS_BYTES:
                raise InvalidRequestError(f"the form's fields have more than {MAX_FIELDS_BYTES} bytes together")

    def on_part_end(self) -> None:
        if self._file is not None:
            self._file.file.flush()  # a full disk shows here, and not when the file is first read
        else:
            try:
                self.form.fields.append((self._name, self._field.decode("utf-8")))
            except UnicodeDecodeError as error:
                raise InvalidRequestError(f"the field {self._name[:40]!r} is not UTF-8") from error

    def on_end(self) -> None:
        self.complete = True
