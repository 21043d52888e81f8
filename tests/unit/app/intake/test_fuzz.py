"""Mutated archives: each is taken or refused with one of our own errors, in bounded memory."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Iterator

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from app.errors import AppError
from app.intake.limits import IntakeLimits
from app.intake.source import Item
from app.intake.take_in import open_source
from tests.unit.app.intake.footprint import MIB, ROOT
from tests.unit.app.intake.forged import BZIP2, DEFLATE, DEFLATE64, LZMA, STORED, XZ, ZSTD, Forged, forge_zip
from tests.unit.app.intake.mutations import mutate

LIMITS = IntakeLimits(
    max_unpacked_bytes=4 * MIB,
    max_compression_ratio=200,
    max_members=100,
    max_image_bytes=MIB,
    max_image_pixels=MIB,
    max_classes=10,
)
MOST_HELD = 32 * MIB
"""Four times the budget of these archives, and deflate64's pieces."""
PHOTO = random.Random(0).randbytes(700)
MEMBERS = {"cat/1.png": PHOTO, "cat/2.png": bytes(3000), "dog/ü" + "n" * 120 + ".png": b"text" * 50, "notes.txt": b"x"}


def tar(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in MEMBERS.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


SEEDS = {
    **{
        f"zip {method}": forge_zip([Forged(name, data, method) for name, data in MEMBERS.items()])
        for method in (STORED, DEFLATE, DEFLATE64, BZIP2, LZMA, ZSTD, XZ)
    },
    "zip64": forge_zip([Forged("cat/1.png", PHOTO, DEFLATE), Forged("dog/1.png", b"x")], zip64=True, before=b"x" * 50),
    "tar gnu": tar(tarfile.GNU_FORMAT),
    "tar pax": tar(tarfile.PAX_FORMAT),
    "tar.gz": gzip.compress(tar(tarfile.PAX_FORMAT)),
    "tar.bz2": bz2.compress(tar(tarfile.GNU_FORMAT)),
    "tar.xz": lzma.compress(tar(tarfile.GNU_FORMAT)),
    "tar.zst": zstd.compress(tar(tarfile.GNU_FORMAT)),
}


def taken(data: bytes) -> list[Item] | None:
    """The items of an archive, None if it is refused."""
    try:
        with contextlib.closing(open_source(io.BytesIO(data), len(data), LIMITS)) as source:
            assert len(source.labels) <= LIMITS.max_members
            return list(source.items())
    except AppError as error:
        refusal = str(error)
    assert 0 < len(refusal) < 1500
    assert refusal.isprintable()
    return None


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_HELD
    finally:
        tracemalloc.stop()


def check(kind: str, seed: int) -> None:
    noise = random.Random(seed)
    data = mutate(SEEDS[kind], SEEDS[noise.choice(list(SEEDS))], noise)
    with bounded_memory():
        items = taken(data)
    for item in items or ():
        assert (item.data is None) != (item.reason is None)
        assert item.data is None or len(item.data) <= LIMITS.max_image_bytes


@pytest.mark.parametrize("kind", SEEDS)
def test_the_archives_that_are_mutated_are_sound(kind: str) -> None:
    items = taken(SEEDS[kind])
    assert items is not None
    assert sum(item.data is not None for item in items) >= 2


@pytest.mark.parametrize("kind", SEEDS)
def test_a_mutated_archive_is_taken_or_refused_in_bounded_memory(kind: str) -> None:
    for seed in range(60):
        check(kind, seed)


@given(st.sampled_from(sorted(SEEDS)), st.integers(1000, 2**32))
def test_so_are_archives_that_a_search_makes(kind: str, seed: int) -> None:
    check(kind, seed)


@given(st.sampled_from([b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"]), st.binary())
def test_so_is_any_data_that_begins_like_an_archive(head: bytes, rest: bytes) -> None:
    with bounded_memory():
        taken(head + rest)


@pytest.mark.slow
def test_the_process_that_reads_parquet_says_what_is_wrong_with_mutated_tables_or_ends() -> None:
    command = [sys.executable, "-P", "-m", "tests.unit.app.intake.parquet_fuzz", "0", "300"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=280).stdout
    ends = json.loads(said)
    assert sum(ends["how"].values()) == 300
    assert set(ends["how"]) <= {"read", "refused", "died"}
    assert ends["how"]["read"] > 10
    assert ends["how"]["refused"] > 30
    assert ends["how"].get("died", 0) < 30
    assert ends["peak"] < 320 * MIB  # the interpreter with the library, and what it may allocate
