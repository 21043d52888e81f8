"""Decompresses piece by piece: no piece, nor the memory for it, grows with what the data says of itself."""

from __future__ import annotations

import bz2
import itertools
import lzma
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol

import inflate64

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACKED_BYTES: Final = 64 * 1024
"""Compressed bytes that are read at once."""
PIECE_BYTES: Final = 256 * 1024
"""Most bytes that come out at once, but for deflate64, which gives up to 8 MiB."""
MAX_WINDOW_BYTES: Final = 64 * 1024 * 1024
"""Largest dictionary of lzma and xz and largest window of zstd: what `xz -9` and 7-Zip's highest setting need."""

_MAX_WINDOW_LOG: Final = MAX_WINDOW_BYTES.bit_length() - 1
_XZ_MEMORY_BYTES: Final = MAX_WINDOW_BYTES + 1024 * 1024  # the decoder's own tables come on top of the dictionary
_INFLATE64_BYTES: Final = 256  # the library cannot be told to stop; one byte becomes at most 32 KiB


class UnpackError(ValueError):
    """The compressed data is damaged or needs more memory than is allowed."""


ERRORS: Final = (UnpackError, zlib.error, lzma.LZMAError, zstd.ZstdError, EOFError, OSError, ValueError)
"""What decompressing hostile bytes raises."""


class Decompressor(Protocol):
    """The interface of the standard library's decompressors. All their attributes are read-only."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


Make = Callable[[], Decompressor]


def unpack(packed: Iterable[bytes], decompressor: Decompressor) -> Iterator[bytes]:
    """Yield what comes out of one compressed stream, until it ends or `packed` does.

    Whether the stream was complete is for the caller to check: by `decompressor.eof`, or by size and checksum.

    Raises:
        ERRORS: the data is damaged.
    """
    pieces = iter(packed)
    while not decompressor.eof:
        data = b""
        if decompressor.needs_input:
            data = next(pieces, b"")
            if not data:
                return
        piece = decompressor.decompress(data, PIECE_BYTES)
        if piece:
            yield piece


def unpack_streams(packed: Iterable[bytes], make: Make) -> Iterator[bytes]:
    """Yield what comes out of a file of one or more compressed streams, as gzip, bzip2, xz and zstd write them.

    Raises:
        ERRORS: the data is damaged, or the last stream is incomplete.
    """
    pieces = iter(packed)
    rest = next(pieces, b"")
    while rest:
        decompressor = make()
        yield from unpack(itertools.chain([rest], pieces), decompressor)
        if not decompressor.eof:
            raise UnpackError("the compressed data ends early")
        rest = decompressor.unused_data.lstrip(b"\0")  # files may be padded with zeros
        while not rest and (piece := next(pieces, b"")):
            rest = piece.lstrip(b"\0")


class _Inflate:
    """zlib's decompressor with the interface of the others."""

    def __init__(self, window_bits: int) -> None:
        self._zlib = zlib.decompressobj(window_bits)
        self._full = False  # the last piece was as long as allowed, so there may be more without more input

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self._full = len(piece) == max_length
        return piece


class _Inflate64:
    """inflate64's decompressor with the interface of the others."""

    unused_data = b""

    def __init__(self) -> None:
        self._inflater = inflate64.Inflater()
        self._data = b""
        self._at = 0

    @property
    def eof(self) -> bool:
        return bool(self._inflater.eof)

    @property
    def needs_input(self) -> bool:
        return self._at >= len(self._data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._data, self._at = data, 0
        some = self._data[self._at : self._at + _INFLATE64_BYTES]
        self._at += len(some)
        return bytes(self._inflater.inflate(some))


class _ZipLzma:
    """LZMA as zip holds it: two bytes of version, the length of the properties, the properties, then the data."""

    unused_data = b""

    def __init__(self) -> None:
        self._head = b""
        self._lzma: lzma.LZMADecompressor | None = None

    @property
    def eof(self) -> bool:
        return self._lzma is not None and self._lzma.eof

    @property
    def needs_input(self) -> bool:
        return self._lzma is None or self._lzma.needs_input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if self._lzma is None:
            self._head += data
            if len(self._head) < 9:
                return b""
            self._lzma = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_lzma_filter(self._head[:9])])
            data, self._head = self._head[9:], b""
        return self._lzma.decompress(data, max_length)


def _lzma_filter(head: bytes) -> Mapping[str, int]:
    if int.from_bytes(head[2:4], "little") != 5:
        raise UnpackError("the properties of its lzma data have another length than 5 bytes")
    dictionary = int.from_bytes(head[5:9], "little")
    if dictionary > MAX_WINDOW_BYTES:
        raise UnpackError(f"its lzma dictionary has {dictionary} bytes; at most {MAX_WINDOW_BYTES} are allowed")
    rest, lc = divmod(head[4], 9)
    pb, lp = divmod(rest, 5)
    return {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary}


def gunzip() -> Decompressor:
    """Return a decompressor of one gzip member."""
    return _Inflate(31)


def unxz() -> Decompressor:
    """Return a decompressor of one xz stream."""
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)


def unzstd() -> Decompressor:
    """Return a decompressor of one zstd frame."""
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})


ZIP_METHODS: Final[Mapping[int, Make]] = {
    zipfile.ZIP_DEFLATED: lambda: _Inflate(-15),
    9: _Inflate64,
    zipfile.ZIP_BZIP2: bz2.BZ2Decompressor,
    zipfile.ZIP_LZMA: _ZipLzma,
    20: unzstd,  # its number in older archives
    93: unzstd,
    95: unxz,
}
"""Decompressors of the methods of zip entries, beside stored ones, which need none."""

_OTHER_METHODS: Final[Mapping[int, str]] = {
    1: "shrink",
    2: "reduce",
    3: "reduce",
    4: "reduce",
    5: "reduce",
    6: "implode",
    10: "PKWARE implode",
    16: "IBM z/OS CMPSC",
    18: "IBM TERSE",
    19: "IBM LZ77",
    94: "MP3",
    96: "JPEG variant",
    97: "WavPack",
    98: "PPMd",
    99: "AES encryption",
}


def unread_method(number: int) -> str:
    """Return the name of a zip method that is not read, such as 'PPMd (method 98)'."""
    return f"{_OTHER_METHODS.get(number, 'an unknown method')} (method {number})"
