"""Reads JSON bodies in pieces: what is many is counted before it is parsed, what is long is kept apart from the rest.

A parser holds the interpreter for as long as its text is, and makes fifty bytes of one: so it is given only what lies
between long strings, which is small. The long strings, images in base64, stay as they came until they are decoded.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import deque
from typing import Annotated, Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError, WithJsonSchema
from pydantic_core import CoreSchema, core_schema
from starlette.requests import Request

from app.errors import BodyTooLargeError, InvalidRequestError
from app.offload import QUICK_BYTES, in_thread
from app.problems import invalid_body

LONG_BYTES = 4 * 1024
"""A string with more bytes than this is kept apart, unless a route says otherwise."""
MAX_SHORT_BYTES = 5 * 1024 * 1024
"""Most bytes of a body besides its long strings."""
MAX_BARE_BYTES = 1024 * 1024
"""Most bytes of a body outside all strings: numbers, punctuation and space."""
MAX_DEPTH = 32
"""Most brackets within each other."""
MAX_DIGITS = 100
"""Most characters of a whole number."""

_QUICK_MARKS = 500
_PIECE_BYTES = 64 * 1024
_BRACKETS = re.compile(rb"[\[{}\]]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_QUOTE, _BACKSLASH = b'"', b"\\"
_BYTES_PER_CHARACTER = 12  # of two escapes for one beyond the basic plane
_UNIT = "strings, commas and brackets"

M = TypeVar("M", bound=BaseModel)


class LongText:
    """A long string of a JSON body, in the pieces in which it arrived, with its escapes."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.size = sum(map(len, pieces))
        self.escaped = any(_BACKSLASH in piece for piece in pieces)

    def __repr__(self) -> str:
        return f"a string of {self.size} bytes"

    def begin(self, size: int) -> bytes:
        """Return the first `size` bytes, with their escapes."""
        begin = b""
        for piece in self._pieces:
            begin += piece[: size - len(begin)]
        return begin

    def take(self) -> deque[bytes]:
        """Return the pieces and let go of them, so that each can be freed once it is used."""
        pieces, self._pieces = deque(self._pieces), []
        return pieces

    def text(self, most: int) -> str:
        """Return the string itself.

        Raises:
            InvalidRequestError: it has more than `most` characters, or is none.
        """
        if self.size > most * _BYTES_PER_CHARACTER:
            raise InvalidRequestError(f"it has {self.size} bytes; a text has at most {most} characters")
        try:
            text = str(json.loads((b'"%b"' % b"".join(self._pieces)).decode("utf-8"), strict=False))
            text.encode()
        except ValueError as error:
            raise InvalidRequestError("it is not a text: it has an invalid escape, or is not UTF-8") from error
        return text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let models hold it as it is."""
        return core_schema.is_instance_schema(cls)


Text = Annotated[str | LongText, WithJsonSchema({"type": "string", "minLength": 1})]
"""A string that may be long."""


class TooManyMarksError(InvalidRequestError):
    """The JSON has more strings, commas and brackets than a request of its kind needs."""


class JsonText:
    """A JSON text that arrives in pieces.

    Args:
        max_marks: most strings, commas and brackets.
        long_bytes: a string with more bytes is kept apart.
    """

    def __init__(self, max_marks: int, long_bytes: int = LONG_BYTES) -> None:
        self._max_marks = max_marks
        self._long_bytes = long_bytes
        self._marks = 0
        self._bare = 0
        self._depth = 0
        self._short = bytearray()
        self._long: list[LongText] = []
        self._place = secrets.token_hex(8)  # no client can write it in advance
        self._pieces: list[bytes] = []
        self._inside = self._escaping = False

    def feed(self, data: bytes) -> None:
        """Take the next piece.

        Raises:
            InvalidRequestError: the text has more marks, or more bytes besides long strings, than allowed.
        """
        at = 0
        while at < len(data):
            at = self._string(data, at) if self._inside else self._between(data, at)

    def value(self) -> Any:
        """Return what the whole text says, with a `LongText` in place of each long string.

        Raises:
            RequestValidationError: the text is not JSON, or an object has a name twice.
        """
        if self._inside:
            raise _invalid("the text ends inside a string")
        try:
            value = json.loads(
                self._short.decode("utf-8-sig"),
                strict=False,  # line breaks within strings, as shells write base64 into JSON
                object_pairs_hook=self._object,
                parse_int=_whole,
                parse_constant=_no_number,
            )
        except UnicodeDecodeError as error:
            raise _invalid(f"it is not UTF-8: byte 0x{error.object[error.start]:02x}") from error
        except json.JSONDecodeError as error:
            # the place is that in the text without its long strings
            where = "" if self._long else f" at line {error.lineno}, column {error.colno}"
            raise _invalid(f"{error.msg[0].lower()}{error.msg[1:]}{where}") from error
        if _SURROGATE.search(self._short) is not None:
            _check_characters(value)
        return value

    def _between(self, data: bytes, at: int) -> int:
        quote = data.find(_QUOTE, at)
        end = len(data) if quote < 0 else quote + 1
        between = data[at:end]
        self._bare += len(between)
        if self._bare > MAX_BARE_BYTES:
            raise InvalidRequestError(f"the JSON has more than {MAX_BARE_BYTES} bytes outside its strings")
        self._mark(between.count(_QUOTE) + between.count(b","))
        for bracket in _BRACKETS.finditer(between):
            self._mark(1)
            self._depth += 1 if bracket[0] in b"[{" else -1
            if not 0 <= self._depth <= MAX_DEPTH:
                raise _invalid(f"it is nested more than {MAX_DEPTH} deep" if self._depth > 0 else "a bracket too many")
        self._keep(between)
        self._inside = quote >= 0
        return end

    def _string(self, data: bytes, at: int) -> int:
        begin = at + self._escaping
        self._escaping = False
        while (quote := data.find(_QUOTE, begin)) >= 0 and _ends_escaping(data, begin, quote):
            self._mark(1)
            begin = quote + 1
        end = len(data) if quote < 0 else quote
        self._pieces.append(data[at:end])
        if quote >= 0:
            self._close()
            return quote + 1
        self._escaping = _ends_escaping(data, begin, end)
        return end

    def _close(self) -> None:
        self._inside = False
        if sum(map(len, self._pieces)) <= self._long_bytes:
            self._keep(b"".join((*self._pieces, _QUOTE)))
        else:
            del self._short[-1:]  # the quote before it
            self._keep(b'{"%b":%d}' % (self._place.encode(), len(self._long)))
            self._long.append(LongText(self._pieces))
        self._pieces = []

    def _keep(self, data: bytes) -> None:
        self._short += data
        if len(self._short) > MAX_SHORT_BYTES:
            raise InvalidRequestError(f"the JSON has more than {MAX_SHORT_BYTES} bytes besides its images")

    def _mark(self, count: int) -> None:
        self._marks += count
        if self._marks > self._max_marks:
            raise TooManyMarksError(f"the JSON has more than {self._max_marks} {_UNIT}")

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        if len(pairs) == 1 and pairs[0][0] == self._place:
            return self._long[pairs[0][1]]
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise _invalid(f"an object has the name {twice[:100]!r} twice")
        return found


async def read_json(
    request: Request, model: type[M], *, max_bytes: int, max_marks: int = 1000, long_bytes: int = LONG_BYTES
) -> M:
    """Read a JSON body as `model`; a large or long-winded one is parsed in a thread.

    Args:
        request: the request to read.
        model: what its body must be.
        max_bytes: most bytes of the body.
        max_marks: most strings, commas and brackets in it.
        long_bytes: a string with more bytes is kept apart, and is refused where the model has no `Text`.

    Raises:
        BodyTooLargeError: it has more bytes.
        InvalidRequestError: it has more marks.
        RequestValidationError: it is not JSON, or not that of `model`.
    """
    pieces = await receive(request, max_bytes)
    if sum(map(len, pieces)) <= QUICK_BYTES:
        try:
            return parse_json(pieces.copy(), model, max_marks=min(max_marks, _QUICK_MARKS), long_bytes=long_bytes)
        except TooManyMarksError:
            pass  # in a thread it may have more
    return await in_thread(parse_json, pieces, model, max_marks=max_marks, long_bytes=long_bytes)


def parse_json(pieces: deque[bytes], model: type[M], *, max_marks: int, long_bytes: int = LONG_BYTES) -> M:
    """Return the JSON in `pieces` as `model`, and empty them.

    Raises:
        InvalidRequestError: it has more marks than `max_marks`.
        RequestValidationError: it is not JSON, or not that of `model`.
    """
    text = JsonText(max_marks, long_bytes)
    while pieces:
        text.feed(pieces.popleft())
    try:
        return model.model_validate(text.value())
    except ValidationError as error:
        raise _refused(error) from error


async def receive(request: Request, max_bytes: int) -> deque[bytes]:
    """Return the body in pieces.

    Raises:
        BodyTooLargeError: it has more than `max_bytes`; at once, if it says so.
    """
    too_large = BodyTooLargeError(f"a body of this kind has at most {max_bytes} bytes here")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > len(str(max_bytes)) or int(announced) > max_bytes):
        raise too_large
    pieces: deque[bytes] = deque()
    pending, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        pending += chunk
        if len(pending) >= _PIECE_BYTES:
            pieces.append(bytes(pending))
            pending.clear()
    pieces.append(bytes(pending))
    return pieces


def _ends_escaping(data: bytes, begin: int, end: int) -> bool:
    """Return whether `data[begin:end]` ends with an odd number of backslashes."""
    if end <= begin or data[end - 1] != _BACKSLASH[0]:
        return False
    piece = data[begin:end]
    return (len(piece) - len(piece.rstrip(_BACKSLASH))) % 2 == 1


def _check_characters(value: Any) -> None:
    """Refuse strings with half a character, which no encoding can hold."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _invalid(f"a string has half a character, \\u{ord(value[error.start]):04x}") from error
    elif isinstance(value, list | dict):
        for each in value if isinstance(value, list) else (*value, *value.values()):
            _check_characters(each)


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _invalid(f"a number has {len(digits)} digits")
    return int(digits)


def _no_number(name: str) -> None:
    raise _invalid(f"{name} is not a number in JSON")


def _invalid(why: str) -> RequestValidationError:
    return RequestValidationError([{"type": "json_invalid", "loc": ("body",), "msg": f"invalid JSON: {why}"}])


def _refused(error: ValidationError) -> RequestValidationError:
    refused = invalid_body(error)
    for told, found in zip(refused.errors(), error.errors(include_url=False), strict=False):
        if isinstance(found["input"], LongText):
            told["msg"] = f"{found['input']!r} is too long here"
    return refused
