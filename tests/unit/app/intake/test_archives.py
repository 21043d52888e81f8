from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from backports import zstd

from app.errors import ArchiveError, ArchiveTooLargeError, UnknownArchiveError
from app.intake.limits import RATIO_FREE_BYTES, IntakeLimits
from app.intake.source import Item
from app.intake.take_in import open_source
from tests.unit.app.intake.forged import (
    BZIP2,
    DEFLATE,
    DEFLATE64,
    LZMA,
    STORED,
    XZ,
    ZSTD,
    Forged,
    blocks,
    forge_zip,
    tar_header,
)

Make = Callable[[Mapping[str, bytes]], bytes]
MEMBERS = {"cat/1.png": b"one", "cat/2.png": b"two", "dog/1.png": b"three"}


def read(data: bytes, limits: IntakeLimits) -> list[Item]:
    return list(open_source(io.BytesIO(data), len(data), limits).items())


@pytest.fixture(params=["zip", "tar", "tar.gz"])
def make(request: pytest.FixtureRequest, make_zip: Make, make_tar: Make) -> Make:
    """Every kind of archive behind one function."""
    kinds: dict[str, Make] = {"zip": make_zip, "tar": make_tar, "tar.gz": lambda m: gzip.compress(make_tar(m))}
    return kinds[request.param]


def test_members_come_with_their_class_whatever_the_kind(make: Make, limits: IntakeLimits) -> None:
    items = read(make(MEMBERS), limits)
    assert {(i.where, i.label, i.data) for i in items} == {(p, p.split("/")[0], d) for p, d in MEMBERS.items()}


def test_empty_folders_are_passed_over_and_told(make: Make, limits: IntakeLimits) -> None:
    data = make({**MEMBERS, "fox/": b""})
    source = open_source(io.BytesIO(data), len(data), limits)
    assert source.labels == ("cat", "dog")
    assert [(row.path, row.reason) for row in source.passed_over] == [("fox", "an empty folder")]


def test_a_val_split_comes_held_out_whatever_the_kind(make: Make, limits: IntakeLimits) -> None:
    items = read(make({"train/cat/1.png": b"one", "val/cat/2.png": b"two", "test/cat/3.png": b"three"}), limits)
    assert sorted((i.where, i.label, i.held_out) for i in items) == [
        ("train/cat/1.png", "cat", False),
        ("val/cat/2.png", "cat", True),
    ]


def test_a_member_over_the_image_limit_is_rejected_alone(make: Make, limits: IntakeLimits) -> None:
    items = read(make({**MEMBERS, "cat/3.png": b"x" * 11}), replace(limits, max_image_bytes=10))
    assert [i.where for i in items if i.reason] == ["cat/3.png"]
    assert "11 bytes; at most 10" in str(next(i.reason for i in items if i.reason))
    assert sum(i.data is not None for i in items) == 3


@pytest.mark.parametrize("path", ["../../etc/cron.d/x", "/etc/passwd", "cat/../../x.png"])
def test_a_path_out_of_the_archive_refuses_all_of_it(make: Make, limits: IntakeLimits, path: str) -> None:
    with pytest.raises(ArchiveError, match=r"absolute|climbs out"):
        read(make({**MEMBERS, path: b"x"}), limits)


def test_too_many_members_are_refused(make: Make, limits: IntakeLimits) -> None:
    with pytest.raises(ArchiveTooLargeError, match="more than 2 entries"):
        read(make(MEMBERS), replace(limits, max_members=2))


def test_more_unpacked_bytes_than_allowed_are_refused(make: Make, limits: IntakeLimits) -> None:
    with pytest.raises(ArchiveTooLargeError, match="unpacks to"):
        read(
            make({"cat/1.png": bytes(60_000), "cat/2.png": bytes(60_000)}), replace(limits, max_unpacked_bytes=100_000)
        )


def test_a_bomb_is_refused_by_its_ratio_before_it_is_unpacked(limits: IntakeLimits, make_zip: Make) -> None:
    data = make_zip({"cat/1.png": bytes(RATIO_FREE_BYTES + 1)})
    assert len(data) * 200 < RATIO_FREE_BYTES
    with pytest.raises(ArchiveTooLargeError, match="unpacks to"):
        read(data, replace(limits, max_unpacked_bytes=10**12, max_image_bytes=10**12))


def test_a_gzip_bomb_without_any_member_is_stopped_on_the_way(limits: IntakeLimits) -> None:
    header = tarfile.TarInfo("cat/1.png")
    header.size = 10**12
    data = gzip.compress(header.tobuf() + bytes(2_000_000))
    with pytest.raises(ArchiveTooLargeError):
        read(data, replace(limits, max_unpacked_bytes=1_000_000))


def test_a_tar_header_cannot_ask_for_gigabytes_at_once(limits: IntakeLimits) -> None:
    header = tarfile.TarInfo("pax")
    header.type = tarfile.XHDTYPE
    header.size = 5 * 10**9
    with pytest.raises(ArchiveError, match="at most 1048576 are read"):
        read(gzip.compress(header.tobuf() + bytes(100_000)), limits)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "special file"),
        (tarfile.FIFOTYPE, "special file"),
    ],
)
def test_links_and_devices_in_a_tar_refuse_all_of_it(limits: IntakeLimits, kind: bytes, said: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("cat/1.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(ArchiveError, match=said):
        read(buffer.getvalue(), limits)


def test_a_symbolic_link_in_a_zip_refuses_all_of_it(limits: IntakeLimits) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("cat/1.png")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveError, match="symbolic link"):
        read(buffer.getvalue(), limits)


def test_an_encrypted_zip_is_refused(limits: IntakeLimits, make_zip: Make) -> None:
    data = bytearray(make_zip({"cat/1.png": b"x"}))
    directory = data.index(b"PK\x01\x02")
    data[directory + 8] |= 1
    with pytest.raises(ArchiveError, match="encrypted"):
        read(bytes(data), limits)


def test_a_damaged_zip_member_is_rejected_alone(limits: IntakeLimits, make_zip: Make) -> None:
    noise = random.Random(0).randbytes(500)
    data = bytearray(make_zip({"cat/1.png": noise, "cat/2.png": b"fine"}))
    data[100] ^= 0xFF
    items = read(bytes(data), limits)
    assert items[0].reason is not None
    assert "damaged" in items[0].reason
    assert items[1].data == b"fine"


@pytest.mark.parametrize("method", [DEFLATE, DEFLATE64, BZIP2, LZMA, ZSTD, XZ])
def test_every_method_that_a_library_reads_is_read(limits: IntakeLimits, method: int) -> None:
    data = forge_zip([Forged("cat/1.png", b"one" * 5000, method), Forged("cat/2.png", b"two", method)])
    assert [item.data for item in read(data, limits)] == [b"one" * 5000, b"two"]


def test_an_entry_of_another_method_is_rejected_alone_and_its_method_named(limits: IntakeLimits) -> None:
    items = read(forge_zip([Forged("cat/1.png", b"x", method=98), Forged("cat/2.png", b"two")]), limits)
    assert items[0].reason == "compressed by PPMd (method 98), which is not read"
    assert items[1].data == b"two"


def test_an_archive_of_only_other_methods_is_refused_and_they_are_named(limits: IntakeLimits) -> None:
    entries = [Forged("cat/1.png", b"x", method=98), Forged("cat/2.png", b"x", method=6), Forged("notes.txt", b"text")]
    with pytest.raises(ArchiveError, match=r"implode \(method 6\), PPMd \(method 98\), which is not read"):
        read(forge_zip(entries), limits)


@pytest.mark.parametrize("method", [STORED, DEFLATE, DEFLATE64, BZIP2, LZMA, ZSTD, XZ])
@pytest.mark.parametrize("said", [0, 9, 1_000_000])
def test_an_entry_that_lies_about_its_size_is_rejected(limits: IntakeLimits, method: int, said: int) -> None:
    items = read(forge_zip([Forged("cat/1.png", bytes(5000), method, size=said)]), limits)
    assert (
        items[0].reason == f"damaged inside the archive: 5000 bytes came out, but the archive's directory says {said}"
    )


@pytest.mark.parametrize("method", [STORED, DEFLATE, DEFLATE64, BZIP2, LZMA, ZSTD, XZ])
def test_an_entry_is_stopped_at_the_image_limit_whatever_it_says(limits: IntakeLimits, method: int) -> None:
    items = read(forge_zip([Forged("cat/1.png", bytes(1_500_000), method, size=10)]), limits)
    assert items[0].reason == "more than 1000000 bytes; at most 1000000 per image are allowed"


def test_entries_that_lie_are_stopped_at_the_archive_s_budget_by_what_came_out(limits: IntakeLimits) -> None:
    entries = [Forged(f"cat/{i}.png", bytes(900_000), DEFLATE, size=10) for i in range(20)]
    with pytest.raises(ArchiveTooLargeError, match="unpacks to more than 10000000 bytes"):
        read(forge_zip(entries), limits)


def test_a_wrong_checksum_is_damage(limits: IntakeLimits) -> None:
    items = read(forge_zip([Forged("cat/1.png", b"x", crc=7), Forged("cat/2.png", b"two")]), limits)
    assert "checksum" in str(items[0].reason)
    assert items[1].data == b"two"


def test_entries_that_share_bytes_refuse_the_archive(limits: IntakeLimits) -> None:
    entries = [Forged("cat/1.png", bytes(5000), DEFLATE), *(Forged(f"cat/{i}.png", b"", at=0) for i in range(2, 9))]
    with pytest.raises(ArchiveError, match="overlaps"):
        read(forge_zip(entries), limits)


def test_an_entry_that_reaches_into_the_directory_refuses_the_archive(limits: IntakeLimits) -> None:
    data = bytearray(forge_zip([Forged("cat/1.png", b"x")]))
    struct.pack_into("<L", data, data.index(b"PK\1\2") + 20, 200)
    with pytest.raises(ArchiveError, match="overlaps"):
        read(bytes(data), limits)


def test_an_entry_whose_own_header_has_another_name_is_rejected(limits: IntakeLimits) -> None:
    items = read(forge_zip([Forged("cat/1.png", b"x", local_name="dog/1.png"), Forged("cat/2.png", b"two")]), limits)
    assert "its own header differs" in str(items[0].reason)
    assert items[1].data == b"two"


def test_entries_written_to_a_stream_are_read(limits: IntakeLimits) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.written += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # sizes come after the data
        archive.writestr("cat/1.png", b"one" * 500)
    assert [item.data for item in read(pipe.written, limits)] == [b"one" * 500]


@pytest.mark.parametrize("before", [b"", b"#!/bin/sh\n" * 100, b"\x7fELF" + bytes(500)])
@pytest.mark.parametrize("zip64", [False, True])
def test_an_archive_with_something_before_it_is_read(limits: IntakeLimits, before: bytes, zip64: bool) -> None:
    data = forge_zip([Forged("cat/1.png", b"one")], before=before, zip64=zip64)
    assert [item.data for item in read(data, limits)] == [b"one"]


def test_parts_of_a_split_archive_are_refused(limits: IntakeLimits) -> None:
    with pytest.raises(ArchiveError, match="split zip"):
        read(forge_zip([Forged("cat/1.png", b"one", volume=1)]), limits)
    with pytest.raises(ArchiveError, match="split zip"):
        read(b"PK\7\x08" + forge_zip([Forged("cat/1.png", b"one")])[:60], limits)


def test_more_entries_than_the_end_record_can_count_are_read(limits: IntakeLimits) -> None:
    many = forge_zip([Forged(f"cat/{i}.png", b"") for i in range(70_000)])
    assert len(read(many, replace(limits, max_members=70_000))) == 70_000
    with pytest.raises(ArchiveTooLargeError, match="more than 69999 entries"):
        read(many, replace(limits, max_members=69_999))


def test_entries_of_one_name_are_all_read(limits: IntakeLimits) -> None:
    items = read(forge_zip([Forged("cat/1.png", b"one"), Forged("cat/1.png", b"two")]), limits)
    assert [item.data for item in items] == [b"one", b"two"]


def test_a_comment_that_holds_an_end_record_never_shows_what_is_not_there(limits: IntakeLimits) -> None:
    other = forge_zip([Forged("dog/1.png", b"other")])
    data = forge_zip([Forged("cat/1.png", b"one")], comment=other[other.index(b"PK\1\2") :])
    try:
        items = read(data, limits)
    except ArchiveError:
        return
    assert all(item.data in (b"one", None) for item in items)


def test_a_huge_zip_directory_is_refused_before_it_is_read(limits: IntakeLimits) -> None:
    data = forge_zip([Forged("cat/1.png", bytes(2_000_000))], directory_bytes=2_000_000)
    with pytest.raises(ArchiveTooLargeError, match="directory has 2000000"):
        read(data, limits)


@pytest.mark.parametrize("size", [1, 45, 47, 1000, 0xFFFFFFFE])
def test_a_directory_of_another_size_than_it_says_is_damage(limits: IntakeLimits, size: int) -> None:
    with pytest.raises(ArchiveError):
        read(forge_zip([Forged("cat/1.png", b"one")], directory_bytes=size), limits)


def test_more_directory_records_than_entries_allowed_are_refused_before_they_are_read(limits: IntakeLimits) -> None:
    with pytest.raises(ArchiveTooLargeError, match="more than 1000 entries"):
        read(forge_zip([Forged("", b"") for _ in range(1001)]), limits)


def test_paths_of_endless_depth_are_refused(make: Make, limits: IntakeLimits) -> None:
    with pytest.raises(ArchiveError, match="in 17 folders; at most 16"):
        read(make({**MEMBERS, "a/" * 17 + "x.png": b"x"}), limits)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd.compress])
def test_a_tar_is_read_however_it_is_compressed(
    limits: IntakeLimits, make_tar: Make, compress: Callable[[bytes], bytes]
) -> None:
    packed = compress(make_tar(MEMBERS))
    assert [item.data for item in read(packed, limits)] == [b"one", b"two", b"three"]
    with pytest.raises(ArchiveError, match="damaged"):
        read(packed[: len(packed) // 2], limits)
    bomb = compress(tar_header("cat/1.png", size=900_000) + bytes(20_000_000))
    assert len(bomb) < 50_000
    with pytest.raises(ArchiveTooLargeError, match="unpacks to"):
        read(compress(b"".join(tar_header(f"{i}", size=900_000) + bytes(900_096) for i in range(20))), limits)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(tar_header("x", kind=b"x", size=3_000_000) + bytes(3_000_000), id="one long pax header"),
        pytest.param(tar_header("x", kind=b"L", size=3_000_000) + bytes(3_000_000), id="one long name"),
        pytest.param((tar_header("x", kind=b"g", size=500) + blocks(b"9 a=bcde\n" * 50)) * 3000, id="many pax headers"),
        pytest.param((tar_header("x", kind=b"K", size=500) + bytes(512)) * 3000, id="many long links"),
    ],
)
def test_a_tar_header_without_end_is_refused(limits: IntakeLimits, header: bytes) -> None:
    with pytest.raises(ArchiveError, match="at most 1048576 are read"):
        read(gzip.compress(header), limits)


@pytest.mark.parametrize(
    "record", [b"1" * 5000, b"2 " * 5000, b"0 a=b\n", b"9 a\n", b"900 a=b\n", b"6 a=b", b"-6 a=b\n"]
)
def test_a_malformed_pax_header_is_damage(limits: IntakeLimits, make_tar: Make, record: bytes) -> None:
    header = tar_header("x", kind=b"x", size=len(record)) + blocks(record)
    with pytest.raises(ArchiveError, match="pax header is malformed"):
        read(header + make_tar(MEMBERS), limits)


def test_long_names_are_read_from_gnu_and_pax_headers(limits: IntakeLimits) -> None:
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
            info = tarfile.TarInfo("cat/" + "n" * 150 + "é.png")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"one"))
            info = tarfile.TarInfo("dog/short.png")
            info.size, info.mtime = 3, 1.5  # a pax header for the time
            archive.addfile(info, io.BytesIO(b"two"))
        assert {(i.label, i.where, i.data) for i in read(buffer.getvalue(), limits)} == {
            ("cat", "cat/" + "n" * 150 + "é.png", b"one"),
            ("dog", "dog/short.png", b"two"),
        }


@pytest.mark.parametrize("kind", ["old", "pax"])
def test_a_sparse_file_refuses_the_tar(limits: IntakeLimits, kind: str) -> None:
    sparse = b"22 GNU.sparse.major=1\n"
    headers = {
        "old": tar_header("cat/1.png", kind=tarfile.GNUTYPE_SPARSE),
        "pax": tar_header("x", kind=b"x", size=len(sparse)) + blocks(sparse) + tar_header("cat/1.png"),
    }
    with pytest.raises(ArchiveError, match="sparse"):
        read(headers[kind], limits)


def test_a_size_in_a_pax_header_counts(limits: IntakeLimits, make_tar: Make) -> None:
    record = b"10 size=3\n"
    data = tar_header("x", kind=b"x", size=len(record)) + blocks(record) + tar_header("cat/1.png") + blocks(b"one")
    assert [item.data for item in read(data + make_tar({"cat/2.png": b"two"}), limits)] == [b"one", b"two"]
    huge = b"30 size=%021d\n" % 10**18
    with pytest.raises(ArchiveError, match=r"not a number|malformed"):
        read(tar_header("x", kind=b"x", size=len(huge)) + blocks(huge) + tar_header("cat/1.png"), limits)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.8])
def test_a_truncated_archive_is_refused(make: Make, limits: IntakeLimits, keep: float) -> None:
    noise = random.Random(0)
    data = make({f"cat/{i}.png": noise.randbytes(3000) for i in range(20)})
    with pytest.raises(ArchiveError, match="damaged"):
        read(data[: int(len(data) * keep)], limits)


def test_a_tar_with_garbage_in_the_middle_is_not_taken_for_its_first_half(limits: IntakeLimits, make_tar: Make) -> None:
    data = bytearray(make_tar(MEMBERS))
    data[1024:1536] = b"\x55" * 512
    with pytest.raises(ArchiveError, match="damaged"):
        read(bytes(data), limits)


def test_any_prefix_or_flip_of_an_archive_is_answered_and_never_crashes(make: Make, limits: IntakeLimits) -> None:
    data = make(MEMBERS)
    noise = random.Random(1)
    for _ in range(150):
        changed = bytearray(data)
        changed[noise.randrange(len(data))] ^= 1 << noise.randrange(8)
        try:
            read(bytes(changed), limits)
        except (ArchiveError, UnknownArchiveError):
            continue


@pytest.mark.parametrize("data", [b"", b"hello", b"\0" * 2048, b"\x89PNG\r\n\x1a\n" + bytes(600)])
def test_other_kinds_are_refused_by_content(limits: IntakeLimits, data: bytes) -> None:
    with pytest.raises(UnknownArchiveError, match=r"expected zip, tar, tar\.gz or parquet"):
        read(data, limits)


@pytest.mark.parametrize(("head", "name"), [(b"7z\xbc\xaf'\x1c", "7z"), (b"Rar!\x1a\x07\x01\x00", "rar")])
def test_other_archives_are_named(limits: IntakeLimits, head: bytes, name: str) -> None:
    with pytest.raises(UnknownArchiveError, match=f"is a {name} archive; expected zip"):
        read(head + bytes(1000), limits)
