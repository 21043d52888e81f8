"""Archives that are damaged, that lie about themselves, or that grow without measure."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.faults.inputs.bad import Bad, as_form, mutate, upload
from benchmarks.faults.inputs.images import forged as forged_images
from benchmarks.faults.inputs.images import webp_of
from benchmarks.faults.pictures import Pictures

KNOWN: Final = ("kind 0 a", "kind 0 b")
"""Classes that the service has learned: a whole archive of them is refused at last, after all of it was looked at."""
Entries = list[tuple[str, bytes]]
MIB: Final = 1 << 20


def entries(pictures: Pictures, *, images: int = 3) -> Entries:
    """Names and contents of a small sound task."""
    return [(f"{name}/{n}.png", pictures.png()) for name in KNOWN for n in range(images)]


def zipped(content: Entries, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in content:
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(content: Entries, mode: Any = "w", format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=format) as archive:
        for name, data in content:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def parquet(content: Entries, compression: str = "snappy") -> bytes:
    """A parquet file with the columns `image` and `label`."""
    table = pa.table({"image": [data for _, data in content], "label": [name.split("/")[0] for name, _ in content]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=compression)
    return buffer.getvalue()


@cache
def whole(seed: int) -> tuple[tuple[str, bytes], ...]:
    """(format, archive) of the same small task."""
    content = entries(Pictures(seed))
    return (
        ("zip, stored", zipped(content, zipfile.ZIP_STORED)),
        ("zip, deflate", zipped(content)),
        ("zip, bzip2", zipped(content, zipfile.ZIP_BZIP2)),
        ("zip, lzma", zipped(content, zipfile.ZIP_LZMA)),
        ("tar", tarred(content)),
        ("tar, GNU", tarred(content, format=tarfile.GNU_FORMAT)),
        ("tar.gz", tarred(content, "w:gz")),
        ("tar.bz2", tarred(content, "w:bz2")),
        ("tar.xz", tarred(content, "w:xz")),
        ("parquet, snappy", parquet(content)),
        ("parquet, gzip", parquet(content, "gzip")),
        ("parquet, zstd", parquet(content, "zstd")),
    )


def entry_of(name: bytes, packed: bytes, *, method: int, size: int, crc: int = 0, flags: int = 0) -> bytes:
    """A zip of one entry that says of itself what it is told to."""
    sizes = struct.pack("<III", crc, len(packed), size)
    local = b"PK\3\4" + struct.pack("<HHHHH", 20, flags, method, 0, 33) + sizes
    local += struct.pack("<HH", len(name), 0) + name + packed
    central = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, flags, method, 0, 33) + sizes
    central += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + end


def lzma_entry(data: bytes) -> bytes:
    """Data as a zip's lzma entry holds it."""
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 6}]
    properties = b"\x5d" + struct.pack("<I", 1 << 23)
    return b"\x09\x04" + struct.pack("<H", 5) + properties + lzma.compress(data, lzma.FORMAT_RAW, filters=filters)


def bombs() -> dict[str, bytes]:
    """Archives of little weight that grow to gigabytes, most of them without saying so."""
    zeros = b"\0" * (64 * MIB)
    pressed = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = (pressed.compress(zeros) + pressed.flush(zlib.Z_FULL_FLUSH)) * 16 + b"\3\0"
    stream = bz2.compress(b"\0" * (45 * MIB))
    bzipped = stream * 60
    honest, lzmaed = zlib.crc32(zeros), lzma_entry(zeros)
    made = {
        "a deflate entry of 1 GiB that says 100 bytes": entry_of(b"cat/1.png", deflated, method=8, size=100),
        "a deflate entry of 1 GiB that says 4 GiB": entry_of(b"cat/1.png", deflated, method=8, size=2**32 - 2),
        "a bzip2 entry of 2.7 GiB that says 100 bytes": entry_of(b"cat/1.png", bzipped, method=12, size=100),
        "a bzip2 entry of 45 MiB that says 100 bytes": entry_of(b"cat/1.png", stream, method=12, size=100),
        "an lzma entry of 64 MiB that says 100 bytes": entry_of(b"cat/1.png", lzmaed, method=14, size=100),
        "an lzma entry of 64 MiB": entry_of(b"cat/1.png", lzmaed, method=14, size=len(zeros), crc=honest),
        "a zip of 4 entries of 64 MiB of zeros": zipped([(f"cat/{n}.png", zeros) for n in range(4)]),
        "a tar.gz of 1 GiB": gzip.compress(_tar_head("cat/1.png", 2**30), 9) + gzip.compress(zeros, 9) * 16,
        "a tar that says 8 EiB": _tar_head("cat/1.png", 2**63 - 1) + b"x" * 1000,
        "a parquet of one value of 256 MiB": _parquet_of(b"\0" * (256 * MIB), 1),
        "a parquet of one value of 16 MiB a hundred times": _parquet_of(b"\0" * (16 * MIB), 100),
    }
    bomb = webp_of(7071, 7071)
    made["13 WebP files of 50 megapixels"] = zipped([(f"{KNOWN[n % 2]}/{n}.webp", bomb) for n in range(13)])
    made["300 WebP files of 50 megapixels"] = zipped([(f"{KNOWN[n % 2]}/{n}.webp", bomb) for n in range(300)])
    return made


def _parquet_of(value: bytes, times: int) -> bytes:
    table = pa.table({"image": pa.array([value] * times, pa.large_binary()), "label": ["cat"] * times})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=times > 1)
    return buffer.getvalue()


def _tar_head(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


NAMES: Final = (
    "../../evil/1.png", "/etc/cat/1.png", "C:\\cat\\1.png", "..\\cat\\1.png", "cat/../../1.png", "./cat/./1.png",
    "//1.png",
    "cat//1.png", "1.png", "cat/", "a" * 300 + "/1.png", "cat/" + "b" * 5000 + ".png", "a/" * 200 + "1.png", " /1.png",
    "\u200bcat/1.png", "c\u0301at/1.png", "CAT/1.png", "cat\n/1.png", "cat\x00/1.png", "\ufeffcat/1.png",
    "\U0001f98b/1.png",
    "NUL/1.png", "__MACOSX/cat/._1.png", "@eaDir/1.png", "$RECYCLE.BIN/1.png", ".git/config", "cat/1.png/2.png",
    "train/cat/1.png", "val/cat/1.png", "test/cat/1.png", "data/train/cat/1.png", "\u202ecat/1.png", "cat /1.png",
    "cat./1.png",
)  # fmt: skip


def forged(pictures: Pictures) -> dict[str, bytes]:
    """Archives that are made by hand; those of no weight."""
    sound, picture = entries(pictures), pictures.png()
    links = io.BytesIO()
    with tarfile.open(fileobj=links, mode="w") as archive:
        for kind, target in (
            (tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "cat/1.png"), (tarfile.CHRTYPE, ""),
            (tarfile.FIFOTYPE, ""),
        ):  # fmt: skip
            entry = tarfile.TarInfo(f"cat/{kind.decode()}.png")
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    gbk = "猫".encode("gbk") + b"/1.png"
    cp866 = "кот".encode("cp866") + b"/1.png"
    made = {
        "nothing": b"",
        "text": b"no archive at all" * 50,
        "an empty zip": zipped([]),
        "an empty tar": tarred([]),
        "an empty tar.gz": tarred([], "w:gz"),
        "an empty parquet": parquet([]),
        "a tar of links and devices": links.getvalue(),
        "a zip with 20000 entries": zipped([(f"c{n % 7}/{n}.png", b"") for n in range(20000)]),
        "a zip with 3000 classes": zipped([(f"class {n}/0.png", picture) for n in range(3000)]),
        "a tar with 20000 entries": tarred([(f"c{n % 7}/{n}.png", b"") for n in range(20000)]),
        "a zip within a zip": zipped([("cat/1.zip", zipped(sound)), *sound]),
        "twice the same name": tarred([*sound, sound[0]]),
        "an encrypted entry": entry_of(b"cat/1.png", picture, method=0, size=len(picture), flags=1),
        "method deflate64": entry_of(b"cat/1.png", picture, method=9, size=len(picture)),
        "method zstd": entry_of(b"cat/1.png", picture, method=93, size=len(picture)),
        "method 77": entry_of(b"cat/1.png", picture, method=77, size=len(picture)),
        "a name in GBK": entry_of(gbk, picture, method=0, size=len(picture), crc=zlib.crc32(picture)),
        "a name in cp866": entry_of(cp866, picture, method=0, size=len(picture), crc=zlib.crc32(picture)),
        "a name that is no UTF-8 and says so": entry_of(
            b"\xff\xfe/1.png", picture, method=0, size=len(picture), flags=0x800
        ),
        "a wrong checksum": entry_of(b"cat/1.png", picture, method=0, size=len(picture), crc=1),
        "a zip that says 65535 entries": zipped(sound)[:-14] + b"\xff\xff\xff\xff" + zipped(sound)[-10:],
        "only text files": zipped([("cat/readme.txt", b"hello"), ("dog/readme.txt", b"hello")]),
        "every forged image": zipped(
            [(f"{KNOWN[n % 2]}/{n}.png", data) for n, data in enumerate(forged_images().values())]
        ),
        "the same picture in two classes": zipped([(f"{KNOWN[0]}/1.png", picture), (f"{KNOWN[1]}/1.png", picture)]),
        "a parquet of other columns": _table({"picture": [picture], "class": ["cat"]}),
        "a parquet of numbers for images": _table({"image": [1, 2], "label": ["cat", "dog"]}),
        "a parquet of nulls": _table({"image": [None, picture], "label": ["cat", None]}),
        "a parquet of nested lists": _table({"image": [[[picture]]], "label": [["cat"]]}),
    }
    for name in NAMES:
        made[f"a zip with the name {name[:30]!r}"] = zipped([*sound, (name, picture)])
        made[f"a tar with the name {name[:30]!r}"] = tarred([*sound, (name.replace("\0", "\ufffd"), picture)])
    for size in (2**31 - 1, 2**20, 17):
        for place in (-8, -7, -6, -5):
            data = bytearray(parquet(sound))
            data[place : place + 4] = struct.pack("<I", size)
            made[f"a parquet whose footer says {size} at {place}"] = bytes(data[: len(data)])
    return made


def _table(columns: dict[str, list[Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


FIELDS: Final[tuple[dict[str, str], ...]] = (
    {"config": '{"k_adv": 1e9}'}, {"config": '{"k_adv": 1000000000}'}, {"config": '{"align_steps": 1000000000}'},
    {"config": '{"fusion_weight": Infinity}'}, {"config": '{"learning_rate": NaN}'},
    {"config": '{"learning_rate": 1e400}'},
    {"config": "[]"}, {"config": "{"}, {"config": '{"a":' * 3000}, {"config": '{"batch_size": ' + "9" * 5000 + "}"},
    {"config": '{"rank": -1}'}, {"config": '{"epochs": true}'}, {"config": '{"strategy": "__class__"}'}, {"name": ""},
    {"name": "x" * 100_000}, {"name": "a\u200b"}, {"template": ""}, {"template": "{}{}"}, {"template": "{0.__class__}"},
    {"template": "{" * 1000}, {"template": "%s"}, {"seed": "-1"}, {"seed": "9" * 400}, {"seed": "NaN"},
    {"extend": "perhaps"},
    {"unknown": "x" * 1000}, {"archive": "a text"},
)  # fmt: skip


def bad_archives(seed: int) -> Iterator[Bad]:
    """First every forged archive, every bomb, and every bad field; then mutations without end."""
    for what, archive in forged(Pictures(seed)).items():
        yield Bad("archive", what, upload(archive))
    for what, archive in bombs().items():
        yield Bad("archive", what, upload(archive))
    sound = dict(whole(seed))["zip, deflate"]
    for fields in FIELDS:
        yield Bad("archive", f"a sound archive with {str(fields)[:60]}", upload(sound, fields))
    yield Bad("archive", "two archives", as_form("/v1/tasks", {"name": "x"}, [("archive", "a", sound)] * 2))
    draw = random.Random(seed)
    while True:
        name, archive = draw.choice(whole(seed))
        what, changed = mutate(draw, archive)
        yield Bad("archive", f"{name}: {what}", upload(changed))
