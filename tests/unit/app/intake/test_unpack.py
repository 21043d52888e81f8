from __future__ import annotations

import bz2
import gzip
import lzma
import random
import tracemalloc
from collections.abc import Iterator

import pytest
from backports import zstd

from app.intake import unpack
from tests.unit.app.intake.forged import BZIP2, DEFLATE, DEFLATE64, LZMA, XZ, ZSTD, pack, zip_lzma

METHODS = [DEFLATE, DEFLATE64, BZIP2, LZMA, ZSTD, XZ]
PHOTO = random.Random(0).randbytes(300_000)
DRAWING = bytes(1_000_000)


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [7, 4096, unpack.PACKED_BYTES])
@pytest.mark.parametrize("data", [b"", PHOTO, DRAWING], ids=["empty", "photo", "drawing"])
def test_every_method_gives_the_data_back_whatever_comes_in_at_once(method: int, size: int, data: bytes) -> None:
    packed = pack(data, method)[:600_000]
    assert b"".join(unpack.unpack(chunks(packed, size), unpack.ZIP_METHODS[method]())) == data


@pytest.mark.parametrize("method", METHODS)
def test_pieces_stay_small_however_much_comes_out(method: int) -> None:
    most = 8 * 1024 * 1024 if method == DEFLATE64 else unpack.PIECE_BYTES
    packed = pack(bytes(30_000_000), method)
    assert len(packed) < 40_000
    pieces = [len(piece) for piece in unpack.unpack([packed], unpack.ZIP_METHODS[method]())]
    assert sum(pieces) == 30_000_000
    assert max(pieces) <= most


@pytest.mark.parametrize("method", METHODS)
def test_data_that_ends_early_leaves_the_stream_incomplete(method: int) -> None:
    decompressor = unpack.ZIP_METHODS[method]()
    packed = pack(PHOTO, method)
    assert b"".join(unpack.unpack(chunks(packed[: len(packed) // 2], 999), decompressor)) != PHOTO
    assert not decompressor.eof


@pytest.mark.parametrize("method", METHODS)
def test_garbage_is_damage_or_comes_to_nothing(method: int) -> None:
    noise = random.Random(method)
    for _ in range(50):
        try:
            out = sum(map(len, unpack.unpack([noise.randbytes(200)], unpack.ZIP_METHODS[method]())))
        except unpack.ERRORS:
            continue
        assert out < 10_000_000


@pytest.mark.parametrize(
    ("make", "compress"),
    [
        (unpack.gunzip, gzip.compress),
        (bz2.BZ2Decompressor, bz2.compress),
        (unpack.unxz, lzma.compress),
        (unpack.unzstd, zstd.compress),
    ],
    ids=["gzip", "bzip2", "xz", "zstd"],
)
@pytest.mark.parametrize("size", [100, 4096])
def test_files_of_several_streams_are_read_to_their_end(make: unpack.Make, compress: object, size: int) -> None:
    assert callable(compress)
    packed = compress(PHOTO) + compress(b"") + compress(b"more") + bytes(1000)
    assert b"".join(unpack.unpack_streams(chunks(packed, size), make)) == PHOTO + b"more"
    with pytest.raises(unpack.UnpackError, match="ends early"):
        list(unpack.unpack_streams(chunks(compress(PHOTO)[:-1], size), make))
    with pytest.raises(unpack.ERRORS):
        list(unpack.unpack_streams(chunks(compress(PHOTO) + b"garbage" * 9, size), make))


def test_an_lzma_dictionary_is_bounded_before_it_is_allocated() -> None:
    assert b"".join(unpack.unpack([zip_lzma(b"x", said=64 << 20)], unpack.ZIP_METHODS[LZMA]())) == b"x"
    with pytest.raises(unpack.UnpackError, match="dictionary has 4294967295 bytes; at most 67108864"):
        list(unpack.unpack([zip_lzma(b"x", said=0xFFFFFFFF)], unpack.ZIP_METHODS[LZMA]()))


def test_an_xz_dictionary_is_bounded_too() -> None:
    packed = lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 65 << 20}])
    with pytest.raises(lzma.LZMAError, match="limit"):
        list(unpack.unpack([packed], unpack.unxz()))
    assert list(unpack.unpack([lzma.compress(b"x", preset=9)], unpack.unxz())) == [b"x"]


def test_a_zstd_window_is_bounded_too() -> None:
    window: dict[int, int] = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=window)
    packed = compressor.compress(b"x", compressor.FLUSH_BLOCK) + compressor.flush()
    with pytest.raises(zstd.ZstdError, match="memory"):
        list(unpack.unpack([packed], unpack.unzstd()))


def test_feeding_many_tiny_streams_takes_no_memory() -> None:
    packed = gzip.compress(b"") * 5_000
    tracemalloc.start()
    try:
        assert b"".join(unpack.unpack_streams(chunks(packed, unpack.PACKED_BYTES), unpack.gunzip)) == b""
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_methods_that_are_not_read_have_names() -> None:
    assert unpack.unread_method(98) == "PPMd (method 98)"
    assert unpack.unread_method(77) == "an unknown method (method 77)"
