"""Names in archives that do, or do not, say how they are encoded."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping

import pytest

from app.intake.entry_names import ENCODINGS, NameEncodingError, encoding_named
from app.intake.limits import IntakeLimits
from app.intake.source import Source
from app.intake.take_in import open_source


def raw_zip(names: Mapping[bytes, bytes]) -> bytes:
    """A zip whose names are these very bytes, unflagged; each with this extra field."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (raw, extra) in enumerate(names.items()):
            info = zipfile.ZipInfo(chr(ord("a") + number) * len(raw))
            info.extra = extra
            archive.writestr(info, b"x")
    data = buffer.getvalue()
    for number, raw in enumerate(names):
        placeholder = (chr(ord("a") + number) * len(raw)).encode()
        assert data.count(placeholder) == 2
        data = data.replace(placeholder, raw)
    return data


def raw_tar(*names: bytes, kind: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind, encoding="utf-8") as archive:
        for raw in names:
            info = tarfile.TarInfo(raw.decode("utf-8", "surrogateescape"))
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    return buffer.getvalue()


def unicode_path(name: str, raw: bytes) -> bytes:
    body = struct.pack("<BL", 1, zlib.crc32(raw)) + name.encode()
    return struct.pack("<HH", 0x7075, len(body)) + body


def source(data: bytes, limits: IntakeLimits, encoding: str | None = None) -> Source:
    return open_source(io.BytesIO(data), len(data), limits, encoding=encoding)


def plain(*names: str, encoding: str) -> dict[bytes, bytes]:
    return {name.encode(encoding): b"" for name in names}


def test_utf_8_without_the_flag_is_utf_8(limits: IntakeLimits) -> None:
    assert source(raw_zip(plain("café/one.png", "猫/two.png", encoding="utf-8")), limits).labels == ("café", "猫")


def test_utf_8_with_the_flag_is_utf_8(limits: IntakeLimits) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("кот/1.png", b"x")
    assert source(buffer.getvalue(), limits, "gbk").labels == ("кот",)


@pytest.mark.parametrize(
    ("encoding", "label"), [("gbk", "猫咪"), ("cp866", "кошка"), ("cp932", "ねこ"), ("cp437", "café")]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_other_names_are_refused_with_what_they_may_read_as_until_the_encoding_is_sent(
    limits: IntakeLimits, encoding: str, label: str, kind: str
) -> None:
    raw = f"{label}/picture.png".encode(encoding)
    data = raw_zip({raw: b""}) if kind == "zip" else raw_tar(raw)
    with pytest.raises(NameEncodingError, match=r"which encoding is it\? send encoding=") as caught:
        source(data, limits)
    guesses = {row["encoding"]: row["reads"] for row in caught.value.extensions["encodings"]}
    assert guesses[encoding] == [f"{label}/picture.png"]
    assert f"{encoding} reads '{label}/picture.png'" in str(caught.value)
    assert source(data, limits, encoding).labels == (label,)


def test_no_guess_is_shown_that_does_not_fit_every_name(limits: IntakeLimits) -> None:
    with pytest.raises(NameEncodingError) as caught:
        source(raw_zip({"猫/1.png".encode("gbk"): b"", b"\xff\xff/12345.png": b""}), limits)
    assert "gbk" not in {row["encoding"] for row in caught.value.extensions["encodings"]}


def test_the_sent_encoding_must_fit_the_bytes(limits: IntakeLimits) -> None:
    with pytest.raises(NameEncodingError, match=r"is not gbk.*cp866 reads"):
        source(raw_zip(plain("кот/1.png", encoding="cp866") | {b"\x80\xff/12345.png": b""}), limits, "gbk")


def test_a_trail_byte_that_is_a_backslash_is_no_folder(limits: IntakeLimits) -> None:
    assert b"\\" in "表/1.png".encode("cp932")
    assert source(raw_zip(plain("表/1.png", encoding="cp932")), limits, "shift_jis").labels == ("表",)


def test_the_unicode_path_field_counts_if_it_belongs_to_the_name(limits: IntakeLimits) -> None:
    raw = "春/1.png".encode("gbk")
    assert source(raw_zip({raw: unicode_path("猫/1.png", raw)}), limits).labels == ("猫",)
    other = raw_zip({raw: unicode_path("猫/1.png", b"another name")})
    with pytest.raises(NameEncodingError):
        source(other, limits)
    assert source(other, limits, "gbk").labels == ("春",)


def test_an_archive_may_mix_names_that_say_their_encoding_and_plain_ones(limits: IntakeLimits) -> None:
    raw = "狗/1.png".encode("gbk")
    data = raw_zip({raw: unicode_path("猫/1.png", raw), b"dog/22.png": b"", "été/three.png".encode(): b""})
    assert source(data, limits).labels == ("dog", "été", "猫")


def test_one_name_that_is_not_utf_8_makes_all_unsaid_ones_doubtful(limits: IntakeLimits) -> None:
    # the bytes of 一 in GBK are also a letter in UTF-8
    names = plain("一/1.png", "狗狗/22.png", encoding="gbk")
    with pytest.raises(NameEncodingError):
        source(raw_zip(names), limits)
    assert source(raw_zip(names), limits, "gbk").labels == ("一", "狗狗")


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_s_utf_8_is_utf_8(limits: IntakeLimits, kind: int) -> None:
    assert source(raw_tar("猫/1.png".encode(), b"dog/2.png", kind=kind), limits).labels == ("dog", "猫")


def test_a_pax_header_says_its_encoding_unless_it_is_binary(limits: IntakeLimits) -> None:
    said = raw_tar("猫/1.png".encode(), kind=tarfile.PAX_FORMAT)
    assert source(said, limits, "cp866").labels == ("猫",)
    binary = raw_tar("狗/1.png".encode("gbk"), kind=tarfile.PAX_FORMAT)
    assert b"BINARY" in binary
    with pytest.raises(NameEncodingError):
        source(binary, limits)
    assert source(binary, limits, "gbk").labels == ("狗",)


@pytest.mark.parametrize(
    ("sent", "known"),
    [("GBK", "gbk"), ("Shift-JIS", "shift_jis"), ("latin-1", "iso8859_1"), ("866", "cp866"), ("utf8", "utf-8")],
)
def test_an_encoding_has_many_names(sent: str, known: str) -> None:
    assert encoding_named(sent) == known


@pytest.mark.parametrize(
    "sent", ["base64", "idna", "punycode", "rot13", "utf-16", "utf-7", "raw_unicode_escape", "hex", "nope", "", "../x",
             "a\0b", "x" * 100_000, "iso2022_jp", "mbcs", "undefined", "cp500"],
)  # fmt: skip
def test_what_is_no_encoding_of_names_is_refused_with_those_that_are(sent: str) -> None:
    with pytest.raises(ValueError, match=r"unknown encoding .*expected one of utf-8, gbk") as caught:
        encoding_named(sent)
    assert len(str(caught.value)) < 1200


def test_slashes_are_slashes_in_every_encoding() -> None:
    for encoding in ENCODINGS:
        assert b"cat/1.png".decode(encoding) == "cat/1.png"
