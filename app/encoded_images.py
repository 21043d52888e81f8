"""Reads images in base64 and data URIs, as clients spell them, in pieces; and tells them from texts."""

from __future__ import annotations

import binascii
import itertools
import json
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal
from urllib.parse import unquote_to_bytes

from app.errors import ImageTooLargeError, InvalidRequestError
from app.json_body import LongText
from app.offload import off_loop
from segp_cl.errors import ImageDecodeError, KeepsightError

HOW = "in base64, or as a data URI: 'data:image/jpeg;base64,…'"
_PIECE = 64 * 1024
_BEGIN = 1024
_SPACE = b" \t\r\n\v\f"
_SIGNS = string.ascii_letters.encode() + string.digits.encode() + b"+/"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_FOREIGN = re.compile(rb"[^A-Za-z0-9+/=_\-\s]")
_DATA_URI = re.compile(rb"\s*data:((?:[\w.+-]+/[\w.+*-]+)?(?:\s*;[^,;]*)*)\s*,", re.IGNORECASE)
_ADDRESS = re.compile(rb"\s*(?:[a-z][a-z0-9+.-]*://|blob:|//)\S+\s*", re.IGNORECASE)
_FILE_NAME = re.compile(
    rb"\s*(?:[^\s<>]+|(?:[a-z]:|~|\.{0,2})[\\/][^\r\n]+)\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|avif|hei[cf])\s*",
    re.IGNORECASE,
)
_FIRST_SIGNS = re.compile(rb"[A-Za-z0-9+/]{32}")
_BASE64_ALONE = re.compile(rb"\s*[A-Za-z0-9+/=_\-\r\n]*\s*")
_LONGEST_WORD = 100
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*|\0\0\0.ftyp(?:avi|hei|hev|mif|msf)",
    re.DOTALL,
)
_LONGEST_ESCAPE = 6


def kind_of(text: str | LongText) -> Literal["image", "text"]:
    """Return whether an input is an image or a text: the one place that decides it.

    Raises:
        InvalidRequestError: it is neither, but a reference to an image, or data of another kind.
    """
    try:
        begin = _begin(text)
    except _NotBase64Error as error:
        raise InvalidRequestError(str(error)) from error
    uri = _DATA_URI.match(begin)
    if uri is not None:
        media = uri[1].partition(b";")[0].strip().lower().decode("ascii", "replace")
        if media.startswith("image/") or media in ("", "application/octet-stream", "binary/octet-stream"):
            return "image"
        raise InvalidRequestError(f"it is a data URI of {media!r}; send a text as it is, and an image {HOW}")
    if len(begin) < _BEGIN and (_ADDRESS.fullmatch(begin) or _FILE_NAME.fullmatch(begin)):
        raise InvalidRequestError(
            f"it is an address or a file's name, and nothing is fetched; send the image's own bytes, {HOW}"
        )
    signs = begin.translate(_URL_SAFE, _SPACE)
    if _FIRST_SIGNS.match(signs) and _MAGIC.match(binascii.a2b_base64(signs[:32])):
        return "image"
    mixed = all(re.search(some, signs) for some in (b"[a-z]", b"[A-Z]", b"[0-9]"))
    if mixed and len(signs) > _LONGEST_WORD and _BASE64_ALONE.fullmatch(begin):
        raise InvalidRequestError(
            f"it looks like base64, but not like an image that can be read; send an image {HOW}, and a text as it is"
        )
    return "text"


def from_base64(text: str | LongText, *, max_bytes: int) -> bytes | KeepsightError:
    """Return the bytes of an image in base64 or in a data URI, or the error for the image's slot.

    Both alphabets are read, with padding or without, with line breaks and other space anywhere; data URIs in any case,
    with any parameters, percent-encoded or not.

    Args:
        text: the image as it was sent. A `LongText` is used up.
        max_bytes: most bytes of the image; of one that has more, no more than these are decoded.
    """
    try:
        begin = _begin(text)
        if len(begin) < _BEGIN and _ADDRESS.fullmatch(begin):
            raise _NotBase64Error("got an address; nothing is fetched, so send the image's own bytes")
        if len(begin) < _BEGIN and _FILE_NAME.fullmatch(begin):
            raise _NotBase64Error("got a file's name; send the file's bytes")
        return _decoded(text, begin, max_bytes)
    except _NotBase64Error as error:
        return ImageDecodeError(f"expected an image in base64: {error}")


async def images_from_base64(texts: Sequence[str | LongText], *, max_bytes: int) -> list[bytes | KeepsightError]:
    """Return what `from_base64` does for every text; in a thread if there is much to decode."""
    size = sum(text.size if isinstance(text, LongText) else len(text) for text in texts)
    return await off_loop(size, lambda: [from_base64(text, max_bytes=max_bytes) for text in texts])


class _NotBase64Error(ValueError):
    """What was found instead of base64, and where."""


def _decoded(text: str | LongText, begin: bytes, max_bytes: int) -> bytes | KeepsightError:
    uri = _DATA_URI.match(begin)
    pieces = _without_escapes(text)
    base64 = True
    if uri is not None:
        base64 = b"base64" in [each.strip().lower() for each in uri[1].split(b";")[1:]]
        pieces = _without_percents(_skip(pieces, uri.end()))
    image: list[bytes] = []
    size = 0
    for data in _without_base64(pieces) if base64 else pieces:
        image.append(data)
        size += len(data)
        if size > max_bytes:
            return ImageTooLargeError(f"the image has more than {max_bytes} bytes, which is the most that is allowed")
    return b"".join(image)


def _begin(text: str | LongText) -> bytes:
    """Return the first bytes of a text; fewer than `_BEGIN` only if these are all."""
    if isinstance(text, str):
        return text[:_BEGIN].encode("utf-8", "surrogatepass")
    raw = text.begin(_LONGEST_ESCAPE * _BEGIN)
    return (_unescaped(raw[: _whole_escapes(raw)]) if text.escaped else raw)[:_BEGIN]


def _without_escapes(text: str | LongText) -> Iterator[bytes]:
    """Return a text in pieces, without the escapes that JSON wrote into it."""
    if isinstance(text, str):
        data = text.encode("utf-8", "surrogatepass")
        yield from (data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
        return
    pieces = text.take()
    cut = b""  # an escape whose rest comes with the next piece
    while pieces:
        piece = cut + pieces.popleft()
        whole = _whole_escapes(piece) if text.escaped else len(piece)
        piece, cut = piece[:whole], piece[whole:]
        yield _unescaped(piece) if text.escaped else piece


def _whole_escapes(piece: bytes) -> int:
    """Return how many bytes of a piece come before an escape that is cut off at its end."""
    last = piece.rfind(b"\\", max(0, len(piece) - _LONGEST_ESCAPE + 1))
    until = piece[: last + 1]
    paired = (len(until) - len(until.rstrip(b"\\"))) % 2 == 0
    if last < 0 or paired or piece[last + 1 : last + 2] not in (b"", b"u"):
        return len(piece)
    return last


def _unescaped(piece: bytes) -> bytes:
    try:
        return str(json.loads(b'"%b"' % piece, strict=False)).encode("utf-8", "surrogatepass")
    except ValueError as error:
        raise _NotBase64Error("it has a backslash that escapes nothing") from error


def _skip(pieces: Iterable[bytes], count: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[count:]
        count = max(0, count - len(piece))


def _without_percents(pieces: Iterable[bytes]) -> Iterator[bytes]:
    cut = b""
    for piece in pieces:
        whole = cut + piece
        last = whole.rfind(b"%", max(0, len(whole) - 2))
        whole, cut = (whole[:last], whole[last:]) if last >= 0 else (whole, b"")
        yield unquote_to_bytes(whole) if b"%" in whole else whole
    yield unquote_to_bytes(cut)


def _without_base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Decode base64.

    Raises:
        _NotBase64Error: it is not base64; with the character and its position.
    """
    seen = signs = padding = 0
    rest = b""
    for piece in itertools.chain(pieces, (b"",)):
        unpadded = piece.rstrip(b"=")
        if not padding and b"=" not in unpadded:
            whole = rest + unpadded
            fours = len(whole) // 4 * 4
            try:  # the usual spelling, in one go
                decoded = binascii.a2b_base64(whole[:fours], strict_mode=True)
            except binascii.Error:
                pass
            else:
                if not whole[fours:].translate(None, _SIGNS):
                    seen, signs, rest = seen + len(piece), signs + len(unpadded), whole[fours:]
                    padding = len(piece) - len(unpadded)
                    yield decoded
                    continue
        foreign = _FOREIGN.search(piece)
        if foreign is not None:
            sign = piece[foreign.start() : foreign.start() + 4].decode("utf-8", "replace")[:1]
            raise _NotBase64Error(f"got {sign!r} at position {seen + foreign.start()}")
        plain = piece.translate(_URL_SAFE, _SPACE)
        before, equals, behind = plain.partition(b"=")
        if (padding and plain.strip(b"=")) or behind.strip(b"="):
            raise _NotBase64Error(f"got '=' before its end, at position {seen + max(0, piece.find(b'='))}")
        seen, signs, padding = seen + len(piece), signs + len(before), padding + len(equals) + len(behind)
        plain = rest + before
        fours = len(plain) // 4 * 4
        yield binascii.a2b_base64(plain[:fours])
        rest = plain[fours:]
    if not signs:
        raise _NotBase64Error("got nothing")
    if signs % 4 == 1:
        raise _NotBase64Error(f"it is cut off: no base64 has {signs} characters")
    if padding not in (0, -signs % 4):
        raise _NotBase64Error(f"got {padding} '=' at its end, expected {-signs % 4}")
    yield binascii.a2b_base64(rest + b"=" * (-signs % 4))
