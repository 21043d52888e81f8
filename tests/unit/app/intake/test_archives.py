from __future__ import annotations

import gzip
import io
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from app.errors import ArchiveError, ArchiveTooLargeError, UnknownArchiveError
from app.intake.limits import RATIO_FREE_BYTES, IntakeLimits
from app.intake.source import Item
from app.intake.take_in import open_source

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
    with pytest.raises(ArchiveError, match=r"at once|unpacks"):
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


def test_a_zip_method_that_may_ask_for_gigabytes_is_not_read(limits: IntakeLimits) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("cat/1.png", b"x")
    assert "method" in str(read(buffer.getvalue(), limits)[0].reason)


def test_a_huge_zip_directory_is_refused_before_it_is_read(limits: IntakeLimits, make_zip: Make) -> None:
    data = bytearray(make_zip({"cat/1.png": b"x"}))
    struct.pack_into("<L", data, data.index(b"PK\x05\x06") + 12, 2_000_000)
    with pytest.raises(ArchiveTooLargeError, match="directory has 2000000"):
        read(bytes(data), limits)


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


@pytest.mark.parametrize("data", [b"", b"hello", b"\0" * 2048, b"\x89PNG\r\n\x1a\n" + bytes(600), b"7z\xbc\xaf'\x1c"])
def test_other_kinds_are_refused_by_content(limits: IntakeLimits, data: bytes) -> None:
    with pytest.raises(UnknownArchiveError, match=r"expected zip, tar, tar\.gz or parquet"):
        read(data, limits)
