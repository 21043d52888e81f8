"""Small uploads that ask for much: each is refused, in little memory, which is given back."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from tests.unit.app.intake.footprint import MIB, footprint
from tests.unit.app.intake.forged import (
    BZIP2,
    DEFLATE,
    DEFLATE64,
    LZMA,
    XZ,
    ZSTD,
    Forged,
    blocks,
    forge_zip,
    pack,
    tar_header,
    zip_lzma,
)

MOST = 224 * MIB
"""Below the 256 MiB that a refused upload may take, and above what any of these needs."""
BIG = 240 * MIB


def lying(method: int) -> bytes:
    """A zip archive of one entry that says it has 100 bytes."""
    return forge_zip([Forged("cat/1.png", b"", method, packed=pack(bytes(BIG), method), size=100, crc=0)])


def tar_of_nothing(compress: Callable[[bytes], bytes]) -> bytes:
    return compress(tar_header("cat/1.png", size=30 * MIB) + bytes(BIG))


def globals_without_end() -> bytes:
    """Records with ever new names in headers that are meant for all entries, between entries."""
    made = bytearray()
    for number in range(300):
        records = b"".join(b"15 k%07d=vv\n" % (number * 1000 + index) for index in range(1000))
        made += tar_header("g", kind=tarfile.XGLTYPE, size=len(records)) + blocks(records)
        made += tar_header(f"cat/{number}.png")
    return bytes(made)


def forged_page() -> bytes:
    """A table whose last page says that it unpacks to a gigabyte."""
    buffer = io.BytesIO()
    size = 8 * MIB
    table = pa.table({"label": ["cat"], "image": [bytes(size)]})
    pq.write_table(table, buffer, compression="zstd", use_dictionary=False)
    data = buffer.getvalue()
    begin = pq.ParquetFile(buffer).metadata.row_group(0).column(1).data_page_offset
    assert data[begin : begin + 3] == b"\x15\x00\x15"  # what kind of page it is; then the size
    end = next(at for at in range(begin + 3, begin + 8) if data[at] < 0x80) + 1
    return data[: begin + 3] + _thrift(1 << 30) + data[end:]


def _thrift(number: int) -> bytes:
    left, coded = number * 2, bytearray()
    while left > 0x7F:
        coded.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*coded, left])


def forged_footer() -> bytes:
    """A table whose schema lists two billion columns, as far as it says."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [b"x"], "label": ["cat"]}), buffer)
    data = bytearray(buffer.getvalue())
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    at = data.index(b"\x19", footer)  # the field after the version: a list, its length and the kind of its items
    data[at + 1 : at + 2] = b"\xfc" + b"\xff\xff\xff\xff\x07"
    data[-8:-4] = (int.from_bytes(data[-8:-4], "little") + 5).to_bytes(4, "little")
    return bytes(data)


def one_large_page() -> bytes:
    """Images that are unpacked to more than the process may hold, all at once."""
    buffer = io.BytesIO()
    noise = random.Random(0).randbytes(MIB)
    table = pa.table({"image": [noise] * 230, "label": ["cat"] * 230})
    pq.write_table(table, buffer, use_dictionary=False, data_page_size=1 << 30, compression="zstd")
    return buffer.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "zip, deflate": lambda: lying(DEFLATE),
    "zip, deflate64": lambda: lying(DEFLATE64),
    "zip, bzip2": lambda: lying(BZIP2),
    "zip, lzma": lambda: lying(LZMA),
    "zip, zstd": lambda: lying(ZSTD),
    "zip, xz": lambda: lying(XZ),
    "zip, lzma dictionary": lambda: forge_zip(
        [Forged("cat/1.png", b"x", LZMA, packed=zip_lzma(b"x", said=0xFFFFFFFF))]
    ),
    "zip, many deep paths": lambda: forge_zip(
        [Forged(f"{number:06d}/" + "ab/" * 14 + "x.png", b"") for number in range(90_000)]
    ),
    "zip, more entries than allowed": lambda: forge_zip([Forged("", b"")] * 300_000),
    "zip, a directory as long as the file": lambda: (
        b"PK\3\4" + bytes(BIG) + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, BIG, 4, 0)
    ),
    "tar.gz": lambda: tar_of_nothing(gzip.compress),
    "tar.bz2": lambda: tar_of_nothing(bz2.compress),
    "tar.xz": lambda: tar_of_nothing(lambda data: lzma.compress(data, preset=0)),
    "tar.zst": lambda: tar_of_nothing(zstd.compress),
    "tar.xz, dictionary": lambda: lzma.compress(
        bytes(20_000), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 300 * MIB}]
    ),
    "tar, a long header": lambda: tar_header("x", kind=b"x", size=50 * MIB) + blocks(b"7 a=bc\n" * (50 * MIB // 7)),
    "tar, headers for all entries": globals_without_end,
    "tar, keys of keys": lambda: tar_header("x", kind=b"x", size=900_000) + blocks(b"2 " * 450_000),
    "parquet, a page that says it is large": forged_page,
    "parquet, a footer that says it is long": forged_footer,
    "parquet, a large page": one_large_page,
    "tar, digits": lambda: tar_header("x", kind=b"x", size=900_000) + blocks(b"1" * 900_000),
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_bounded_memory_which_is_given_back(tmp_path: Path, bomb: str) -> None:
    upload = tmp_path / "bomb"
    upload.write_bytes(BOMBS[bomb]())
    cost = footprint(upload)
    assert cost.error in ("ArchiveError", "ArchiveTooLargeError", "TaskRefusedError"), cost
    assert cost.peak < MOST, cost
    assert cost.kept < 64 * MIB, cost
    assert cost.spooled == 0
