"""Walks through the entries of a tar archive, front to back, with headers of a bounded size.

tarfile reads single headers here, and no more: walking through a hostile archive, it would collect extended headers
without end, and parse them in a time that grows with the square of their length.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from app.intake.unpack import UnpackError

_BLOCK: Final = tarfile.BLOCKSIZE
_MAX_HEADER_BYTES: Final = 1024 * 1024
_PAX_OF_ONE: Final = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_KINDS: Final = {tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link"}
_MAX_DIGITS: Final = 20


class _Stream:
    """Bytes that come in pieces, read front to back."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def take(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes in pieces; fewer where the stream ends."""
        while size and (piece := self._rest or next(self._pieces, b"")):
            self._rest = piece[size:]
            piece = piece[:size]
            size -= len(piece)
            yield piece

    def read(self, size: int) -> bytes:
        return b"".join(self.take(size))


@dataclass
class _Extended:
    """What extended headers say of the entry that follows them."""

    name: str | None = None
    name_is_utf8: bool = False  # only pax headers say that they are, unless they say otherwise
    binary: bool = False
    size: int | None = None
    sparse: bool = False


class TarEntry:
    """One entry. Its bytes can be read until the next entry is asked for."""

    def __init__(self, stream: _Stream, header: tarfile.TarInfo, extended: _Extended) -> None:
        self._stream = stream
        self.name = header.name if extended.name is None else extended.name
        self.name_is_utf8 = extended.name_is_utf8 and not extended.binary
        self.size = size = header.size if extended.size is None else extended.size
        self.is_folder = header.isdir()
        if self.is_folder:
            self.name = self.name.rstrip("/")
        self.is_file = header.isreg() and not extended.sparse and header.type != tarfile.GNUTYPE_SPARSE
        if header.isreg():
            self.kind = "a file" if self.is_file else "a sparse file"
        else:
            self.kind = _KINDS.get(header.type, "a device or another special file")
        self._left = size if header.isreg() else 0
        self._padding = -self._left % _BLOCK

    def read(self) -> bytes:
        """Return the entry's bytes.

        Raises:
            UnpackError: the archive ends before they do.
        """
        data = self._stream.read(self._left)
        if len(data) != self._left:
            raise UnpackError(f"it ends within the entry {self.name!r}")
        self._left = 0
        return data

    def skip(self) -> None:
        """Pass over what was not read.

        Raises:
            UnpackError: the archive ends before the entry does.
        """
        left = self._left + self._padding
        left -= sum(map(len, self._stream.take(left)))
        if left:
            raise UnpackError(f"it ends within the entry {self.name!r}")


def tar_entries(pieces: Iterator[bytes]) -> Iterator[TarEntry]:
    """Yield every entry of the tar archive whose bytes are `pieces`.

    Raises:
        UnpackError: the archive is damaged, or a header is longer than 1 MiB.
    """
    stream = _Stream(pieces)
    extended = _Extended()
    pending, header_bytes = False, 0
    while True:
        block = stream.read(_BLOCK)
        if not block.strip(b"\0") and not pending:
            return  # two blocks of zeros mark the end; archives that lack them are read too
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise UnpackError(f"expected the header of an entry: {error}") from error
        if header.size < 0:
            raise UnpackError(f"the entry {header.name!r} has a negative size")
        if header.type in (*_PAX_OF_ONE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            header_bytes += header.size + _BLOCK
            if header_bytes > _MAX_HEADER_BYTES:
                raise UnpackError(f"a header has {header_bytes} bytes or more; at most {_MAX_HEADER_BYTES} are read")
            text = stream.read(header.size + -header.size % _BLOCK)[: header.size]
            if len(text) != header.size:
                raise UnpackError("it ends within a header")
            if header.type in _PAX_OF_ONE:
                _read_pax(text, extended)
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                extended.name, extended.name_is_utf8 = _text(text.partition(b"\0")[0]), False
            pending = header.type != tarfile.XGLTYPE  # which is for no entry in particular, and says nothing we need
            continue
        entry = TarEntry(stream, header, extended)
        yield entry
        entry.skip()
        extended = _Extended()
        pending, header_bytes = False, 0


def _read_pax(text: bytes, extended: _Extended) -> None:
    """Read the records `LENGTH KEY=VALUE` of an extended header: `path`, `size`, and whether the file is sparse."""
    at = 0
    while at < len(text) and text[at]:
        digits, space, _ = text[at : at + _MAX_DIGITS].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = text[at + len(digits) + 1 : at + length]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or not record.endswith(b"\n") or at + length > len(text):
            raise UnpackError("a pax header is malformed")
        if key == b"path":
            extended.name, extended.name_is_utf8 = _text(value), True
        elif key == b"hdrcharset":
            extended.binary = value == b"BINARY"
        elif key == b"size":
            if not value.isdigit() or len(value) > _MAX_DIGITS:
                raise UnpackError("a pax header's size is not a number")
            extended.size = int(value)
        elif key.startswith(b"GNU.sparse."):
            extended.sparse = True
        at += length


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
