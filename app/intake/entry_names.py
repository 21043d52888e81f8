"""Decodes the names in an archive: by what the archive says of their encoding, or as the sender says, or not at all."""

from __future__ import annotations

import codecs
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from app.errors import ArchiveError

_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075
_UNFLAGGED = "cp437"  # what zipfile reads names by that are not flagged as UTF-8; it maps all bytes
_SHOWN_NAMES, _SHOWN_CHARS = 3, 80
ENCODINGS = (
    "utf-8",
    *("gbk", "gb18030", "big5", "big5hkscs", "cp932", "shift_jis", "euc_jp", "cp949", "euc_kr"),
    *("cp437", "cp720", "cp737", "cp775", "cp850", "cp852", "cp855", "cp857", "cp858", "cp860", "cp861", "cp862"),
    *("cp863", "cp864", "cp865", "cp866", "cp869", "cp874"),
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258"),
    *("koi8_r", "koi8_u", "mac_roman", "mac_cyrillic", "mac_greek", "mac_latin2", "mac_turkish"),
    *(f"iso8859_{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)),
)
"""The encodings that a sender may name: of texts, and with ASCII among their bytes, so that slashes are slashes."""
_GUESSES = ("gbk", "big5", "cp932", "cp949", "cp866", "cp1251", "cp1252", "cp437", "cp850")
_CANONICAL = {codecs.lookup(name).name: name for name in reversed(ENCODINGS)}


class NameEncodingError(ArchiveError):
    """How the names in the archive are encoded cannot be told, or is not as the sender says.

    The extension `encodings` has what some names would read as in each encoding that fits.
    """


@dataclass(frozen=True, slots=True)
class EntryName:
    """A name as its bytes, and as text where the archive itself says how they are encoded."""

    raw: bytes
    told: str | None = None


def encoding_named(text: str) -> str:
    """Return one of `ENCODINGS` by any of its names.

    Raises:
        ValueError: it is none of them.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.:-]{0,39}", text):
        try:
            found = _CANONICAL.get(codecs.lookup(text).name)
        except LookupError:
            found = None
        if found is not None:
            return found
    raise ValueError(f"unknown encoding {text[:40]!a}; expected one of {', '.join(ENCODINGS)}")


def _encoding_or_none(text: str | None) -> str | None:
    return None if text is None else encoding_named(text)


Encoding = Annotated[
    str | None,
    AfterValidator(_encoding_or_none),
    Field(description="Encoding of the names in an archive that does not say it itself."),
]
"""A field of an upload's form."""


def zip_name(info: zipfile.ZipInfo) -> EntryName:
    """Return the name of an entry of a zip archive that `zipfile` has opened without a `metadata_encoding`."""
    if info.flag_bits & _UTF8_FLAG:
        return EntryName(info.orig_filename.encode("utf-8"), info.orig_filename)
    raw = info.orig_filename.encode(_UNFLAGGED)
    return EntryName(raw, _unicode_path(info.extra, raw))


def tar_name(name: str, *, is_utf8: bool) -> EntryName:
    """Return the name of an entry of a tar archive, from its text with what is not UTF-8 escaped as surrogates.

    `is_utf8` tells whether the archive says that it is UTF-8.
    """
    raw = name.encode("utf-8", "surrogateescape")
    return EntryName(raw, name if is_utf8 and _read(raw, "utf-8") else None)


def decode_names(names: Sequence[EntryName], encoding: str | None) -> list[str]:
    """Return the names as text.

    What the archive says of a name counts first, then that ASCII is ASCII, then `encoding`. Without one, all other
    names are UTF-8, or none is.

    Raises:
        NameEncodingError: they are not UTF-8 and there is no `encoding`, or they do not fit it.
    """
    doubtful = [name.raw for name in names if name.told is None and not name.raw.isascii()]
    chosen = encoding or "utf-8"
    wrong = next((raw for raw in doubtful if _read(raw, chosen) is None), None)
    if wrong is not None:
        guesses = _guesses(doubtful)
        shown = ", ".join(f"{guess} reads {texts[0]!r}" for guess, texts in guesses.items())
        raise NameEncodingError(
            f"the archive does not say how its names are encoded, and {wrong[:40]!r} is not {chosen}; which encoding "
            f"is it? send encoding= with the one that reads the names right ({shown or 'none of the usual ones fits'})",
            extensions={"encodings": [{"encoding": guess, "reads": texts} for guess, texts in guesses.items()]},
        )
    return [n.told if n.told is not None else n.raw.decode("ascii" if n.raw.isascii() else chosen) for n in names]


def _read(raw: bytes, encoding: str) -> str | None:
    """Return a name in an encoding, None if it does not fit or reads as characters that are in no name."""
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return None
    return None if any(unicodedata.category(char) in ("Cc", "Co") for char in text) else text


def _guesses(names: Sequence[bytes]) -> dict[str, list[str]]:
    """Return the usual encodings that all names fit, with what the first few read as, cut for showing."""
    first = list(dict.fromkeys(names))[:_SHOWN_NAMES]
    found: dict[str, list[str]] = {}
    for encoding in _GUESSES:
        texts = [text[:_SHOWN_CHARS] for raw in first if (text := _read(raw, encoding)) is not None]
        if len(texts) == len(first) and all(_read(raw, encoding) is not None for raw in names):
            found[encoding] = texts
    return found


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """Return the name in Info-ZIP's Unicode Path field, if there is one that belongs to this raw name."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        field = extra[at + 4 : at + 4 + size]
        if kind == _UNICODE_PATH and len(field) > 5 and struct.unpack_from("<BL", field) == (1, zlib.crc32(raw)):
            return _read(field[5:], "utf-8")
        at += 4 + size
    return None
