"""Archives that no archiver writes: what they say of themselves is chosen byte by byte."""

from __future__ import annotations

import bz2
import lzma
import struct
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import inflate64
from backports import zstd

STORED, DEFLATE, DEFLATE64, BZIP2, LZMA, ZSTD, XZ = 0, 8, 9, 12, 14, 93, 95


@dataclass(frozen=True)
class Forged:
    """An entry of a zip archive. What is None is said truthfully."""

    name: str
    data: bytes
    method: int = STORED
    size: int | None = None
    packed: bytes | None = None
    crc: int | None = None
    local_name: str | None = None
    at: int | None = None
    flags: int = 0
    volume: int = 0


def pack(data: bytes, method: int) -> bytes:
    """Compress data as a zip entry holds it."""
    if method == DEFLATE:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflate.compress(data) + deflate.flush()
    if method == DEFLATE64:
        deflate64 = inflate64.Deflater()
        return bytes(deflate64.deflate(data) + deflate64.flush())
    if method == BZIP2:
        return bz2.compress(data)
    if method == LZMA:
        return zip_lzma(data)
    if method == ZSTD:
        return zstd.compress(data)
    return lzma.compress(data, preset=0) if method == XZ else data


def zip_lzma(data: bytes, *, dictionary: int = 1 << 20, said: int | None = None) -> bytes:
    """Compress data by LZMA, with a dictionary of another size than is `said`."""
    raw = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": dictionary}])
    packed = raw.compress(data) + raw.flush()
    return b"\x09\x04\x05\x00\x5d" + struct.pack("<L", dictionary if said is None else said) + packed


def forge_zip(
    entries: Sequence[Forged],
    *,
    comment: bytes = b"",
    directory_bytes: int | None = None,
    before: bytes = b"",
    disk: int = 0,
    zip64: bool = False,
) -> bytes:
    """Build a zip archive of these entries."""
    body, directory = bytearray(before), bytearray()
    for entry in entries:
        packed = pack(entry.data, entry.method) if entry.packed is None else entry.packed
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        name = entry.name.encode()
        local = name if entry.local_name is None else entry.local_name.encode()
        at = len(body) - len(before) if entry.at is None else entry.at
        sizes = (crc, len(packed), size)
        if entry.at is None:
            body += struct.pack("<4s5H3L2H", b"PK\3\4", 63, entry.flags, entry.method, 0, 33, *sizes, len(local), 0)
            body += local + packed
        directory += struct.pack(
            "<4s6H3L5H2L",
            *(b"PK\1\2", 63, 63, entry.flags, entry.method, 0, 33, *sizes),
            *(len(name), 0, 0, entry.volume, 0, 0, at),
        )
        directory += name
    count, size, at = len(entries), len(directory), len(body) - len(before)
    if directory_bytes is not None:
        size = directory_bytes
    end = b""
    if zip64:
        end += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 63, 63, disk, disk, count, count, size, at)
        end += struct.pack("<4sLQL", b"PK\6\7", disk, at + len(directory), 1)
        count, size, at = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
    end += struct.pack("<4s4H2LH", b"PK\5\6", disk, disk, count & 0xFFFF, count & 0xFFFF, size, at, len(comment))
    return bytes(body + directory + end + comment)


def tar_header(name: str, *, kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    """Return the header of a tar entry."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def blocks(data: bytes) -> bytes:
    """Return data, filled up to whole blocks of a tar archive."""
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)
